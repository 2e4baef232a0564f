"""The warning about what is not explained: it comes where something is not, and says how much."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from conftest import images, network
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo.layers import BcosConv2d, BcosLinear, Encode, LogitLayer


class Tiny(nn.Module):
    """inside: between the layers. factor: of the image's part in the logits."""

    def __init__(self, inside: nn.Module, factor: float = 1.0, bias: float | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encode, self.conv, self.inside = Encode(), BcosConv2d(6, 8, 3, padding=1), inside
        self.linear, self.logits, self.factor = BcosLinear(8, 10, b=1), LogitLayer(10, bias=bias), factor

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(self.inside(self.conv(self.encode(x))).mean((2, 3)))
        return self.logits(self.factor * y)


def share_warned(model: nn.Module, x: Tensor, targets: Any, **options: Any) -> float:
    """What the warning says, 0 if there is none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bcos_zoo.explain(model, x, targets, **options)
    texts = [str(warning.message) for warning in caught]
    assert len(texts) < 2
    return (
        float(re.findall(r"up to ([\d.]+)% of an output is not explained", texts[0])[0]) / 100 if texts else 0
    )


def offset_conv(value: float) -> nn.Module:
    """A convolution that hands its input on, and adds a bias that no tape knows."""
    conv = nn.Conv2d(8, 8, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(8)[:, :, None, None])
        conv.bias.fill_(value)
    return conv


def norm_with_bias(value: float) -> nn.Module:
    norm = nn.BatchNorm2d(8)
    with torch.no_grad():
        norm.running_mean.fill_(-value)
        norm.bias.zero_()
    return norm


@pytest.mark.parametrize("factor", [2e-2, 1.0, 1e4])
@pytest.mark.parametrize("make", [offset_conv, norm_with_bias])
@pytest.mark.parametrize("value", [0.01, 0.1, 1.0])
def test_the_share_is_of_what_the_image_adds_not_of_the_constants(
    make: Any, value: float, factor: float
) -> None:
    """Oracle: the logit with and without the offset. The constant of -2.2 is no part of it."""
    x = images(1)
    with torch.no_grad():
        whole, without = (Tiny(make(v), factor, bias=0.0).double().eval()(x.double())[0] for v in (value, 0))
    expected = (whole - without).abs() / ((whole - without).abs() + without.abs())
    for target in (0, 5):
        for bias in (0.0, -2.2):
            got = share_warned(Tiny(make(value), factor, bias=bias).eval(), x, target)
            assert got == pytest.approx(float(expected[target]), rel=0.1, abs=6e-4)


@pytest.mark.parametrize("bias", [0.0, -2.2, -50.0])
def test_where_all_of_the_added_part_is_unexplained_it_says_so(bias: float) -> None:
    """A sigmoid of a nearly constant input is half a constant: next to nothing of it follows the image."""
    inside = nn.Sequential(offset_conv(12.0), nn.Sigmoid())
    assert share_warned(Tiny(inside, bias=bias).eval(), images(1), 0) > 0.95


def test_a_sigmoid_between_layers_is_told_by_its_finite_difference() -> None:
    """Oracle: the explained part of sigmoid(z) is z times its slope, what is more is not."""
    model, x = Tiny(nn.Sigmoid(), bias=-2.2).double().eval(), images(1).double()
    with bcos_zoo.linear_mode():
        z = model.conv(model.encode(x))
    s = z.sigmoid()

    def logit(y: Tensor) -> Tensor:
        return model.linear(y.mean((2, 3)))[0]

    explained, whole = logit(z * s * (1 - s)), logit(s)
    gap = (whole - explained).abs()
    expected = gap / (gap + explained.abs())
    got = [share_warned(model, x, target) for target in range(10)]
    assert got == pytest.approx(expected.tolist(), rel=0.1)


@pytest.mark.parametrize("inside", [nn.ReLU(), nn.LeakyReLU(), nn.MaxPool2d(2), nn.Identity()])
@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1.0, 1e6])
def test_what_is_piecewise_linear_is_explained_at_any_size(inside: nn.Module, factor: float) -> None:
    for bias in (-2.2, -50.0, 0.0):
        model = Tiny(inside, factor, bias=bias).eval()
        for output in ("logit", "relative", "sigmoid"):
            assert share_warned(model, images(), [0, 3, 7], output=output) == 0


@pytest.mark.parametrize("name", ["bcos_resnet20", "bcos_convnext_atto", "bcos_simple_vit_ti_patch16_224"])
def test_rounding_is_no_gap_untrained_or_not(name: str) -> None:
    for model in (bcos_zoo.create_model(name), network(name)):
        x = images(2, like=model)
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            for output in ("logit", "relative"):
                assert share_warned(model, x, [3, 7], output=output, dtype=dtype) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_still_tells_a_gap(dtype: torch.dtype) -> None:
    assert share_warned(Tiny(offset_conv(1.0), 20.0).eval(), images(1), 0, dtype=dtype) > 0.5


def test_the_parts_of_a_batch_are_measured_each_by_itself() -> None:
    model = Tiny(offset_conv(0.5)).eval()
    x = images(3)
    x[1] = x[1] * 0.2
    alone = max(share_warned(model, image[None], [0, 1]) for image in x)
    for max_batch in (None, 1, 2):
        assert share_warned(model, x, [0, 1], max_batch=max_batch) == pytest.approx(alone, abs=2e-3)
