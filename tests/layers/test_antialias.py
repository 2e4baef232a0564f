"""A blur ahead of strides: what it computes, where it stands, and that explanations stay exact."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import gap, images, network
from torch import nn

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.layers import BcosConv2d, fast_ways
from bcos_zoo.layers.antialias import Blur, average_pool

WITH_STRIDES = [
    "bcos_resnet18",
    "bcos_resnet20",
    "bcos_resnext50_32x4d",
    "bcos_densenet121",
    "bcos_vgg11_bnu",
    "bcos_convnext_tiny",
    "bcos_inception_v3",
    "bcos_vitc_ti_patch1_14",
    "bcos_resnet50_clip",
]


def binomial(x: torch.Tensor, taps: int, stride: int) -> torch.Tensor:
    """A blur written pixel by pixel: rows of Pascal's triangle, the outermost pixels going on."""
    row = [1.0]
    for _ in range(taps - 1):
        row = [a + b for a, b in zip([0.0, *row], [*row, 0.0], strict=True)]
    weights = [value / 2 ** (taps - 1) for value in row]
    height, width = x.shape[-2:]
    out = torch.zeros(*x.shape[:-2], -(-height // stride), -(-width // stride), dtype=x.dtype)
    for i in range(out.shape[-2]):
        for j in range(out.shape[-1]):
            for down, v in enumerate(weights):
                for across, w in enumerate(weights):
                    y = min(max(i * stride + down - taps // 2, 0), height - 1)
                    z = min(max(j * stride + across - taps // 2, 0), width - 1)
                    out[..., i, j] += v * w * x[..., y, z]
    return out


@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (5, 8)])
def test_it_is_the_binomial_filter(taps, stride, size):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    blur = Blur(taps, stride).double()
    torch.testing.assert_close(blur(x), binomial(x, taps, stride))
    torch.testing.assert_close(blur(x[0]), binomial(x[0], taps, stride))
    assert blur(x[:0]).shape[0] == 0


@pytest.mark.parametrize("kernel, padding", [(1, 0), (3, 1), (7, 3)])
@pytest.mark.parametrize("fast", [True, False])
def test_a_padded_convolution_blurs_and_then_has_no_stride(kernel, padding, fast):
    """Against the layer's formula, over windows cut out by hand."""
    conv = BcosConv2d(3, 4, kernel, stride=2, padding=padding, antialias="blur").double().eval()
    x = torch.rand(2, 3, 9, 8, dtype=torch.float64)
    patches = F.unfold(binomial(x, 3, 2), kernel, padding=padding)  # (N, K k k, L)
    rows = F.normalize(conv.linear.weight.detach().flatten(1), dim=1)
    response = torch.einsum("ok,nkl->nol", rows, patches)
    norms = (patches.square().sum(1, keepdim=True) + 1e-6).sqrt()
    expected = response * ((response / norms).abs() + 1e-6)
    with fast_ways(fast), torch.no_grad():
        got = conv(x).flatten(2)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_an_unpadded_layer_keeps_its_stride_and_its_size():
    x = torch.rand(1, 3, 12, 15)
    plain, blurred = (BcosConv2d(3, 4, 4, stride=4, antialias=way) for way in (None, "blur"))
    assert blurred(x).shape == plain(x).shape and blurred.linear.stride == (4, 4)
    assert average_pool(2, 2, antialias="blur")(x).shape == nn.AvgPool2d(2)(x).shape


@pytest.mark.parametrize("name", WITH_STRIDES)
def test_networks_keep_their_names_and_sizes_and_explain_exactly(name):
    blurred, plain = network(name, antialias="blur").double(), network(name).double()
    assert {k: v.shape for k, v in blurred.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
    x = images(2, 65, 63, like=plain).double()
    with torch.no_grad():
        for one, other in zip(features(blurred, x), features(plain, x), strict=True):
            assert one.shape == other.shape
    assert gap(bcos_zoo.explain(blurred, x)) < 1e-9


def features(model, x):
    return model.forward_intermediates(x, intermediates_only=True)


def test_a_shift_by_one_pixel_changes_less():
    """What it is for (Zhang 2019), on stripes as fine as the stride."""
    x = (torch.arange(32) % 2).double().expand(1, 3, 32, 32)
    moved = x.roll(1, -1)
    changes = {}
    for way in (None, "blur"):
        torch.manual_seed(0)
        conv = BcosConv2d(3, 8, 3, stride=2, padding=1, antialias=way).double()
        with torch.no_grad():
            a, b = (conv(image)[..., 2:-2, 2:-2] for image in (x, moved))
        changes[way] = float((a - b).norm() / a.norm())
    assert changes["blur"] < 1e-9 < 0.1 < changes[None]


def test_built_without_memory_it_blurs_all_the_same():
    model = network("bcos_resnet20", antialias="blur")
    again = timm.create_model("bcos_resnet20", antialias="blur", device="meta").eval()
    again.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    x = images(2)
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


def test_an_exported_network_is_blurred_again(tmp_path):
    model = network("bcos_resnet20", antialias="blur")
    bcos_zoo.export(bcos_zoo.Classifier(model, [str(i) for i in range(10)]), tmp_path / "out")
    again = bcos_zoo.load(tmp_path / "out").model
    x = images(2)
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


def test_what_has_no_strides_says_so():
    with pytest.raises(
        InputError, match="antialias='blur': bcos_simple_vit_ti_patch16_224 has no layer with a"
    ):
        timm.create_model("bcos_simple_vit_ti_patch16_224", antialias="blur")
    with pytest.raises(InputError, match="antialias='box': allowed are 'blur', and None"):
        timm.create_model("bcos_resnet18", antialias="box")
    with pytest.raises(InputError, match="stride of 5 x 5; allowed are equal ones up to 4"):
        BcosConv2d(3, 4, 5, stride=5, antialias="blur")


@pytest.mark.parametrize("taps, stride", [(3, 1), (3, 2), (5, 4)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_compiled_it_gives_the_same_and_so_does_its_gradient(taps, stride, memory):
    """In channels_last, too, where the compiler's gradient of `F.pad(mode="replicate")` fails."""
    blur = Blur(taps, stride)
    x = torch.rand(2, 16, 9, 8).to(memory_format=memory).requires_grad_()
    plain = binomial(x, taps, stride)
    weights = torch.rand_like(plain)
    torch.autograd.backward(plain, weights)
    expected, x.grad = x.grad, None
    compiled = torch.compile(lambda x: blur(x.sin().asin()))(x)
    torch.autograd.backward(compiled, weights)
    torch.testing.assert_close(compiled, plain)
    torch.testing.assert_close(x.grad, expected)
