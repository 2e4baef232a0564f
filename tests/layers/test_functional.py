"""The formulas against plain arithmetic, on both of their ways: with and without a gradient."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from bcos_zoo.layers import functional as BF

EXACT = dict(rtol=1e-12, atol=1e-14)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4, 5), (2, 2, 1, 4, 5)])
def test_encoding_appends_what_is_missing_to_white(shape):
    x = torch.rand(shape)
    plain, inverted = BF.encode(x).split(shape[-3], dim=-3)
    assert torch.equal(plain, x)
    assert torch.equal(inverted, 1 - x)


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4, 7)])
def test_unit_rows_have_length_one_and_the_direction_of_the_weights(shape):
    weight = random(*shape)
    rows = BF.unit_rows(weight).flatten(1)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4, dtype=torch.float64), **EXACT)
    torch.testing.assert_close((rows * weight.flatten(1)).sum(1), weight.flatten(1).norm(dim=1), **EXACT)


def test_an_all_zero_row_stays_zero_and_has_a_finite_gradient():
    weight = random(3, 5)
    weight[1] = 0
    weight.requires_grad_()
    rows = BF.unit_rows(weight)
    (gradient,) = torch.autograd.grad(rows.square().sum() + rows.sum(), weight)
    assert rows[1].count_nonzero() == 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_unit_rows_of_half_precision_neither_overflow_nor_underflow(dtype):
    weight = torch.tensor([[3e4] * 9, [1e-5] * 9, [1.0] * 9]).to(dtype)
    rows = BF.unit_rows(weight)
    assert rows.dtype == dtype
    torch.testing.assert_close(
        rows.double(), torch.full((3, 9), 1 / 3, dtype=torch.float64), rtol=0.01, atol=0
    )


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("dim", [1, -3])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_max_out_takes_the_largest_of_consecutive_units(m, dim, requires_grad):
    y = random(2, 6, 3, 3)
    got = BF.max_out(y.clone().requires_grad_(requires_grad), m, dim)
    assert got.shape == (2, 6 // m, 3, 3)
    for unit in range(6 // m):
        expected = torch.stack([y[:, unit * m + i] for i in range(m)]).max(0).values
        assert torch.equal(got[:, unit].detach(), expected)


def test_max_out_gives_the_gradient_to_one_unit_even_in_a_tie():
    y = torch.zeros(1, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(BF.max_out(y, 2, -1).sum(), y)
    assert sorted(gradient.flatten().tolist()) == [0, 0, 1, 1]


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("b", [1, 1.25, 1.5, 2, 2.5, 3])
def test_the_scale_is_the_power_of_the_stabilised_cosine(b, requires_grad):
    linear, norm = random(2, 3, 4), random(2, 1, 4, seed=1).abs() + 0.1
    got = BF.bcos_scale(linear.clone().requires_grad_(requires_grad), norm, b)
    stabiliser = 0 if b == 2 else 1e-6
    for n, k, i in itertools.product(range(2), range(3), range(4)):
        cosine = abs(linear[n, k, i].item()) / norm[n, 0, i].item()
        assert got[n, k, i].item() == pytest.approx((cosine + stabiliser) ** (b - 1), rel=1e-12)


def test_the_scale_changes_neither_of_its_arguments():
    linear, norm = random(2, 3, 4), random(2, 1, 4, seed=1).abs()
    before = linear.clone(), norm.clone()
    BF.bcos_scale(linear, norm, 2)
    assert torch.equal(linear, before[0]) and torch.equal(norm, before[1])


def test_token_norms_are_lengths():
    x = random(2, 3, 5)
    norm = BF.token_norm(x)
    assert norm.shape == (2, 3, 1)
    for n, i in itertools.product(range(2), range(3)):
        assert norm[n, i].item() == pytest.approx(math.hypot(*x[n, i].tolist()) + 1e-12, rel=1e-12)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_energies_and_norms_of_half_precision_do_not_overflow(dtype, requires_grad):
    x = torch.full((1, 4, 2, 2), 3e4, dtype=dtype, requires_grad=requires_grad)
    energy, norm = BF.channel_energy(x), BF.token_norm(x)
    assert energy.dtype == norm.dtype == torch.float32
    torch.testing.assert_close(energy.detach(), torch.full((1, 1, 2, 2), 3.6e9), rtol=0.01, atol=0)
    torch.testing.assert_close(norm.detach(), torch.full((1, 4, 2, 1), 3e4 * 2**0.5), rtol=0.01, atol=0)


@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3), (2, 4), (1, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (2, 3)])
def test_window_sums_are_sums_over_the_padded_windows(kernel_size, stride, padding, dilation):
    x = random(2, 3, 9, 11)
    got = BF.window_sum(x, kernel_size, stride, padding, dilation)
    windows = torch.nn.functional.unfold(x, kernel_size, dilation, padding, stride)
    expected = windows.unflatten(1, (3, -1)).sum(2).reshape(got.shape)
    torch.testing.assert_close(got, expected, **EXACT)
    torch.testing.assert_close(
        BF.window_sum(x[0], kernel_size, stride, padding, dilation), expected[0], **EXACT
    )


@pytest.mark.parametrize("dilation", [(1, 1), (2, 2)])
def test_window_sums_stay_in_float32_under_autocast(dilation):
    x = torch.full((1, 1, 6, 6), 3.0001)
    with torch.autocast("cpu", torch.bfloat16):
        got = BF.window_sum(x, (2, 2), (1, 1), (0, 0), dilation)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.full_like(got, 4 * 3.0001))


@pytest.mark.parametrize(
    ("kernel_size", "in_channels", "factor", "expected"),
    [(7, 6, 100, 0.171464), (3, 6, 200, 0.0367423), (3, 6, 1000, 0.00734847), ((1, 9), 6, 1000, 0.00734847)],
)
def test_the_v1_scale_is_that_of_the_published_networks(kernel_size, in_channels, factor, expected):
    assert BF.v1_scale(kernel_size, in_channels, factor) == pytest.approx(expected, rel=1e-5)


def test_the_default_logit_bias_makes_ignorance_uniform():
    for classes in (10, 1000):
        assert torch.tensor(BF.default_logit_bias(classes)).sigmoid().item() == pytest.approx(
            1 / classes, rel=1e-5
        )
    assert BF.default_logit_bias(1000) == pytest.approx(-6.906754778648554, rel=1e-12)
    assert [BF.default_logit_bias(classes) for classes in (0, 1, 2)] == [0, 0, 0]


def test_rows_with_a_gain_multiply_the_output_of_degree_b():
    weight, gain = random(3, 5), torch.tensor([2.0, -0.5, 0.0], dtype=torch.float64)
    plain = BF.unit_rows(weight)
    rows = plain * BF.row_factors(gain, 2.0)[:, None]
    x = random(7, 5)
    y, scaled = x @ plain.T, x @ rows.T
    torch.testing.assert_close(scaled * scaled.abs(), gain * y * y.abs(), **EXACT)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (6, 3, 4)])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_channel_energy_sums_squares_group_by_group(groups, shape, requires_grad):
    x = random(*shape)
    got = BF.channel_energy(x.clone().requires_grad_(requires_grad), groups)
    expected = torch.stack([part.square().sum(-3) for part in x.chunk(groups, -3)], -3)
    torch.testing.assert_close(got.detach(), expected, **EXACT)
