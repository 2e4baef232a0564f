"""What a run measured, epoch by epoch, as tables."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import WeightsError, reason
from ..files import replacing
from .runs import writing

EpochRow = dict[str, Any]  # the name of a column -> a number, or None where it was not measured
CSV, JSON = "metrics.csv", "metrics.json"
LOSSES = ("train_loss", "val_loss")
FIRST = ("epoch", "step", "lr", *LOSSES)
LAST = ("seconds", "images_per_second", "unreadable")


def columns(rows: Sequence[EpochRow]) -> list[str]:
    """The names of all columns: position in the run, losses, scores in order of appearance, time, images."""
    seen = dict.fromkeys(name for row in rows for name in row)
    return [
        *(name for name in FIRST if name in seen),
        *score_names(rows),
        *(name for name in LAST if name in seen),
    ]


def score_names(rows: Sequence[EpochRow]) -> list[str]:
    """The columns that are scores, in percent: all but the usual ones."""
    seen = dict.fromkeys(name for row in rows for name in row)
    return [name for name in seen if name not in FIRST + LAST]


def write(run: str | os.PathLike[str], rows: Sequence[EpochRow]) -> None:
    """Write `metrics.csv` and `metrics.json` anew, one row per epoch.

    rows: "epoch", then any of step, lr, train_loss, val_loss, scores, seconds, images_per_second and
    unreadable (images). What a row lacks stays empty. nan is null in the JSON, which has no nan.
    Raises InputError where they cannot be written.
    """
    table, document = Path(run) / CSV, Path(run) / JSON
    with writing(table), replacing(table) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns(rows), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with writing(document), replacing(document) as temporary:
        text = json.dumps([plain(row) for row in rows], indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read(run: str | os.PathLike[str]) -> list[EpochRow]:
    """The rows of a run's `metrics.json`; none without that file. Raises WeightsError if it is damaged."""
    path = Path(run) / JSON
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged ({reason(error)}); delete it, a run writes it anew") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "epoch" in row for row in rows):
        raise WeightsError(f"{path} holds no list of epochs; delete it, a run writes it anew")
    return rows


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for JSON, with null for what is not finite."""
    return {key: _or_null(value) for key, value in row.items()}


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
