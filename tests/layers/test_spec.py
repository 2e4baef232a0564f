"""What the layers of a network have in common: specs, the ends they make, and chains of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from bcos_zoo.errors import InputError
from bcos_zoo.layers import (
    V2,
    BatchNorm2d,
    BcosConv2d,
    ConventionalSpec,
    Encode,
    GatedGELU,
    GroupNorm2d,
    LayerNorm,
    LayerSpec,
    Normalize,
    chain,
    conv_gain,
    linear_mode,
)

F64 = torch.float64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
X = torch.rand(2, 3, 5, 4, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("linear", [False, True])
def test_an_encoded_image_is_normalised_channel_by_channel(linear):
    expected = torch.empty(2, 6, 5, 4, dtype=F64)
    for c in range(3):
        expected[:, c] = (X[:, c] - MEAN[c]) / STD[c]
        expected[:, 3 + c] = ((1 - X[:, c]) - (1 - MEAN[c])) / STD[c]
    layer = Encode(mean=MEAN, std=STD)
    if linear:
        with linear_mode():
            got = layer(X).detach()
    else:
        got = layer(X)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


def test_a_normalised_inverse_is_the_negative_of_its_channel():
    colours, inverse = Encode(mean=MEAN, std=STD)(X).chunk(2, 1)
    torch.testing.assert_close(inverse, -colours, rtol=1e-12, atol=1e-14)


def test_the_linear_map_begins_at_the_image_and_the_means_are_constants():
    with linear_mode() as tape:
        y = Encode(mean=MEAN, std=STD)(X)
    assert torch.equal(tape.encodings[-1].encoded.detach(), torch.cat([X, 1 - X], 1))
    slope, share = torch.autograd.grad(y.sum(), [tape.encodings[-1].encoded, *tape.constants])
    stds = torch.tensor([*STD, *STD], dtype=F64)[:, None, None].expand_as(y)
    torch.testing.assert_close(slope, 1 / stds, rtol=1e-12, atol=0)
    (constant,) = tape.constants
    torch.testing.assert_close(
        slope * tape.encodings[-1].encoded + share * constant, y, rtol=1e-12, atol=1e-14
    )


def test_normalize_does_what_torchvisions_transform_does():
    expected = torchvision.transforms.functional.normalize(X, MEAN, STD)
    torch.testing.assert_close(Normalize(3, mean=MEAN, std=STD)(X), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("in_chans", [1, 2, 4])
def test_for_other_channels_means_and_stds_are_averaged(in_chans):
    x = torch.rand(1, in_chans, 2, 2, dtype=F64)
    expected = (x - sum(MEAN) / 3) / (sum(STD) / 3)
    torch.testing.assert_close(Normalize(in_chans, mean=MEAN, std=STD)(x), expected)
    torch.testing.assert_close(Encode(in_chans, mean=MEAN, std=STD)(x), torch.cat([expected, -expected], 1))


@pytest.mark.parametrize(
    "statistics",
    [
        dict(mean=MEAN, std=None),
        dict(mean=None, std=STD),
        dict(mean=(), std=()),
        dict(mean=MEAN, std=STD[:2]),
        dict(mean=MEAN, std=(0.2, 0.0, 0.2)),
        dict(mean=MEAN, std=(0.2, -0.2, 0.2)),
    ],
    ids=str,
)
def test_means_without_their_stds_are_refused(statistics):
    for make in (Encode, Normalize):
        with pytest.raises(InputError, match="give both, one positive std for each mean, or neither$"):
            make(3, **statistics)


def test_a_conventional_network_refuses_an_encoded_image_with_a_hint():
    layer = Normalize(3, mean=MEAN, std=STD)
    with pytest.raises(InputError, match="pass the plain image: this network sees no inverted colours"):
        layer(torch.rand(1, 6, 4, 4))
    with pytest.raises(InputError, match="in_chans=0: an image has at least one channel"):
        Normalize(0, mean=MEAN, std=STD)


def test_the_defaults_are_the_layers_of_the_v2_networks():
    assert V2 == LayerSpec()
    for layer in (V2.conv(6, 8, 3), V2.linear(6, 8), V2.attention_output(8, 8)):
        assert (layer.b, layer.max_out, layer.scale, layer.normalize) == (2, 1, 1, True)
    norm = V2.norm2d(8)
    assert isinstance(norm, BatchNorm2d) and not norm.centered and norm.eps == 1e-5
    assert isinstance(V2.token_norm(8), LayerNorm)
    assert isinstance(V2.activation(), nn.Identity)
    assert torch.equal(V2.encode(3)(X), torch.cat([X, 1 - X], 1))
    assert V2.encoded_channels(3) == 6
    logits = V2.logits(1000)
    assert (logits.bias, logits.temperature) == (-math.log(999), None)


def test_what_a_spec_says_reaches_every_layer():
    spec = LayerSpec(
        b=1.5, max_out=2, normalize=False, scale=0.3, norm="ln", norm_eps=1e-3, act="gelu",
        mean=MEAN, std=STD, logit_bias=-4.5, logit_temperature=10, dtype=torch.bfloat16,
    )  # fmt: skip
    conv = spec.conv(4, 8, (1, 7), stride=2, padding=(0, 3), groups=2)
    for layer in (conv, spec.linear(6, 8), spec.attention_output(8, 8)):
        assert (layer.b, layer.max_out, layer.scale, layer.normalize) == (1.5, 2, 0.3, False)
    inner = conv.linear
    assert (inner.kernel_size, inner.stride, inner.padding, inner.groups) == ((1, 7), (2, 2), (0, 3), 2)
    norm, tokens = spec.norm2d(8), spec.token_norm(8)
    assert isinstance(norm, GroupNorm2d) and norm.num_groups == 1 and norm.centered
    assert norm.eps == tokens.eps == 1e-3
    assert isinstance(spec.activation(), GatedGELU)
    assert spec.encode(3).mean == (*MEAN, *(1 - m for m in MEAN))
    logits = spec.logits(1000)
    assert (logits.bias, logits.temperature) == (-4.5, 10)
    assert spec.projection(4, 12).bias is None
    made = (conv, spec.linear(6, 8), spec.projection(4, 12), norm, tokens)
    assert {p.dtype for layer in made for p in layer.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("kernel", "channels", "factor", "printed"),
    [
        (
            7,
            6,
            100,
            0.171464,
        ),  # the first convolutions of ResNet and DenseNet, as the official v1 code has them,
        (3, 6, 200, 0.0367423),  # of Inception
        (3, 6, 1000, 0.00734847),  # and of VGG
        ((1, 7), 128, 200, math.sqrt(7 * 128) / 200),
    ],
)
def test_a_scale_factor_divides_by_the_size_of_each_convolution(kernel, channels, factor, printed):
    conv = LayerSpec(scale_factor=factor).conv(channels, 4, kernel)
    assert conv.scale == pytest.approx(printed, rel=2e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(scale=0.5, scale_factor=100), "scale=0.5, scale_factor=100: give one of the two"),
        (dict(norm="batch"), "no norm named 'batch'; known: .*bnu.*, or 'none' for no norm"),
        (dict(act="swish"), "no activation named 'swish'; known: 'relu', 'gelu', or None"),
        (dict(b=0), "b=0: a B-cos layer needs b >= 1"),
        (dict(max_out=0), "max_out=0: allowed are 1"),
        (dict(mean=MEAN), "give both, one positive std for each mean, or neither"),
        (dict(logit_temperature=0), "temperature=0: logits are divided by it"),
    ],
    ids=str,
)
def test_a_spec_without_a_meaning_is_refused(options, message):
    spec = LayerSpec(**options)
    with pytest.raises(InputError, match=message) as error:
        spec.encode(3)
        spec.conv(6, 4, 3)
        spec.norm2d(4)
        spec.activation()
        spec.logits(10)
    assert "\n" not in str(error.value)


def test_no_norm_is_the_identity():
    assert isinstance(LayerSpec(norm="none").norm2d(4), nn.Identity)


def test_a_conventional_spec_has_biases_where_such_networks_have_them():
    spec = ConventionalSpec(norm_eps=1e-6, dtype=F64)
    made = (spec.conv(3, 4, 3, stride=2, padding=1), spec.linear(3, 4), spec.norm2d(4), spec.token_norm(4))
    assert all(layer.bias is not None and layer.bias.dtype == F64 for layer in made)
    assert made[2].eps == made[3].eps == 1e-6
    assert spec.projection(4, 12).bias is None and spec.attention_output(4, 4).bias is None
    assert isinstance(spec.activation(), nn.GELU) and isinstance(spec.logits(10), nn.Identity)
    assert spec.encoded_channels(3) == 3
    assert torch.equal(spec.encode(3)(X), Normalize(3, mean=MEAN, std=STD)(X))


def settled(*modules: nn.Module) -> nn.Sequential:
    """In eval mode and float64, norms with gains of either sign."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(*modules).double().eval()
    for value in (*net.parameters(), *net.buffers()):
        if value.is_floating_point():
            value.data.copy_(torch.randn(value.shape, dtype=F64, generator=generator))
    for module in net.modules():
        if isinstance(module, BatchNorm2d):
            module.running_var.square_().add_(0.1)
    return net


CHAINS: dict[str, Any] = {
    "norms behind convolutions": lambda: settled(
        BcosConv2d(3, 4, 3, padding=1), BatchNorm2d(4), nn.ReLU(), BcosConv2d(4, 4, 1, b=1), BatchNorm2d(4)
    ),
    "a norm ahead, and a convolution last": lambda: settled(
        BatchNorm2d(3), nn.ReLU(), BcosConv2d(3, 4, 1), nn.AvgPool2d(2), BcosConv2d(4, 2, 1)
    ),
    "convolutions behind each other": lambda: settled(
        BcosConv2d(3, 4, 1), BcosConv2d(4, 4, 1), BatchNorm2d(4), BatchNorm2d(4)
    ),
    "what does not fold": lambda: settled(
        BcosConv2d(3, 4, 1, b=1.5), BatchNorm2d(4), BcosConv2d(4, 4, 1, max_out=2), BatchNorm2d(4),
        BcosConv2d(4, 4, 1), BatchNorm2d(4, centered=True), BcosConv2d(4, 4, 1), GroupNorm2d(4, 2),
    ),
    "nothing": lambda: settled(),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_its_modules_one_after_the_other(name):
    net = CHAINS[name]()
    maps = []
    for run in (net, lambda x: chain(net, x)):
        x = X.clone().requires_grad_()
        with torch.no_grad():
            torch.testing.assert_close(run(X), net(X), rtol=1e-12, atol=1e-14)
        with linear_mode(freeze_parameters=True):
            maps.append(torch.autograd.grad(run(x).square().sum() / 2, x)[0])
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-11, atol=1e-13)


def test_a_chain_learns_as_its_modules_do():
    net = CHAINS["norms behind convolutions"]().train()
    one = torch.autograd.grad(net(X).square().sum(), list(net.parameters()))
    other = torch.autograd.grad(chain(net, X).square().sum(), list(net.parameters()))
    for got, expected in zip(other, one, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


GAIN = torch.tensor([1.5, -0.7, 0.0, 2.0], dtype=F64)[:, None, None]


@pytest.mark.parametrize(
    "layer", [dict(), dict(b=1), dict(normalize=False, scale=2.0), dict(b=2.5), dict(max_out=2)]
)
def test_a_gain_multiplies_each_channel_however_it_gets_there(layer):
    (conv,) = settled(BcosConv2d(3, 4, 3, padding=1, **layer))
    maps = []
    for run in (lambda x: conv(x) * GAIN, lambda x: conv_gain(conv, GAIN, x)):
        x = X.clone().requires_grad_()
        with torch.no_grad():
            torch.testing.assert_close(run(X), conv(X) * GAIN, rtol=1e-12, atol=1e-14)
        with linear_mode(freeze_parameters=True):
            maps.append(torch.autograd.grad(run(x).square().sum() / 2, x)[0])
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-11, atol=1e-13)


def test_a_gain_that_learns_gets_its_gradient():
    (conv,) = settled(BcosConv2d(3, 4, 3))
    gain = GAIN.clone().requires_grad_()
    (got,) = torch.autograd.grad(conv_gain(conv, gain, X).sum(), gain)
    expected: Tensor = conv(X).sum((0, 2, 3)).detach()
    torch.testing.assert_close(got.flatten(), expected, rtol=1e-12, atol=1e-14)
