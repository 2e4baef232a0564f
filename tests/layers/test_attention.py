"""Attention, its activation and its positions against loops, in and out of linear mode."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bcos_zoo.errors import InputError
from bcos_zoo.layers import (
    Attention,
    BcosLinear,
    GatedGELU,
    LayerNorm,
    attend,
    linear_mode,
    make_activation,
    sincos_positions,
)

F64 = torch.float64
EXACT = dict(rtol=1e-12, atol=1e-13)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def shares(q: Tensor, k: Tensor) -> Tensor:
    """(N, heads, L, M): how much each of L queries takes of each of M values, one number at a time."""
    n, heads, length, dim = q.shape
    out = torch.zeros(n, heads, length, k.shape[2], dtype=F64)
    for i in range(n):
        for h in range(heads):
            for a in range(length):
                scores = [float(q[i, h, a] @ key) / math.sqrt(dim) for key in k[i, h]]
                powers = [math.exp(score - max(scores)) for score in scores]
                out[i, h, a] = torch.tensor(powers, dtype=F64) / sum(powers)
    return out


@pytest.mark.parametrize("queries", [1, 4])
def test_attention_agrees_with_the_loop_over_queries_and_keys(queries):
    q, k, v = random(2, 3, queries, 5), random(2, 3, 4, 5, seed=1), random(2, 3, 4, 5, seed=2)
    expected = torch.einsum("nhab,nhbd->nhad", shares(q, k), v)
    torch.testing.assert_close(attend(q, k, v), expected, **EXACT)
    with linear_mode():
        torch.testing.assert_close(attend(q, k, v), expected, **EXACT)


def test_in_linear_mode_attention_is_linear_in_its_values_alone():
    q, k, v = (random(2, 3, 4, 5, seed=seed).requires_grad_() for seed in range(3))
    cotangent = random(2, 3, 4, 5, seed=3)
    with linear_mode():
        of_q, of_k, of_v = torch.autograd.grad(attend(q, k, v), (q, k, v), cotangent, allow_unused=True)
    assert of_q is None and of_k is None
    taken = torch.einsum("nhab,nhad->nhbd", shares(q.detach(), k.detach()), cotangent)
    torch.testing.assert_close(of_v, taken, **EXACT)


def test_out_of_linear_mode_the_gradient_of_attention_is_the_ordinary_one():
    q, k, v = (random(1, 2, 3, 2, seed=seed).requires_grad_() for seed in range(3))
    assert torch.autograd.gradcheck(attend, (q, k, v))


def attention(dim: int, heads: int, out: nn.Module) -> Attention:
    layer = Attention(LayerNorm(dim), nn.Linear(dim, 3 * dim, bias=False), out, heads).double()
    generator = torch.Generator().manual_seed(0)
    for p in layer.parameters():
        p.data.copy_(torch.randn(p.shape, dtype=F64, generator=generator))
    return layer


def frozen_attention(layer: Attention, x: Tensor) -> Callable[[Tensor], Tensor]:
    """What the layer does to tokens z, with all factors as they are for x: written out head by head."""
    dim, heads = x.shape[2], layer.heads
    size = dim // heads
    weight = layer.to_qkv.weight.detach()
    std = (x.var(2, correction=0, keepdim=True) + layer.norm.eps).sqrt()

    def standardised(z: Tensor) -> Tensor:
        return (z - z.mean(2, keepdim=True)) / std * layer.norm.weight.detach()

    def projected(z: Tensor, part: int, head: int) -> Tensor:
        rows = weight[part * dim + head * size : part * dim + (head + 1) * size]
        return standardised(z) @ rows.T

    taken = [shares(projected(x, 0, h)[:, None], projected(x, 1, h)[:, None])[:, 0] for h in range(heads)]

    def mixed(z: Tensor) -> Tensor:
        return torch.cat([taken[h] @ projected(z, 2, h) for h in range(heads)], 2)

    rows = layer.to_out.linear.weight.detach()
    rows = rows / rows.square().sum(1, keepdim=True).sqrt()
    cosine = mixed(x) @ rows.T / (mixed(x).square().sum(2, keepdim=True).sqrt() + 1e-12)
    return lambda z: mixed(z) @ rows.T * cosine.abs()


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_self_attention_and_its_linear_map_agree_with_the_one_written_out(heads):
    layer, x = attention(6, heads, BcosLinear(6, 6)), random(2, 3, 6)
    frozen = frozen_attention(layer, x)
    torch.testing.assert_close(layer(x).detach(), frozen(x), **EXACT)
    x.requires_grad_()
    with linear_mode(freeze_parameters=True):
        y = layer(x)
    torch.testing.assert_close(y.detach(), frozen(x.detach()), **EXACT)
    directions = torch.eye(x.numel(), dtype=F64).reshape(-1, *x.shape)
    columns = torch.stack([frozen(direction) for direction in directions])
    cotangent = random(*y.shape, seed=4)
    (gradient,) = torch.autograd.grad(y, x, cotangent)
    torch.testing.assert_close(gradient.flatten(), (columns * cotangent).flatten(1).sum(1), **EXACT)


def test_frozen_parameters_of_an_attention_get_no_gradient():
    layer, x = attention(4, 2, BcosLinear(4, 4)), random(1, 3, 4)
    for freeze in (False, True):
        with linear_mode(freeze_parameters=freeze):
            y = layer(x.requires_grad_()).sum()
        found = torch.autograd.grad(y, list(layer.parameters()), allow_unused=True)
        assert all((gradient is None) is freeze for gradient in found)


def test_gelu_is_x_times_the_normal_distribution_and_its_gate_is_held_in_linear_mode():
    x = torch.linspace(-9, 9, 61, dtype=F64).requires_grad_()
    gate = torch.tensor([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()], dtype=F64)
    density = torch.exp(-x.detach().square() / 2) / math.sqrt(2 * math.pi)
    y = GatedGELU()(x)
    torch.testing.assert_close(y.detach(), x.detach() * gate, rtol=1e-12, atol=1e-15)
    (ordinary,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(ordinary, gate + x.detach() * density, rtol=1e-9, atol=1e-12)
    with linear_mode():
        y = GatedGELU()(x)
    torch.testing.assert_close(y.detach(), x.detach() * gate, rtol=1e-9, atol=1e-15)
    (held,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(held, gate, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gelu_in_half_precision_stays_half_and_finite(dtype):
    x = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4], dtype=dtype)
    with linear_mode():
        inside = GatedGELU()(x)
    assert inside.dtype == GatedGELU()(x).dtype == dtype
    torch.testing.assert_close(inside, nn.functional.gelu(x.float()).to(dtype), rtol=0.02, atol=1e-3)


def test_an_activation_goes_by_its_name():
    x = torch.tensor([-1.0, 2.0])
    assert torch.equal(make_activation("relu")(x), torch.tensor([0.0, 2.0]))
    assert isinstance(make_activation("gelu"), GatedGELU)
    assert make_activation(None)(x) is x
    with pytest.raises(InputError, match="no activation named 'tanh'; known: 'relu', 'gelu', or None"):
        make_activation("tanh")


@pytest.mark.parametrize(("rows", "columns", "dim"), [(1, 1, 8), (3, 5, 12), (14, 14, 192)])
def test_positions_agree_with_the_loop_over_tokens_and_frequencies(rows, columns, dim):
    quarter = dim // 4
    expected = torch.zeros(rows * columns, dim, dtype=F64)
    for y in range(rows):
        for x in range(columns):
            for f in range(quarter):
                frequency = 10_000 ** -(f / (quarter - 1))
                values = [function(v * frequency) for v in (x, y) for function in (math.sin, math.cos)]
                expected[y * columns + x, f::quarter] = torch.tensor(values, dtype=F64)
    got = sincos_positions(rows, columns, dim, like=torch.empty(0, dtype=F64))
    torch.testing.assert_close(got, expected, rtol=0, atol=3e-6)  # computed in float32, as published


def test_positions_have_the_dtype_and_device_of_what_they_are_added_to():
    single = sincos_positions(2, 3, 4, like=torch.empty(0))
    assert torch.equal(single, sincos_positions(2, 3, 4, like=torch.empty(0, dtype=F64)).float())
    half = sincos_positions(2, 3, 4, like=torch.empty(0, dtype=torch.bfloat16))
    assert torch.equal(half, single.bfloat16())
    assert sincos_positions(2, 3, 4, like=torch.empty(0, device="meta")).device.type == "meta"
