"""Depthwise convolutions: torch's numbers and gradients, wherever ours are taken."""

from __future__ import annotations

import copy
import itertools

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import bcos_zoo
from bcos_zoo.conversion.layers import DepthwiseConv2d
from bcos_zoo.layers import BcosConv2d, depthwise, fast_ways
from bcos_zoo.layers._switch import training_step

GEOMETRIES = [
    (kernel, stride, padding, dilation)
    for kernel, stride, padding, dilation in itertools.product(
        [(3, 3), (5, 2), (7, 7)], [(1, 1), (2, 2), (3, 1)], [(0, 0), (1, 2), (4, 3)], [(1, 1), (2, 1)]
    )
]


def both(kernel, stride, padding, dilation, dtype=torch.float64, layout=torch.channels_last):
    """Output and gradients of torch's own convolution, and of ours; of values that bfloat16 has, too."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 14, 15, generator=generator).bfloat16().to(dtype).contiguous(memory_format=layout)
    weight = torch.randn(4, 1, *kernel, generator=generator).bfloat16().to(dtype)
    for function in (F.conv2d, depthwise.conv2d):
        own = [one.clone().requires_grad_() for one in (x, weight)]
        bias = (None,) if function is F.conv2d else ()
        y = function(*own, *bias, stride, padding, dilation, 4)
        gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(dtype)
        yield y, *torch.autograd.grad(y, own, gradient)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_torch(geometry, layout):
    theirs, ours = both(*geometry, layout=layout)
    assert type(ours[0].grad_fn).__name__ == "_DepthwiseBackward"
    assert torch.equal(theirs[0], ours[0])
    for expected, got in zip(theirs[1:], ours[1:], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_bfloat16_is_no_further_from_the_truth_than_torch_is():
    geometry = (7, 7), (2, 2), (3, 3), (1, 1)
    exact, _ = both(*geometry)
    theirs, ours = both(*geometry, dtype=torch.bfloat16)
    for truth, expected, got in zip(exact[1:], theirs[1:], ours[1:], strict=True):
        assert got.dtype == torch.bfloat16
        scale = truth.abs().max()
        assert (got.double() - truth).abs().max() < 0.01 * scale
        assert (got.double() - truth).abs().max() < 1.5 * (
            expected.double() - truth
        ).abs().max() + 1e-3 * scale


def test_second_derivatives_and_batched_gradients():
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 3, 3, dtype=torch.float64, requires_grad=True)

    def ours(x, weight):
        return depthwise.conv2d(x, weight, (2, 2), (1, 1), (1, 1), 3)

    assert torch.autograd.gradcheck(ours, (x, weight), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(ours, (x, weight))


def test_transforms_of_torch_func_see_torchs_own():
    weight = torch.randn(3, 1, 3, 3, dtype=torch.float64)
    x = torch.randn(3, 6, 6, dtype=torch.float64)
    ours = torch.func.jacrev(lambda x: depthwise.conv2d(x[None], weight, (2, 2), (1, 1), (1, 1), 3)[0])(x)
    theirs = torch.func.jacrev(lambda x: F.conv2d(x[None], weight, None, 2, 1, 1, 3)[0])(x)
    torch.testing.assert_close(ours, theirs)


def test_autocast_and_the_switch():
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    weight = torch.randn(4, 1, 3, 3, requires_grad=True)
    geometry = (2, 2), (1, 1), (1, 1), 4
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise.conv2d(x, weight, *geometry)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32
    with fast_ways(False, "depthwise"):
        assert "Convolution" in type(depthwise.conv2d(x, weight, *geometry).grad_fn).__name__


def plain(x, weight):
    return F.conv2d(x, weight, None, 2, 1, 1, 4)


def ours(x, weight):
    return depthwise.conv2d(x, weight, (2, 2), (1, 1), (1, 1), 4)


def test_compiled_transforms_and_training_steps_give_torchs_gradients():
    x, weight = torch.randn(2, 4, 8, 8), torch.randn(4, 1, 3, 3, requires_grad=True)
    expected = torch.func.grad(lambda x: plain(x, weight).square().sum())(x)
    compiled = torch.compile(torch.func.grad(lambda x: ours(x, weight).square().sum()), backend="eager")
    torch.testing.assert_close(compiled(x), expected)
    step = torch.compile(ours, backend="aot_eager", fullgraph=True)
    with training_step():
        y = step(x.requires_grad_(), weight)
    assert torch.equal(y, plain(x, weight))
    got = torch.autograd.grad(y.square().sum(), [x, weight])
    for one, other in zip(
        got, torch.autograd.grad(plain(x, weight).square().sum(), [x, weight]), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_an_export_holds_the_plain_convolution():
    conv = DepthwiseConv2d(4, 4, 3, groups=4)
    for strict in (False, True):
        program = torch.export.export(conv, (torch.rand(1, 4, 8, 8),), strict=strict)
        called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        assert called == ["aten.conv2d.default"]


def test_autocast_leaves_float64_and_gradients_alone():
    x, weight = torch.randn(2, 4, 8, 8).double().requires_grad_(), torch.randn(4, 1, 3, 3).double()
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x, weight).dtype == plain(x, weight).dtype == torch.float64
    x, weight = x.detach().float().requires_grad_(), weight.float()
    y = ours(x, weight).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        (got,) = torch.autograd.grad(y, x)
    torch.testing.assert_close(got, torch.autograd.grad(plain(x, weight).square().sum(), x)[0])


def test_a_layer_with_a_bias_is_torchs_in_half_precision_too():
    layer = DepthwiseConv2d(4, 4, 3, groups=4, padding=1).bfloat16()
    theirs = nn.Conv2d(4, 4, 3, groups=4, padding=1).bfloat16()
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 8, 8).bfloat16()
    found = []
    for one in (layer, theirs):
        y = one(x)
        found.append([y, *torch.autograd.grad(y.float().sum(), one.parameters())])
        with torch.no_grad():
            assert torch.equal(one(x), y)
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", ["bcos_convnext_atto", "mobilenetv3_small_050"])
def test_a_networks_gradients_are_the_same_either_way(name):
    torch.manual_seed(0)
    made = timm.create_model(name) if name.startswith("bcos") else bcos_zoo.bcosify(name, centring="fading")
    made = made.double().train()
    x = torch.rand(4, 3, 64, 64, dtype=torch.float64)
    gradients = []
    for on in (False, True):
        network = copy.deepcopy(made)
        with fast_ways(on, "depthwise"):
            network(x).square().sum().backward()
        gradients.append({key: one.grad for key, one in network.named_parameters()})
    assert any(one is not None for one in gradients[0].values())
    for key, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], expected, rtol=1e-7, atol=1e-9)


def test_layers_of_a_converted_network_are_torchs_to_whoever_asks():
    network = bcos_zoo.bcosify("tf_efficientnet_lite0").network
    depthwise_layers = [one for one in network.modules() if isinstance(one, nn.Conv2d) and one.groups > 1]
    assert len(depthwise_layers) == 16
    x = torch.rand(1, 3, 64, 64)
    original = timm.create_model("tf_efficientnet_lite0")
    assert network.state_dict().keys() == original.state_dict().keys()
    first, theirs = network.blocks[1][0].conv_dw, original.blocks[1][0].conv_dw
    theirs.load_state_dict(first.state_dict())
    x = torch.rand(1, first.in_channels, 15, 15)
    assert torch.equal(first(x), theirs(x))
    features = create_feature_extractor(network, {"blocks.1": "map"})
    called = [node.target for node in features.graph.nodes if node.op == "call_module"]
    assert sum("conv_dw" in str(one) for one in called) == 16


def test_a_b_cos_layer_that_is_depthwise():
    layer = BcosConv2d(8, 8, 5, stride=2, padding=2, groups=8).double()
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64, requires_grad=True)
    found = []
    for on in (False, True):
        with fast_ways(on):
            y = layer(x)
            found.append(torch.autograd.grad(y.square().sum(), [x, layer.weight]))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected)
