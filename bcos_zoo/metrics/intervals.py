"""How far a score would differ on other images of the same kind: intervals by resampling groups."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, check_integer


@dataclass(frozen=True)
class Interval:
    """Where a score lies, according to `resamples` in which it was defined; nan if there were none."""

    low: float
    high: float
    resamples: int


def bootstrap(
    measure: Callable[[NDArray[np.int64]], Sequence[float]],
    groups: Sequence[Hashable] | Tensor | NDArray[Any],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 42,
) -> list[Interval]:
    """The percentile interval of each score that `measure` gives.

    A resample draws as many groups as there are, with replacement, and takes all images of each. So images of
    one patient, which resemble each other, are in or out together; drawn one by one, they would make the
    interval too narrow.
    measure: from image indices to scores, nan for any that is undefined there.
    groups: (M,), the group of each image, as a sequence, an array or a tensor; a group of its own for every
    image if none are known.
    confidence: in (0, 1). resamples: how many. seed: of all draws; each resample has a stream of its own.

    Raises InputError for other values, for groups of more than one axis or that cannot be told apart, and for
    fewer than two groups, which give no interval.
    Source: Efron and Tibshirani 1993, chapters 8 (drawing whole groups) and 13 (percentiles).

    ```python
    from bcos_zoo.metrics import bootstrap

    right = [1, 1, 0, 1, 1, 0, 1, 1]  # of each image
    patients = [0, 0, 1, 1, 2, 2, 3, 3]
    (accuracy,) = bootstrap(lambda images: [sum(right[i] for i in images) / len(images)], patients)
    assert 0.5 <= accuracy.low <= 0.75 <= accuracy.high
    ```
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence}: allowed are shares between 0 and 1, such as 0.95")
    check_integer("resamples", resamples, 1)
    members: dict[Hashable, list[int]] = {}
    for image, group in enumerate(_plain(groups)):
        members.setdefault(group, []).append(image)
    if len(members) < 2:
        raise InputError(f"{len(members)} group of images; an interval needs two or more")
    each = [np.array(images, dtype=np.int64) for images in members.values()]
    rows = []
    for stream in np.random.SeedSequence(seed).spawn(resamples):
        drawn = np.random.default_rng(stream).integers(len(each), size=len(each))
        rows.append(measure(np.concatenate([each[i] for i in drawn])))
    return [_interval(column, confidence) for column in np.array(rows, dtype=np.float64).T]


def _plain(groups: Sequence[Hashable] | Tensor | NDArray[Any]) -> list[Hashable]:
    """The group of each image as a plain value. Raises InputError for what is no group.

    Tensors of one value are taken out of their tensor: they are hashed by identity, so each would be a group.
    """
    numbers = isinstance(groups, (Tensor, np.ndarray))
    each: list[Any] = np.atleast_1d(np.asarray(groups)).tolist() if numbers else list(groups)
    each = [one.item() if isinstance(one, Tensor) and one.ndim == 0 else one for one in each]
    for one in each:
        if isinstance(one, (Tensor, list, dict, set, np.ndarray)):
            raise InputError(
                f"a group is a {type(one).__name__}; allowed is one number or text for each image, (M,)"
            )
    return each


def _interval(scores: NDArray[np.float64], confidence: float) -> Interval:
    defined = scores[~np.isnan(scores)]
    if not len(defined):
        return Interval(np.nan, np.nan, 0)
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), len(defined))
