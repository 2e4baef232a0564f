"""A task: labelled images for training and validation, from whatever holds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from . import splits
from .folders import from_folder
from .found import Found
from .samples import Samples
from .scan import check_share, scan


@dataclass(frozen=True)
class Task:
    """What a network is to learn."""

    train: Samples
    val: Samples
    class_names: tuple[str, ...]
    multilabel: bool
    unreadable: tuple[str, ...]  # 'name: why' of the images that were left out

    def class_counts(self) -> Tensor:
        """(C,) training images of each class."""
        return _counts(self.train, self.class_names)


def open_task(
    source: str | Path,
    *,
    val_share: float = 0.2,
    folds: int | None = None,
    fold: int = 0,
    seed: int = 42,
    train_split: str = "train",
    val_split: str | None = None,
    image_key: str = "image",
    label_key: str = "label",
    check: bool = True,
    bad_share: float = 0.01,
    threads: int | None = None,
    log: Callable[[str], object] = print,
) -> Task:
    """Find the images of a source, leave out those that cannot be read, and split them if they are not.

    source: a folder of class folders, or one with train/ and val/ (valid/, validation/, test/) of these.
    val_share: held out of each class, by `seed`; folds, fold: one of so many equal parts instead.
    check: decode every image once, in threads (one a core, unless given).
    bad_share: the largest share of unreadable images to go on with; above it UnreadableError.
    Raises InputError if there is no such source, for an empty class, for one class only, for too few images
    to split, and where the classes of both splits differ.
    """
    found = _find(source, train_split, val_split)
    if folds is not None and found.val is not None:
        raise InputError(f"{source} has a validation split, so folds={folds} cannot be made: leave folds out")
    train, val = found.train, found.val
    unreadable: tuple[str, ...] = ()
    multilabel = train.labels.ndim == 2
    if len(found.class_names) < 2 and not multilabel:
        raise InputError(f"{source}: one class only, {found.class_names[0]!r}; give images of two or more")
    if check:
        total = len(train) + len(val or ())
        train, unreadable = scan(train, threads)
        if val is not None:
            val, more = scan(val, threads)
            unreadable += more
        log(f"{total} images decoded; {len(unreadable)} cannot be read")
        check_share(unreadable, total, bad_share)
    for name, count in zip(found.class_names, _counts(train, found.class_names).tolist(), strict=True):
        if not count:
            raise InputError(f"{source}: class {name!r} has no image to read; add some, or remove it")
    if val is None:
        names = found.class_names
        if folds is None:
            parts = splits.held_out(train.labels, val_share, seed=seed, class_names=names)
        else:
            parts = splits.fold_of(train.labels, folds, fold, seed=seed, class_names=names)
        train, val = train.select(parts[0]), train.select(parts[1])
    if not len(val):
        raise InputError(f"{source}: no validation image can be read; add some")
    return Task(train, val, found.class_names, multilabel, unreadable)


def _find(source: str | Path, train_split: str, val_split: str | None) -> Found:
    path = Path(source)
    if path.is_dir():
        return from_folder(path, train_split, val_split)
    raise InputError(f"{source}: no such folder")


def _counts(samples: Samples, class_names: tuple[str, ...]) -> Tensor:
    if samples.labels.ndim == 2:
        return (samples.labels > 0).sum(0)
    return torch.bincount(samples.labels, minlength=len(class_names))
