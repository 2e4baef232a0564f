"""Scores of a network's answers, by class and with intervals: AUROC, sensitivity, accuracy."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import metrics
from ..errors import InputError
from ..metrics.checks import check_labels
from ..outputs import Outputs

RANKED = ("auroc", "sensitivity")  # computed for each class against all others
SPECIFICITY = 0.95
RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """One score on some images: that of a class, or the mean over the classes for which it is defined.

    top1, top5 and exact are in percent, as everywhere; auroc and sensitivity in [0, 1].
    """

    metric: str  # "auroc", "sensitivity", "top1", "top5" or "exact"
    label: str | None  # the class, with its index if another has its name; None for the mean
    value: float | None  # None if it is undefined on these images
    low: float | None = None  # lower end of the interval that was asked for
    high: float | None = None
    resamples: int | None = None  # the number in which the score was defined
    undefined: str | None = None  # why there is no value, or which classes the mean leaves out


@dataclass(frozen=True)
class Asked:
    """What is to be measured.

    metrics: any of RANKED and "accuracy". specificity: at which "sensitivity" is taken. confidence: of the
    intervals, None for no intervals. resamples, seed: of the bootstrap.
    Raises InputError for other values.
    """

    metrics: tuple[str, ...] = RANKED
    specificity: float = SPECIFICITY
    confidence: float | None = None
    resamples: int = RESAMPLES
    seed: int = 42

    def __post_init__(self) -> None:
        if not 0 <= self.specificity <= 1:
            raise InputError(
                f"specificity={self.specificity}: allowed are shares from 0 to 1, such as {SPECIFICITY}"
            )
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise InputError(
                f"confidence={self.confidence}: allowed are shares between 0 and 1, such as 0.95"
            )


def discriminate(
    outputs: Outputs,
    logits: Tensor,
    truth: Tensor,
    asked: Asked,
    groups: Sequence[Hashable] | Tensor | NDArray[Any] | None = None,
) -> list[Score]:
    """The scores that are asked for, metric by metric: first over all classes, then for each class.

    logits: (M, C) or as the network gives them. truth: (M,) class indices; for several labels (M, C) of 0 and
    1. By class indices "accuracy" is top1 and top5; by several labels it is exact: all of an image are right.
    groups: (M,) the group of each image, for the intervals; by default each image is its own group.
    A class is told from all others by its probability. Classes that no image shows, or that every image
    shows, have no such score and are left out of the mean; the scores say so.
    Raises InputError for groups that are not one for each image.

    ```python
    import torch

    import bcos_zoo
    from bcos_zoo.evaluate import Asked, discriminate

    clf = bcos_zoo.load("bcos_resnet20.cifar10")
    scores = discriminate(clf.outputs, 9 * torch.eye(10), torch.arange(10), Asked(("auroc",)))
    assert scores[0].label is None and scores[0].value == 1  # of all classes together
    ```
    """
    odds = outputs.log_odds(logits).cpu()
    shown = _shown(truth, odds).cpu()
    if groups is not None and len(groups) != len(odds):
        raise InputError(f"{len(groups)} groups for {len(odds)} images; give one for each")
    orders = torch.stack([metrics.ranks(column) for column in odds.T], 1)
    hits = _hits(odds, shown, several=truth.ndim == 2)
    ranked, classes = [name for name in asked.metrics if name in RANKED], (None, *range(odds.shape[1]))
    names: list[tuple[str, int | None]] = [(name, c) for name in ranked for c in classes]
    if "accuracy" in asked.metrics:
        names = [(name, None) for name in hits] + names

    def measure(some: NDArray[np.int64] | None = None) -> list[float]:
        at = torch.arange(len(odds)) if some is None else torch.from_numpy(some)
        found = [float(hit[at].mean()) for hit in hits.values()] if "accuracy" in asked.metrics else []
        for name in ranked:
            each = [_of_class(name, orders[at, c], shown[at, c], asked) for c in range(odds.shape[1])]
            defined = [value for value in each if not math.isnan(value)]
            found += [sum(defined) / len(defined) if defined else math.nan, *each]
        return found

    values = measure()
    intervals: Sequence[metrics.Interval | None] = [None] * len(values)
    if asked.confidence is not None:
        intervals = metrics.bootstrap(
            measure,
            range(len(odds)) if groups is None else groups,
            confidence=asked.confidence,
            resamples=asked.resamples,
            seed=asked.seed,
        )
    lacking = _lacking(shown)
    return [
        _score(name, c, value, interval, lacking, outputs.distinct_names)
        for (name, c), value, interval in zip(names, values, intervals, strict=True)
    ]


def _of_class(name: str, order: Tensor, shown: Tensor, asked: Asked) -> float:
    if name == "auroc":
        return metrics.auroc(order, shown)
    return metrics.sensitivity_at_specificity(order, shown, asked.specificity)


def _shown(truth: Tensor, odds: Tensor) -> Tensor:
    """(M, C) bool: the classes that an image shows. Raises InputError for truth that does not fit."""
    if not isinstance(truth, Tensor) or truth.ndim != 2:
        check_labels(truth, odds)
        return torch.nn.functional.one_hot(truth.long(), odds.shape[1]).bool()
    if truth.shape != odds.shape:
        raise InputError(
            f"truth of shape {tuple(truth.shape)} for logits of {tuple(odds.shape)}; allowed is the same"
        )
    return truth.bool()


def _hits(odds: Tensor, shown: Tensor, *, several: bool) -> dict[str, Tensor]:
    """(M,) 100 for each right answer, else 0: their mean is in percent. several: labels an image."""
    if several:
        return {"exact": 100 * ((odds > 0) == shown).all(1).double()}
    order = odds.topk(min(5, odds.shape[1])).indices
    right = shown.gather(1, order)
    hits = {"top1": 100 * right[:, 0].double()}
    return hits if odds.shape[1] <= 5 else hits | {"top5": 100 * right.any(1).double()}


def _lacking(shown: Tensor) -> dict[int, str]:
    """Why classes have no score that tells them from the others, by their index."""
    return {
        c: "no image shows it" if not n else "every image shows it"
        for c, n in enumerate(shown.sum(0).tolist())
        if n in (0, len(shown))
    }


def _score(
    name: str,
    of: int | None,
    value: float,
    interval: metrics.Interval | None,
    lacking: dict[int, str],
    labels: Sequence[str],
) -> Score:
    """of: the class, None for the mean over all."""
    label, why = (None, None) if of is None else (labels[of], lacking.get(of))
    if of is None and name in RANKED and lacking:
        why = "; ".join(f"{labels[c]}: {reason}" for c, reason in list(lacking.items())[:5])
        why += f"; and {len(lacking) - 5} more" if len(lacking) > 5 else ""
    if interval is None:
        return Score(name, label, _or_none(value), undefined=why)
    low, high = _or_none(interval.low), _or_none(interval.high)
    return Score(name, label, _or_none(value), low, high, interval.resamples, why)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
