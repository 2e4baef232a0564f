"""The energy of a map at the frequencies of a stride."""

from __future__ import annotations

import cmath
import math

import pytest
import torch

from bcos_zoo import InputError
from bcos_zoo.metrics import checkerboard


def slowly(values: list[list[float]], stride: int) -> float:
    """The definition, term by term: a discrete Fourier sum at every frequency that is needed."""
    height, width = len(values), len(values[0])
    mean = sum(map(sum, values)) / (height * width)

    def fade(i: int, side: int) -> float:
        return 0.5 - 0.5 * math.cos(2 * math.pi * i / side)

    def energy(u: int, v: int) -> float:
        total = 0j
        for i in range(height):
            for j in range(width):
                wave = cmath.exp(-2j * math.pi * (u * i / height + v * j / width))
                total += (values[i][j] - mean) * fade(i, height) * fade(j, width) * wave
        return abs(total) ** 2

    ratios = []
    for a in range(stride):
        for b in range(stride):
            if a == b == 0:
                continue
            u, v = a * height // stride, b * width // stride
            ring = [(p, q) for p in range(-2, 3) for q in range(-2, 3) if max(abs(p), abs(q)) == 2]
            ratios.append(energy(u, v) / (sum(energy(u + p, v + q) for p, q in ring) / len(ring)))
    return sum(ratios) / len(ratios)


@pytest.mark.parametrize("stride, height, width", [(2, 10, 12), (3, 15, 18)])
def test_it_is_the_definition(stride, height, width):
    values = torch.rand(height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = slowly(values.tolist(), stride)
    assert float(checkerboard(values, stride)) == pytest.approx(expected, rel=1e-9)


def test_noise_has_about_one_and_a_pattern_grows_with_its_height():
    noise = torch.randn(200, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert float(checkerboard(noise, 8).mean()) == pytest.approx(1.15, abs=0.03)
    grid = ((torch.arange(64) % 8 == 0)[:, None] & (torch.arange(64) % 8 == 0)).float()
    low, high = (float(checkerboard(noise + height * grid, 8).mean()) for height in (0.5, 2.0))
    assert 1.1 < low < high


def test_a_pattern_of_a_smaller_stride_counts_for_its_multiples_alone():
    noise = 0.1 * torch.randn(96, 96, generator=torch.Generator().manual_seed(0))
    stripes = (torch.arange(96) % 4 == 0).float().expand(96, 96)
    assert checkerboard(noise + stripes, 4) > 10 and checkerboard(noise + stripes, 8) > 10
    assert checkerboard(noise + stripes, 3) < 2


def test_scale_and_shift_of_the_values_do_not_matter():
    values = torch.rand(3, 40, 41, dtype=torch.float64)
    base = checkerboard(values, 8)
    assert base.shape == (3,)
    torch.testing.assert_close(checkerboard(1e-6 * values, 8), base)
    torch.testing.assert_close(checkerboard(values + 3, 8), base)
    torch.testing.assert_close(checkerboard(values[..., :40], 8), base)  # what is over is cut off


def test_a_constant_map_has_no_pattern():
    assert checkerboard(torch.full((2, 40, 40), 3.7), 4).tolist() == [0, 0]
    assert checkerboard(torch.zeros(40, 40), 4) == 0


@pytest.mark.parametrize(
    "values, stride, message",
    [
        (torch.rand(40, 40), 1, "stride=1: allowed are integers, 2 and more"),
        (torch.rand(40, 39), 8, "maps of 40x39 pixels and a stride of 8; allowed are sides of at least 5"),
        (torch.full((40, 40), torch.nan), 4, "NaN or infinity in attributions"),
        (torch.rand(40), 4, r"attributions of shape \(40,\)"),
    ],
)
def test_what_it_cannot_take(values, stride, message):
    with pytest.raises(InputError, match=message):
        checkerboard(values, stride)
