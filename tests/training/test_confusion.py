"""Which class is taken for which: the tables are right, and the picture is one of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support

from bcos_zoo import InputError
from bcos_zoo.pictures import plots
from bcos_zoo.training import confusion


def answers(classes: int, n: int = 400) -> tuple[Any, Any]:
    """Truth and prediction of images of all classes but the last one, which is never shown."""
    generator = torch.Generator().manual_seed(classes)
    truth = torch.randint(0, classes - 1, (n,), generator=generator)
    wrong = torch.randint(0, classes, (n,), generator=generator)
    return truth, torch.where(torch.rand(n, generator=generator) < 0.7, truth, wrong)


def counted(truth: Any, predicted: Any, classes: int) -> Any:
    return torch.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def table(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_tables_agree_with_scikit_learn(tmp_path):
    names = ["cat", "dog, small", 'the "cow"', "鳥", "never"]
    truth, predicted = answers(5)
    confusion.write(tmp_path, counted(truth, predicted, 5), names)
    head, *rows = table(tmp_path / "confusion.csv")
    assert head == ["true class", *names] and [row[0] for row in rows] == names
    for i, row in enumerate(rows):
        for j, cell in enumerate(row[1:]):
            assert int(cell) == int(((truth == i) & (predicted == j)).sum())
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, predicted, labels=range(5), zero_division=np.nan
    )
    head, *rows = table(tmp_path / "per_class.csv")
    assert head == ["class", "images", "predicted", "right", "recall", "precision", "f1"]
    for i, row in enumerate(rows):
        assert row[:3] == [names[i], str(int((truth == i).sum())), str(int((predicted == i).sum()))]
        for cell, expected in zip(row[4:], (recall[i], precision[i], f1[i]), strict=True):
            assert cell == ("" if np.isnan(expected) else f"{100 * expected:.2f}")
    assert rows[4][4] == ""  # no image, so no share of them is found


def test_several_labels_an_image_agree_with_scikit_learn(tmp_path):
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(200, 4, generator=generator) < 0.3).float()
    targets[:, 3] = 0
    logits = 2 * targets - 1 + torch.randn(200, 4, generator=generator)
    confusion.write_several(tmp_path, logits, targets, "abcd")
    assert [path.name for path in tmp_path.iterdir()] == ["per_class.csv"]
    each = precision_recall_fscore_support(targets, logits > 0, zero_division=np.nan)
    for i, row in enumerate(table(tmp_path / "per_class.csv")[1:]):
        precision, recall, f1 = (scores[i] for scores in each[:3])
        expected = ["" if np.isnan(one) else f"{100 * one:.2f}" for one in (recall, precision, f1)]
        assert row[4:] == expected and row[1] == str(int(targets[:, i].sum()))


@pytest.mark.parametrize("classes", [2, 10, 100, pytest.param(300, marks=pytest.mark.slow)])
def test_the_picture_has_a_dark_diagonal_on_light_ground(tmp_path, classes):
    counts = 10 * torch.eye(classes, dtype=torch.long)
    confusion.write(tmp_path, counts, [f"class number {i}" for i in range(classes)])
    pixels = np.asarray(Image.open(tmp_path / "confusion.png").convert("L")).astype(int)
    frame = pixels == 0xBB  # the frame of the cells is of one grey
    top, bottom = np.flatnonzero(frame.mean(1) > 0.3)[[0, -1]]
    left, right = np.flatnonzero(frame.mean(0) > 0.3)[[0, -1]]
    cells = pixels[top + 2 : bottom - 1, left + 2 : right - 1]
    size = len(cells) / classes
    assert size > 4 and abs(len(cells) - cells.shape[1]) < 4
    inside = 0.2 if size > 20 else 0.5  # beside the number of a cell; small cells have none
    for i in range(classes):
        at = [int((i + inside) * size), int(((i + 1) % classes + inside) * size)]
        assert cells[at[0], at[0]] < 80 and cells[at[0], at[1]] > 240


def test_few_errors_among_many_right_ones_are_seen(tmp_path):
    confusion.write(tmp_path, torch.tensor([[99, 1], [0, 100]]), "ab")
    share = np.asarray(Image.open(tmp_path / "confusion.png").convert("L"))
    confusion.write(tmp_path, torch.tensor([[100, 0], [0, 100]]), "ab")
    none = np.asarray(Image.open(tmp_path / "confusion.png").convert("L"))
    assert share.shape == none.shape and (none.astype(int) - share > 10).sum() > 3000


def test_names_that_no_font_has_are_numbers(tmp_path):
    assert plots.shown("garbage truck", 3) == "garbage truck"
    assert plots.shown("two\nlines  and\ttabs", 3) == "two lines and tabs"
    assert plots.shown("Übergröße", 3) == "Übergröße"
    assert plots.shown("x" * 99, 3) == "x" * 23 + "…"
    assert plots.shown("", 3) == plots.shown("\U000f0000", 3) == "class 3"
    confusion.write(
        tmp_path, torch.eye(3).long(), ["$a", "$\\frac{$", "\U000f0000"]
    )  # no warning, no formula


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"counts of shape \(3, 3\) for 2 class names; allowed is \(C, C\)"):
        confusion.write(tmp_path, torch.eye(3).long(), "ab")
    with pytest.raises(InputError, match=r"logits \(5, 3\) and targets \(5, 2\) for 3 class names; allowed"):
        confusion.write_several(tmp_path, torch.zeros(5, 3), torch.zeros(5, 2), "abc")
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="run/confusion.csv cannot be written: .*; make its folder writable"):
        confusion.write(tmp_path / "run", torch.eye(2).long(), "ab")
