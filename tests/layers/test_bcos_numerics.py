"""The B-cos layers as torch modules: gradients, half precision, autocast, copies."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from bcos_zoo.layers import BcosConv2d, BcosLinear, linear_mode

HALVES = [torch.float16, torch.bfloat16]


def seeded(layer: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for p in layer.parameters():
        p.data.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return layer


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


SMALL = {
    "conv": lambda **o: BcosConv2d(2, 4, 3, padding=1, **o),
    "strided 1x1": lambda **o: BcosConv2d(2, 4, 1, stride=2, **o),
    "groups": lambda **o: BcosConv2d(2, 4, 3, padding=1, groups=2, **o),
    "reflect": lambda **o: BcosConv2d(2, 4, 3, padding=1, padding_mode="reflect", **o),
    "dilated": lambda **o: BcosConv2d(2, 4, 3, padding=2, dilation=2, **o),
    "linear": lambda **o: BcosLinear(4, 4, **o),
}


@pytest.mark.parametrize("options", [{}, dict(max_out=2, scale=0.5), dict(normalize=False)], ids=str)
@pytest.mark.parametrize("b", [1, 1.5, 2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_gradients_of_input_and_weights_are_the_numerical_ones(name, b, options):
    layer = seeded(SMALL[name](b=b, **options, dtype=torch.float64))
    weight = layer.linear.weight.detach().requires_grad_()
    x = random(1, 2, 4, 4).requires_grad_()

    def forward(x, weight):
        return torch.func.functional_call(layer, {"linear.weight": weight}, x)

    assert torch.autograd.gradcheck(forward, (x, weight), fast_mode=True)


@pytest.mark.parametrize("linear", [False, True], ids=["", "linear mode"])
@pytest.mark.parametrize("b", [1, 1.25, 2, 3])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize("name", SMALL)
def test_zero_patches_and_zero_rows_give_finite_values_and_gradients(name, dtype, b, linear):
    layer = seeded(SMALL[name](b=b, max_out=2)).to(dtype)
    layer.linear.weight.data[:3] = 0  # one unit without any weight, one with half of its own
    x = random(3, 2, 8, 4).to(dtype)
    x[0] = 0
    x[1, :, :4] = 0
    x[2] *= 1e-7  # near and below the smallest number of float16
    x.requires_grad_()
    if linear:
        with linear_mode():
            y = layer(x)
    else:
        y = layer(x)
    gradients = torch.autograd.grad(y.float().sum(), [x, layer.linear.weight])
    assert y.dtype == dtype
    assert all(value.isfinite().all() for value in (y, *gradients))
    assert y[0].count_nonzero() == 0
    with torch.no_grad():
        assert layer(x).dtype == dtype and layer(x).isfinite().all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("b", [1.25, 2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_large_values_do_not_overflow_in_the_norm(name, b, dtype):
    layer = seeded(SMALL[name](b=b)).to(dtype)
    x = torch.zeros(1, 2, 8, 4, dtype=dtype)
    x[..., 2:, 2] = 3e4
    x.requires_grad_()
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.float().sum(), x)
    assert y.isfinite().all() and gradient.isfinite().all()
    expected = copy.deepcopy(layer).double()(x.detach().double())
    torch.testing.assert_close(y.double(), expected, rtol=0.05, atol=0.01 * expected.abs().max().item())


@pytest.mark.parametrize("name", SMALL)
def test_under_autocast_a_layer_gives_what_the_plain_layer_gives(name):
    layer, x = SMALL[name](b=2), torch.randn(2, 2, 4, 4)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        answers = [layer(x), layer(x.clone().requires_grad_()).detach()]
        with torch.no_grad():
            answers.append(layer(x))
        with linear_mode():
            answers.append(layer(x))
        plain = layer.linear(x)
    for answer in answers:
        assert answer.dtype == plain.dtype == torch.bfloat16
        torch.testing.assert_close(answer.float(), expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
def test_layers_can_be_copied_and_pickled(name, clone):
    layer, x = SMALL[name](b=1.5, max_out=2, scale=0.5), torch.randn(2, 2, 4, 4)
    twin = clone(layer)
    assert torch.equal(twin(x), layer(x))
    assert twin.linear.weight is not layer.linear.weight
    assert list(layer.state_dict()) == ["linear.weight"]


@pytest.mark.filterwarnings("ignore")  # torch's, of tracing as such
def test_a_traced_layer_takes_any_batch():
    layer = BcosConv2d(4, 2, 3, padding=1)
    with torch.no_grad():
        traced = torch.jit.trace(layer, torch.rand(2, 4, 5, 5))
        x = torch.rand(3, 4, 5, 5)
        torch.testing.assert_close(traced(x), layer(x))


def test_an_empty_batch_gives_an_empty_batch():
    with torch.no_grad():
        assert BcosConv2d(4, 2, 3)(torch.rand(0, 4, 5, 5)).shape == (0, 2, 3, 3)
        assert BcosLinear(4, 2)(torch.rand(0, 4)).shape == (0, 2)
