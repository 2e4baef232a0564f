"""Learning curves: losses and scores of a run against the epoch."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..extras import required
from ..pictures import plots
from .history import LOSSES, EpochRow, score_names
from .runs import writing

PICTURE = "curves.png"
WIDTH, HEIGHT = 4.4, 3.4  # inches of a panel
MANY = 40  # with more epochs, single ones are not marked
WIDE = 20.0  # ratio of the largest to the smallest loss above which the scale is logarithmic
LABELS = {"train_loss": "training", "val_loss": "validation", "top1": "top-1", "top5": "top-5"}


def draw(run: str | os.PathLike[str], rows: Sequence[EpochRow], *, best: int | None = None) -> Path | None:
    """Write `curves.png`: the losses, and beside them the scores, if there are any.

    rows: as `history.write` takes them; epochs without a value are bridged. best: an epoch to mark.
    Returns its path, None if there is nothing to draw. Raises InputError if matplotlib is not installed, and
    where it cannot be written.
    """
    groups = _groups(rows)
    if not groups:
        return None
    figure = plots.figure(WIDTH * len(groups), HEIGHT)
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        _panel(axes, rows, *group, best)
    with writing(Path(run) / PICTURE):
        return plots.save(figure, Path(run) / PICTURE, dpi=150)


def apart(rows: Sequence[EpochRow], best: int) -> list[tuple[str, Image.Image]]:
    """The same curves, each panel a picture of its own, for narrow screens; with what it shows, in words."""
    found = []
    for label, names in _groups(rows).items():
        figure = plots.figure(WIDTH, HEIGHT)
        _panel(figure.add_subplot(), rows, label, names, best)
        found.append((_in_words(rows, label, names), plots.picture(figure, dpi=150)))
    return found


def _groups(rows: Sequence[EpochRow]) -> dict[str, list[str]]:
    """What each panel is labelled, and the columns that it shows."""
    groups = {
        "loss": [name for name in LOSSES if any(_known(row, name) for row in rows)],
        "percent of the validation images": score_names(rows),
    }
    return {label: names for label, names in groups.items() if any(_known(r, n) for r in rows for n in names)}


def _panel(axes: Any, rows: Sequence[EpochRow], label: str, names: Sequence[str], best: int | None) -> None:
    for name, colour in zip(names, plots.COLOURS * len(names), strict=False):
        _line(axes, rows, name, colour)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if len(rows) == 1:
        axes.set_xlim(rows[0]["epoch"] - 0.5, rows[0]["epoch"] + 0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    if label == "loss":
        _scale_losses(axes, [row[name] for row in rows for name in names if _known(row, name)])
    if best is not None:
        axes.axvline(best, color=plots.GREY, linewidth=0.8, linestyle=":", label=f"kept, epoch {best}")
    axes.legend(fontsize=8, frameon=False)


def _in_words(rows: Sequence[EpochRow], label: str, names: Sequence[str]) -> str:
    """Where each curve begins and ends, such as "loss: training 0.6 in epoch 1, 0.1 in epoch 5"."""
    said = []
    for name in names:
        values = [f"{row[name]:.3g} in epoch {row['epoch']}" for row in rows if _known(row, name)]
        if values:
            said.append(f"{shown(name)} {', '.join(dict.fromkeys((values[0], values[-1])))}")
    return f"{label}: {'; '.join(said)}"


def shown(name: str) -> str:
    """What people read for a column."""
    return LABELS.get(name, name.replace("_", " "))


def _line(axes: Any, rows: Sequence[EpochRow], name: str, colour: str) -> None:
    points = [(row["epoch"], row[name]) for row in rows if _known(row, name)]
    if not points:
        return
    style: dict[str, Any] = {
        "color": colour,
        "linewidth": 1.6,
        "label": shown(name),
    }
    if len(points) <= MANY:
        style |= {"marker": "o", "markersize": 3}
    axes.plot(*zip(*points, strict=True), **style)


def _scale_losses(axes: Any, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    if low <= 0 or high / low <= WIDE:
        return
    ticks = required("matplotlib.ticker", "matplotlib", "train")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticks.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticks.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(ticks.NullLocator())


def _known(row: EpochRow, name: str) -> bool:
    value = row.get(name)
    return value is not None and math.isfinite(value)
