"""Fading norms: all of the mean to begin with, none in the end; and constants that are taken away."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from conftest import assert_close
from networks import images, normalised, original
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo.conversion.fading import FadingBatchNorm1d, FadingBatchNorm2d
from bcos_zoo.conversion.norms import fade
from bcos_zoo.layers import fast_ways


def fading_norm(share: float) -> Any:
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    holder = nn.Sequential(norm)
    fade(holder)
    norm.share.fill_(share)
    return norm


def lowered(norm: Any, x: Tensor, share: float) -> Tensor:
    """What a norm gives in training, by its formula, in float64."""
    dims, at = [0, *range(2, x.ndim)], (-1, *[1] * (x.ndim - 2))
    mean, var = x.mean(dims), x.var(dims, correction=0)
    y = (x - share * mean.view(at)) / (var + norm.eps).sqrt().view(at)
    return y * norm.weight.view(at) + norm.bias.view(at)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "levit_128s", "densenet121"])
def test_fading_norms_leave_the_function_as_it_was_and_can_lose_all_constants(name: str) -> None:
    source, x = original(name), images(name)
    model = bcos_zoo.bcosify(source, b=1, centring="fading")
    with torch.no_grad():
        assert_close(model(x), source(normalised(source, x)), 1e-9)
    e = bcos_zoo.explain(model, x, [0, 3])
    assert e.completeness().abs().max() < 1e-9 * (e.logits.abs().amax() + e.bias.abs().amax())
    fading = model.conversion["plan"]["fading"]
    assert fading
    assert not model.drop_constants()  # while there are any
    model.scale_constants(0.0)
    before = bcos_zoo.explain(model, x, [0, 3])
    assert before.bias.abs().max() < 1e-9 * e.bias.abs().max()
    assert model.drop_constants() and not model.biases and not any(model.constants())
    again = timm.create_model("bcos_converted", **model.build_arguments).double().eval()
    again.load_state_dict(model.state_dict())
    for one in (model, again):
        assert_close(bcos_zoo.explain(one, x, [0, 3]).weights, before.weights, 1e-12)
    training = [one.train()(x.requires_grad_()) for one in (model, again)]
    assert_close(*training, 1e-12)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (6, 4, 5, 3)])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_short_way_through_a_fading_norm_is_the_formula(
    share: float, shape: tuple[int, ...], affine: bool
) -> None:
    kind = FadingBatchNorm2d if len(shape) == 4 else FadingBatchNorm1d
    norm: Any = kind(4, affine=affine, momentum=0.3).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    norm.share = torch.tensor(share)
    x = (3 * torch.randn(shape, dtype=torch.float64) + 2).requires_grad_()
    probe = torch.randn(shape, dtype=torch.float64)
    found = []
    for on in (False, True):
        own = copy.deepcopy(norm).train()
        with fast_ways(on, "statistics"):
            y = own(x)
        gradients = torch.autograd.grad((probe * y).sum(), [x, *own.parameters()])
        found.append([y, *gradients, *(own.state_dict()[key].double() for key in own.state_dict())])
    assert type(y.grad_fn).__name__ == "_FadedBackward"
    for expected, got in zip(*found, strict=True):
        assert_close(got, expected, 1e-10)


def test_the_short_way_through_a_fading_norm_can_be_differentiated_twice() -> None:
    norm: Any = FadingBatchNorm2d(3).double().train()
    norm.share = torch.tensor(0.25)
    x = torch.randn(3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(norm, (x,))
    assert torch.autograd.gradcheck(norm, (x,))


def test_means_far_from_zero_cost_the_short_way_no_precision() -> None:
    norm: Any = FadingBatchNorm2d(4).train()
    norm.share = torch.tensor(0.0)
    x = (torch.randn(8, 4, 16, 16) + 20).bfloat16()
    probe, gradients = torch.randn(x.shape), []
    for dtype in (torch.float64, torch.bfloat16):
        own = x.to(dtype).requires_grad_()
        made = copy.deepcopy(norm).double() if dtype == torch.float64 else norm
        (gradient,) = torch.autograd.grad((made(own).double() * (1 + probe)).sum(), own)
        gradients.append(gradient.double())
    exact, got = gradients
    assert (got - exact).abs().max() < 0.01 * exact.abs().max()
    lost = (got - exact).sum((0, 2, 3)).abs() / exact.abs().sum((0, 2, 3))
    assert lost.max() < 0.005


def test_a_pruned_network_loses_its_constants_too() -> None:
    model = bcos_zoo.bcosify("test_efficientnet", centring="fading").eval()
    model.prune_intermediate_layers(1)
    model.scale_constants(0.0)
    assert model.drop_constants() and not any(model.constants())


def test_norms_of_factors_go_on_fading() -> None:
    model = bcos_zoo.bcosify("levit_128s", centring="fading").eval()
    model.scale_constants(0.0)
    assert model.drop_constants() and model.plan.fading
    assert model.conversion["centring"] == "fading" and model.conversion["norms_uncentred"]


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (6, 4, 5, 3)])
def test_a_fading_norm_trains_as_torchs_does_until_its_share_is_lowered(
    shape: tuple[int, ...], momentum: float | None
) -> None:
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    plain = kind(4, momentum=momentum).double()
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    holder = nn.Sequential(copy.deepcopy(plain))
    assert fade(holder) == (["0"], 0)
    (fading,) = holder
    x = (3 * torch.randn(shape, dtype=torch.float64) + 2).requires_grad_()
    probe = torch.randn(shape, dtype=torch.float64)
    for training in (True, True, False):
        one, other = fading.train(training)(x), plain.train(training)(x)
        assert_close(one, other, 1e-12)
        for got, expected in zip(
            torch.autograd.grad((probe * one).sum(), [x, *fading.parameters()]),
            torch.autograd.grad((probe * other).sum(), [x, *plain.parameters()]),
            strict=True,
        ):
            assert_close(got, expected, 1e-10)
    for key, value in plain.state_dict().items():
        assert_close(fading.state_dict()[key].double(), value.double(), 1e-12)
    fading.share.fill_(0.25)
    deviation = (plain.running_var + plain.eps).sqrt()
    expected = fading(x) - 0.75 * (plain.weight * plain.running_mean / deviation).view(
        -1, *[1] * (x.ndim - 2)
    )
    assert_close(expected, plain(x), 1e-12)


@pytest.mark.parametrize("share", [1.0, 0.25, 0.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_fading_norm_is_as_precise_as_its_output_may_be(share: float, dtype: torch.dtype) -> None:
    """A mean far from zero. Oracle: the formula in float64, its result rounded once; its gradients."""
    norm = fading_norm(share)
    twin, x = copy.deepcopy(norm).double(), (8 + torch.randn(6, 4, 9, 7)).to(dtype)
    norm = norm.double() if dtype is torch.float64 else norm
    got, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    y, expected = norm(got), lowered(twin, exact, share)
    assert y.dtype is dtype
    error = (y.double() - expected).abs()
    step = 1e-12 if dtype is torch.float64 else 2.0**-8
    assert (error <= step * expected.abs() + 1e-5).all()
    probe = torch.randn(6, 4, 9, 7).to(dtype)
    ours = torch.autograd.grad((probe * y).sum(), [got, *norm.parameters()])
    theirs = torch.autograd.grad((probe.double() * expected).sum(), [exact, *twin.parameters()])
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one.double(), other, 1e-10 if dtype is torch.float64 else 2e-2)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_fading_norm_wants_more_than_one_value_of_a_channel(share: float) -> None:
    with pytest.raises(ValueError, match="more than 1 value"):
        fading_norm(share)(torch.rand(1, 4, 1, 1))


def test_a_compiled_fading_norm_follows_its_share_in_one_graph() -> None:
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    norm, x = fading_norm(1.0), 8 + torch.randn(6, 4, 9, 7)
    compiled = torch.compile(norm, backend=backend, fullgraph=True)
    for share in (1.0, 0.5, 0.0):
        norm.share.fill_(share)
        expected = lowered(copy.deepcopy(norm).double(), x.double(), share)
        assert_close(compiled(x).double(), expected, 1e-5)
    assert len(graphs) == 1
