"""The B-cos layers of conversions against a formula written patch by patch (`slow_layers`)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import assert_close
from slow_layers import SlowConv, SlowLinear
from timm.layers import Conv2dSame, Linear, ScaledStdConv2d, StdConv2d, StdConv2dSame
from torch import Tensor, nn

from bcos_zoo.conversion import as_bcos
from bcos_zoo.layers import BcosConv2d, linear_mode

CONVS = [
    dict(kernel_size=3, padding=1),
    dict(kernel_size=3, stride=2, padding=1, groups=2),
    dict(kernel_size=(3, 2), stride=(1, 2), padding=(2, 1), dilation=(1, 2), bias=False),
    dict(kernel_size=3, padding=1, groups=6),
    dict(kernel_size=1),
]


def maps(*shape: int) -> Tensor:
    return torch.randn(*(shape or (2, 6, 9, 8)), dtype=torch.float64)


@pytest.mark.parametrize("rows", ["plain", "unit", "published"])
@pytest.mark.parametrize("b", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("options", CONVS, ids=str)
def test_a_convolution_is_the_formula_patch_by_patch(options: Any, b: float, rows: Any) -> None:
    conv, x = nn.Conv2d(6, 12, **options).double(), maps()
    expected = SlowConv(conv, b, rows)(x)
    assert_close(as_bcos(conv, b=b, rows=rows)(x), expected, 1e-10)


@pytest.mark.parametrize("size", [7, 8, 9])
@pytest.mark.parametrize("b", [1.0, 2.0])
def test_the_patch_norm_sees_the_padding_that_an_image_size_demands(size: int, b: float) -> None:
    conv, x = Conv2dSame(6, 4, 3, stride=2).double(), maps(2, 6, size, size + 1)
    expected = SlowConv(conv, b)(x)
    assert_close(as_bcos(conv, b=b)(x), expected, 1e-10)


@pytest.mark.parametrize("rows", ["plain", "unit", "published"])
@pytest.mark.parametrize("b", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("kind", [nn.Linear, Linear])
def test_a_linear_layer_is_the_formula(kind: Any, b: float, rows: Any) -> None:
    linear, x = kind(6, 5).double(), maps(2, 7, 6)
    expected = SlowLinear(linear, b, rows)(x)
    assert_close(as_bcos(linear, b=b, rows=rows)(x), expected, 1e-10)


@pytest.mark.parametrize("kind", [StdConv2d, StdConv2dSame, ScaledStdConv2d])
def test_standardised_weights_are_the_rows(kind: Any) -> None:
    """At B = 1 the class's own forward; at B = 2 that of a plain convolution with those weights."""
    conv, x = kind(6, 8, 3).double(), maps()
    plain = conv(x)
    eye = nn.functional.unfold(torch.eye(54, dtype=torch.float64).view(54, 6, 3, 3), 3)[..., 0]
    same = nn.Conv2d(6, 8, 3, padding=1).double()
    bias = 0 if conv.bias is None else conv.bias[:, None, None]
    with torch.no_grad():
        weights = (conv(eye.view(54, 6, 3, 3)) - bias)[:, :, 1, 1].T
        same.weight.copy_(weights.reshape(8, 6, 3, 3))
        same.bias.copy_(torch.zeros(8) if conv.bias is None else conv.bias)
    assert_close(as_bcos(conv, b=1)(x), plain, 1e-10)
    conv.b = 2.0
    assert_close(conv(x), SlowConv(same, 2.0)(x), 1e-10)


def test_the_published_form_is_that_of_the_layer_without_normalised_rows() -> None:
    conv, x = nn.Conv2d(6, 5, 3, padding=1, bias=False).double(), maps()
    ours = BcosConv2d(6, 5, 3, padding=1, normalize=False).double()
    ours.linear.weight = conv.weight
    assert_close(as_bcos(conv, rows="published")(x), ours(x), 1e-12)


def test_in_linear_mode_factors_are_held_and_the_bias_is_a_constant() -> None:
    conv, x = as_bcos(nn.Conv2d(6, 5, 3).double()), maps().requires_grad_()
    plain = conv(x)
    with linear_mode(freeze_parameters=True) as tape:
        y = conv(x)
    assert_close(y, plain, 1e-12)
    found = torch.autograd.grad(y.sum(), [x, *tape.constants])
    explained = sum((g * c).sum() for g, c in zip(found, [x, *tape.constants], strict=True))
    assert_close(explained, y.sum(), 1e-12)
    assert_close((found[1] * tape.constants[0]).sum(), 2 * y[0, 0].numel() * conv.bias.detach().sum(), 1e-12)


@pytest.mark.parametrize("b", [1.0, 2.0])
def test_a_zero_patch_and_a_zero_row_give_the_bias(b: float) -> None:
    conv = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        conv.weight[1].zero_()
    conv = as_bcos(conv, b=b)
    assert torch.equal(conv(torch.zeros(1, 3, 3, 3)).flatten(), conv.bias)
    assert torch.equal(conv(torch.rand(1, 3, 3, 3))[0, 1].flatten(), conv.bias[1:2])


def test_a_layer_of_another_class_is_left_alone() -> None:
    class Own(nn.Linear):
        pass

    layer = Own(2, 2)
    assert type(as_bcos(layer)) is Own
