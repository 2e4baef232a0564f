"""What each kind of source gives, before it is checked and split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .samples import Samples, Source

VAL_NAMES = ("val", "valid", "validation", "test")  # the first that is there


@dataclass(frozen=True)
class Found:
    """A set of images as it was found."""

    train: Samples
    val: Samples | None  # None: it has no split of its own
    class_names: tuple[str, ...]


def by_names(where: object, source: Source, labels: Sequence[str], splits: Sequence[str]) -> Found:
    """Found images whose classes are given by name, in the order of the names.

    splits: "train", "val" or "" (in neither) for each. Raises InputError if both splits are there, and one
    has a class that the other lacks.
    """
    names = tuple(sorted({label for label, split in zip(labels, splits, strict=True) if split}))
    index = {name: i for i, name in enumerate(names)}
    targets = torch.tensor([index.get(label, -1) for label in labels])
    everything = Samples(source, torch.arange(len(targets)), targets)
    parts = [everything.select([i for i, s in enumerate(splits) if s == part]) for part in ("train", "val")]
    train, val = parts
    if not len(val):
        return Found(train, None, names)
    if only := set(train.labels.tolist()) ^ set(val.labels.tolist()):
        said = ", ".join(names[i] for i in sorted(only)[:5])
        raise InputError(f"{where}: {said} in one of training and validation only; give both the same")
    return Found(train, val, names)


def values_of(where: str, targets: Sequence[Any]) -> tuple[str, ...]:
    """The classes, of labels that come without a list of them."""
    flat = [value for target in targets for value in (target if isinstance(target, list) else [target])]
    if not all(isinstance(value, (int, str)) for value in flat):
        wrong = next(value for value in flat if not isinstance(value, (int, str)))
        raise InputError(f"{where}: a label is {wrong!r}; numbers or names of classes are needed")
    return tuple(map(str, sorted(set(flat), key=lambda value: (isinstance(value, str), value))))


def to_labels(where: str, targets: Sequence[Any], names: tuple[str, ...], *, numbered: bool) -> Tensor:
    """(M,) or (M, C) as in `Samples`. numbered: the labels are numbers of names; else names."""
    index = {i if numbered else name: i for i, name in enumerate(names)}

    def number(row: int, value: Any) -> int:
        found = index.get(value if numbered else str(value))
        if found is None:
            raise InputError(f"{where}, row {row}: label {value!r} is not in the training images; remove it")
        return found

    if not any(isinstance(target, list) for target in targets):
        return torch.tensor([number(row, target) for row, target in enumerate(targets)], dtype=torch.int64)
    several = torch.zeros(len(targets), len(names))
    for row, target in enumerate(targets):
        several[row, [number(row, value) for value in target]] = 1
    return several
