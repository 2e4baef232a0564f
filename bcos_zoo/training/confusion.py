"""Which class is taken for which, and how well each one is found: tables and a picture."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import InputError
from ..extras import required
from ..files import replacing
from ..pictures import plots
from .runs import writing

TABLE, PICTURE, PER_CLASS = "confusion.csv", "confusion.png", "per_class.csv"
NUMBERED = 30  # with more classes, the cells hold no numbers
NAMED = 120  # with more classes, they have no names
SHARES = (0, 1, 5, 10, 25, 50, 75, 100)  # percent, marked on the colour bar


def write(run: str | os.PathLike[str], counts: Tensor, class_names: Sequence[str]) -> None:
    """Write `confusion.csv`, `confusion.png` and `per_class.csv`, for one label per image.

    counts: (C, C) images; a row is a true class, a column a predicted one. class_names: C of them.
    Raises InputError if these do not fit, if matplotlib is not installed, and if the files cannot be written.
    """
    names, table = _checked(counts, class_names), counts.cpu().numpy()
    path = Path(run) / TABLE
    lines = [[name, *row] for name, row in zip(names, table.tolist(), strict=True)]
    _write_rows(path, [["true class", *names], *lines])
    right, of_class, predicted = np.diagonal(table), table.sum(1), table.sum(0)
    _write_per_class(run, names, of_class, predicted, right)
    with writing(Path(run) / PICTURE):
        plots.save(_figure(table, names), Path(run) / PICTURE, dpi=110)


def write_several(
    run: str | os.PathLike[str], logits: Tensor, targets: Tensor, class_names: Sequence[str]
) -> None:
    """Write `per_class.csv` where an image has several labels; a class is predicted if its logit is above 0.

    logits: (M, C). targets: (M, C), zeros and ones. Raises InputError as `write`.
    """
    if logits.shape != targets.shape or logits.ndim != 2 or logits.shape[1] != len(class_names):
        raise InputError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} for {len(class_names)} class "
            "names; allowed is (M, C), with a name for each column"
        )
    truth, predicted = (targets > 0.5).cpu().numpy(), (logits > 0).cpu().numpy()
    _write_per_class(run, class_names, truth.sum(0), predicted.sum(0), (truth & predicted).sum(0))


def _checked(counts: Tensor, class_names: Sequence[str]) -> list[str]:
    if counts.shape != (len(class_names), len(class_names)):
        raise InputError(
            f"counts of shape {tuple(counts.shape)} for {len(class_names)} class names; allowed is (C, C)"
        )
    return list(class_names)


def _write_per_class(
    run: str | os.PathLike[str], names: Sequence[str], of_class: Any, predicted: Any, right: Any
) -> None:
    """One line per class: counts of images, then percentages, empty where the divisor is 0."""
    rows: list[list[Any]] = [["class", "images", "predicted", "right", "recall", "precision", "f1"]]
    for name, n, p, r in zip(names, of_class.tolist(), predicted.tolist(), right.tolist(), strict=True):
        shares = [_percent(r, n), _percent(r, p), _percent(2 * r, n + p)]
        rows.append([name, n, p, r, *shares])
    _write_rows(Path(run) / PER_CLASS, rows)


def _percent(part: int, of: int) -> str:
    return f"{100 * part / of:.2f}" if of else ""


def _write_rows(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with (
        writing(path),
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(rows)


def _figure(table: np.ndarray, names: Sequence[str]) -> Any:
    """Colour is the share of a true class's images, on a scale that makes even a few errors visible."""
    colors = required("matplotlib.colors", "matplotlib", "train")
    classes = len(names)
    cell = min(max(9 / classes, 0.17), 0.75) if classes <= NAMED else 16 / classes  # inches
    labels = [plots.shown(name, i) for i, name in enumerate(names)] if classes <= NAMED else []
    margin = 0.09 * max(map(len, labels), default=4)  # inches, for the names
    side = max(cell * classes, 1.8)
    figure = plots.figure(side + margin + 1.5, side + margin + 0.7)
    axes = figure.add_subplot()
    shares = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", norm=colors.PowerNorm(0.5, 0, 100), interpolation="none")
    bar = figure.colorbar(image, ax=axes, ticks=SHARES, shrink=min(1.0, 5 / side), pad=0.02)
    bar.set_label("percent of the true class", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.spines[:].set_color("#bbbbbb")
    if labels:
        text = {"fontsize": min(max(cell * 72 * 0.62, 7), 10), "family": list(plots.families())}
        upright = max(map(len, labels)) * 0.09 > cell
        axes.set_xticks(range(classes), labels, rotation=90 if upright else 0, parse_math=False, **text)
        axes.set_yticks(range(classes), labels, parse_math=False, **text)
        axes.tick_params(length=0)
    if classes <= NUMBERED:
        _number(axes, table, shares, cell)
    return figure


def _number(axes: Any, table: np.ndarray, shares: np.ndarray, cell: float) -> None:
    size = min(11.0, 72 * cell * 0.85 / (0.62 * len(str(table.max()))))
    for (i, j), count in np.ndenumerate(table):
        if count:
            ink = "white" if shares[i, j] > 35 else "#222222"
            axes.text(j, i, str(count), ha="center", va="center", fontsize=size, color=ink)
