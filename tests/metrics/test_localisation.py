"""Where explanations point: properties of a share, slow references, and what is refused."""

from __future__ import annotations

import pytest
import torch

from bcos_zoo import InputError
from bcos_zoo.metrics import energy_in_boxes, energy_in_mask, localisation_score


def random_maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def slow_score(contributions: torch.Tensor, n: int, cell: int, smooth: int) -> float:
    """Of one map (H, W), pixel by pixel, from the definition."""
    height, width = contributions.shape
    before, after = (smooth - 1) // 2, smooth // 2
    inside = total = 0.0
    for y in range(height):
        for x in range(width):
            value = 0.0
            for v in range(y - before, y + after + 1):
                for u in range(x - before, x + after + 1):
                    if 0 <= v < height and 0 <= u < width:
                        value += float(contributions[v, u]) / smooth**2
            total += max(value, 0)
            if (y * n // height) * n + x * n // width == cell:
                inside += max(value, 0)
    return inside / total


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_map_inside_its_cell_scores_1_and_elsewhere_0(n):
    height, width = 5 * n, 7 * n
    for cell in range(n * n):
        row, column = divmod(cell, n)
        here = torch.zeros(height, width)
        here[5 * row : 5 * row + 5, 7 * column : 7 * column + 7] = torch.rand(5, 7)
        scores = localisation_score(here.expand(n * n, -1, -1), n)
        assert scores.tolist() == [float(i == cell) for i in range(n * n)]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_constant_map_scores_1_in_the_number_of_cells(n):
    scores = localisation_score(torch.full((n * n, 6 * n, 6 * n), 0.3), n)
    torch.testing.assert_close(scores, torch.full((n * n,), 1 / n**2, dtype=torch.float64))


def test_the_scores_of_all_cells_add_up_to_1():
    scores = localisation_score(random_maps(1, 12, 12).expand(9, -1, -1), 3, smooth=3)
    assert float(scores.sum()) == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_no_score_changes_with_the_scale(scale):
    values = random_maps(4, 8, 8)
    mask, box = torch.rand(8, 8) > 0.5, torch.tensor([[1, 2, 6, 7]] * 4)
    for score in (
        lambda v: localisation_score(v, 2, smooth=3),
        lambda v: energy_in_mask(v, mask),
        lambda v: energy_in_boxes(v, box),
    ):
        torch.testing.assert_close(score(values * scale), score(values), rtol=1e-6, atol=0)


def test_what_speaks_against_the_target_does_not_count():
    values = random_maps(4, 8, 8)
    worse = torch.where(values < 0, 100 * values, values)
    assert torch.equal(localisation_score(values, 2), localisation_score(worse, 2))


@pytest.mark.parametrize(("n", "smooth"), [(2, 0), (2, 1), (2, 3), (3, 4), (2, 7)])
def test_scores_are_those_of_a_loop_over_pixels(n, smooth):
    values = random_maps(n * n, 6 * n, 4 * n)
    got = localisation_score(values, n, smooth=smooth)
    expected = [slow_score(values[cell], n, cell, max(smooth, 1)) for cell in range(n * n)]
    assert got.tolist() == pytest.approx(expected)


def test_smoothing_lets_contributions_cancel_before_they_are_compared():
    noise = torch.ones(4, 4)
    noise[::2, ::2] = noise[1::2, 1::2] = -1
    noise[2:, 2:] = 1
    values = noise.expand(4, -1, -1)
    assert localisation_score(values, 2, smooth=2)[3] > localisation_score(values, 2)[3]


def test_cells_may_be_named_for_each_map():
    values = random_maps(5, 2, 9, 9)
    cells = torch.randint(9, (5, 2))
    got = localisation_score(values, 3, cells)
    assert got.shape == (5, 2)
    assert float(got[3, 1]) == pytest.approx(slow_score(values[3, 1], 3, int(cells[3, 1]), 1))
    assert localisation_score(values[0, 0], 3, torch.tensor(4)).shape == ()


def test_a_map_without_positive_contributions_scores_0():
    negative = -torch.rand(4, 8, 8)
    assert localisation_score(negative, 2).tolist() == [0] * 4
    assert energy_in_mask(negative, torch.ones(8, 8) > 0).tolist() == [0] * 4
    assert energy_in_boxes(torch.zeros(8, 8), torch.tensor([0, 0, 8, 8])) == 0


def test_the_energy_of_a_map_is_1_if_inside_and_the_area_if_constant():
    mask = torch.zeros(6, 10, dtype=torch.bool)
    mask[1:4, 2:7] = True
    assert energy_in_mask(mask.float(), mask) == 1
    assert energy_in_mask((~mask).float(), mask) == 0
    assert float(energy_in_mask(torch.ones(6, 10), mask)) == pytest.approx(15 / 60)


def test_energies_inside_and_outside_add_up_to_1():
    values, mask = random_maps(3, 6, 6), torch.rand(3, 6, 6) > 0.5
    both = energy_in_mask(values, mask) + energy_in_mask(values, ~mask)
    torch.testing.assert_close(both, torch.ones(3, dtype=torch.float64))


def test_a_cell_of_the_grid_is_a_box():
    values = random_maps(4, 8, 12)
    boxes = torch.tensor([[0, 0, 6, 4], [6, 0, 12, 4], [0, 4, 6, 8], [6, 4, 12, 8]])
    torch.testing.assert_close(energy_in_boxes(values, boxes), localisation_score(values, 2))


def test_boxes_are_their_masks_and_several_their_union():
    values = random_maps(2, 8, 12)
    boxes = torch.tensor([[[1, 2, 5, 6], [3, 3, 20, 7]], [[-4, 0, 1, 1], [0, 0, 1, 1]]])
    masks = torch.zeros(2, 8, 12, dtype=torch.bool)
    masks[0, 2:6, 1:5] = masks[0, 3:7, 3:12] = masks[1, 0, 0] = True
    torch.testing.assert_close(energy_in_boxes(values, boxes), energy_in_mask(values, masks))


@pytest.mark.parametrize(("right", "columns"), [(2.0, 2), (2.4, 2), (2.5, 2), (2.6, 3)])
def test_a_pixel_is_in_a_box_if_its_centre_is(right, columns):
    share = energy_in_boxes(torch.ones(1, 10), torch.tensor([0.0, 0.0, right, 1.0]))
    assert float(share) == pytest.approx(columns / 10)


@pytest.mark.parametrize(
    ("contributions", "n", "change", "message"),
    [
        (torch.ones(8), 2, {}, r"contributions of shape \(8,\); allowed is \(..., H, W\)"),
        (torch.ones(4, 0, 8), 2, {}, "no axis of length 0"),
        (torch.ones(4, 8, 8).int(), 2, {}, "contributions of type torch.int32; allowed are floats"),
        (torch.full((4, 8, 8), torch.nan), 2, {}, "NaN or infinity in contributions"),
        (torch.ones(4, 9, 8), 2, {}, "contributions of 9x8 pixels do not divide into 2x2 cells"),
        (torch.ones(3, 8, 8), 2, {}, r"\(3, 8, 8\) for 2x2 cells; allowed is \(..., 4, H, W\)"),
        (torch.ones(8, 8), 2, {}, r"\(8, 8\) for 2x2 cells"),
        (torch.ones(3, 8, 8), 2, {"cells": torch.arange(2)}, r"cells of shape \(2,\) .* allowed is \(3,\)"),
        (torch.ones(3, 8, 8), 2, {"cells": torch.ones(3)}, "type torch.float32; allowed"),
        (torch.ones(3, 8, 8), 2, {"cells": torch.arange(2, 5)}, "cells from 2 to 4; .* of 2x2 are 0 to 3"),
        (torch.ones(1, 8, 8), 1, {}, "n=1: allowed are integers, 2 and more"),
        (torch.ones(4, 8, 8), 2, {"smooth": -1}, "smooth=-1: allowed are integers, 0 and more"),
        (torch.ones(4, 8, 8), 2, {"smooth": 1.5}, "smooth=1.5: allowed are integers"),
    ],
)
def test_the_localisation_score_refuses(contributions, n, change, message):
    with pytest.raises(InputError, match=message):
        localisation_score(contributions, n, **change)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(8, 8), r"type torch.float32; allowed is \(4, 8, 8\) or \(8, 8\), of torch.bool"),
        (torch.ones(4, 8) > 0, r"a mask of shape \(4, 8\)"),
        (torch.zeros(8, 8) > 0, "a mask holds no pixel; leave out images without the object"),
    ],
)
def test_energy_in_a_mask_refuses(mask, message):
    with pytest.raises(InputError, match=message):
        energy_in_mask(torch.ones(4, 8, 8), mask)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (torch.zeros(4), r"boxes of shape \(4,\) for contributions \(2, 8, 8\); allowed is \(2, 4\)"),
        (torch.zeros(2, 0, 4), r"boxes of shape \(2, 0, 4\); leave out images without the object"),
        (torch.tensor([[0, 0, 1, 1], [5, 5, 5, 9]]), "a box holds no pixel of the image of 8x8"),
        (torch.tensor([[0, 0, 1, 1], [8, 0, 9, 1]]), "a box holds no pixel"),
        (torch.full((2, 4), torch.nan), "boxes hold NaN or infinity"),
    ],
)
def test_energy_in_boxes_refuses(boxes, message):
    with pytest.raises(InputError, match=message):
        energy_in_boxes(torch.ones(2, 8, 8), boxes)
