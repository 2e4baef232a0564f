"""The numbers that each key of a recipe may be: one table, and one function that reads it.

It stands here, and not with the run, because the table `[augment]` belongs to the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bound:
    """A range of finite numbers.

    with_low, with_high: whether its ends belong to it. whole: whole numbers only, for the words; types are
    checked elsewhere. word: a text that is allowed too.
    """

    low: float
    high: float = math.inf
    with_low: bool = True
    with_high: bool = True
    whole: bool = False
    word: str | None = None

    def allows(self, value: Any) -> bool:
        """Whether a value is in the range; NaN and infinity never are."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return value is not None and value == self.word
        above = value >= self.low if self.with_low else value > self.low
        below = value <= self.high if self.with_high else value < self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        what = (f"{self.word!r} and " if self.word else "") + ("whole numbers" if self.whole else "numbers")
        low, high = f"{self.low:g}", f"{self.high:.15g}"
        if self.high == math.inf:
            from_low = f"{what} {'from' if self.with_low else 'above'} {low}"
            return f"{low} and more" if self.whole else from_low
        if not self.with_low:
            above = f"{what} above {low}, up to {high}"
            return above if self.with_high else f"{what} between {low} and {high}"
        return f"{what} from {low} to {'' if self.with_high else 'below '}{high}"


ONE_AND_MORE = Bound(1)
POSITIVE = Bound(0, with_low=False)
NOT_NEGATIVE = Bound(0)
PROBABILITY = Bound(0, 1)
BELOW_1 = Bound(0, 1, with_high=False)
PART = Bound(0, 1, with_low=False)
BETWEEN = Bound(0, 1, with_low=False, with_high=False)
ZERO, ONE, TWO = (Bound(least, whole=True) for least in (0, 1, 2))
SEED = Bound(0, 2**32 - 1, whole=True)

BOUNDS: dict[str, Mapping[str, Bound]] = {  # table -> key -> its range; of several numbers, that of each
    "data": {
        "input_size": ONE,
        "val_size": ONE,
        "crop_pct": PART,
        "val_share": BETWEEN,
        "folds": TWO,
        "fold": ZERO,
        "seed": SEED,
        "bad_share": BELOW_1,
        "workers": ZERO,
    },
    "augment": {
        "scale": PART,
        "ratio": POSITIVE,
        "shift": ZERO,
        "hflip": PROBABILITY,
        "vflip": PROBABILITY,
        "color_jitter": NOT_NEGATIVE,
        "erase": PROBABILITY,
        "mixup": NOT_NEGATIVE,
        "cutmix": NOT_NEGATIVE,
        "mixup_prob": PROBABILITY,
        "mixup_switch_prob": PROBABILITY,
        "repeats": ONE,
    },
    "loss": {"off_label": Bound(0, 1, with_high=False, word="uniform"), "smoothing": BELOW_1},
    "optimizer": {
        "lr": POSITIVE,
        "head_lr": POSITIVE,
        "weight_decay": NOT_NEGATIVE,
        "layer_decay": PART,
        "clip": POSITIVE,  # below 0, it would turn gradients round
        "warmup_epochs": NOT_NEGATIVE,
        "warmup_factor": PROBABILITY,
        "min_lr": NOT_NEGATIVE,
        "milestones": ONE,
        "decay_epochs": POSITIVE,
        "decay_rate": POSITIVE,  # above 1 for the schedule "poly", whose power it is
        "ema_decay": BELOW_1,
        "ema_every": ONE,
    },
    "teacher": {
        "answers": NOT_NEGATIVE,
        "temperature": POSITIVE,
        "features": NOT_NEGATIVE,
        "hints": NOT_NEGATIVE,
        "labels": NOT_NEGATIVE,
    },
    "conversion": {
        "constants": PROBABILITY,
        "constants_epochs": NOT_NEGATIVE,
        "b_from": ONE_AND_MORE,
        "b_epochs": ONE,
        "estimate": ZERO,
    },
    "run": {
        "epochs": ONE,
        "minutes": POSITIVE,
        "batch_size": ONE,
        "accumulate": ONE,
        "seed": SEED,
        "validate_every": ONE,
        "save_minutes": NOT_NEGATIVE,
        "save_steps": ZERO,
        "keep": ONE,
        "patience": ONE,
        "snapshots": ZERO,
        "snapshot_every": ONE,
    },
}


def faults(table: str, values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the values of a table, a text for each key; None is passed over.

    Keys that the table of bounds does not have, because they are no numbers, are passed over too.
    """
    found = []
    for key, bound in BOUNDS.get(table, {}).items():
        value = values.get(key)
        each = value if isinstance(value, (list, tuple)) else () if value is None else (value,)
        if not all(map(bound.allows, each)):
            shown = list(value) if isinstance(value, tuple) else value
            found.append(f"{table}.{key}={shown!r}: allowed are {bound}")
    return found
