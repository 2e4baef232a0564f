"""Learning curves: drawn for any number of epochs, with what they have."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from bcos_zoo.pictures import plots
from bcos_zoo.training import curves


def rows(n: int, every: int = 1, **more: Any) -> list[dict[str, Any]]:
    """Losses of n epochs, and scores of some of them."""
    made: list[dict[str, Any]] = [
        {"epoch": e, "train_loss": math.exp(-e / n), "lr": 0.1} for e in range(1, n + 1)
    ]
    for row in made[every - 1 :: every]:
        row |= {"val_loss": 0.5 + math.exp(-row["epoch"] / n), "top1": 90 - 50 / row["epoch"]} | more
    return made


def drawn(path: Path) -> list[int]:
    """How many pixels are of each colour of the lines."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return [int((pixels == ImageColor.getrgb(colour)).all(-1).sum()) for colour in plots.COLOURS]


@pytest.mark.parametrize(("n", "every"), [(1, 1), (12, 5), (300, 1)])
def test_losses_and_scores_are_there_for_any_number_of_epochs(tmp_path, n, every):
    path = curves.draw(tmp_path, rows(n, every), best=n)
    assert path == tmp_path / "curves.png"
    first, second, third, *_ = drawn(path)
    assert first > 30 and second > 30 and third == 0  # two losses, one score


def test_there_is_one_panel_without_scores_and_no_picture_without_losses(tmp_path):
    widths = []
    for some in (rows(5), [{"epoch": 1, "train_loss": 0.5}]):
        with Image.open(curves.draw(tmp_path, some)) as picture:
            widths.append(picture.width)
    assert widths[0] == 2 * widths[1]
    for nothing in ([], [{"epoch": 1}], [{"epoch": 1, "train_loss": math.nan}]):
        assert curves.draw(tmp_path / "nothing", nothing) is None
    assert not (tmp_path / "nothing").exists()


def test_what_is_no_number_is_left_out(tmp_path):
    some = rows(6, f1=math.nan, map=None)
    some[2]["train_loss"] = math.inf
    assert drawn(curves.draw(tmp_path, some))[2] == 0  # top1 alone is a score here


def test_losses_that_fall_far_are_on_a_logarithmic_scale(tmp_path):
    """On a linear one the line would lie on the axis nearly everywhere."""
    falling = [{"epoch": e, "train_loss": 10.0 ** (-e / 5)} for e in range(1, 31)]
    pixels = np.asarray(Image.open(curves.draw(tmp_path, falling)).convert("RGB"))
    heights = np.flatnonzero((pixels == ImageColor.getrgb(plots.COLOURS[0])).all(-1).any(1))
    assert len(heights) > 0.7 * len(pixels)
