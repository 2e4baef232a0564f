"""Splits made by seed: held-out shares and folds, with every class on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from . import seeds


def held_out(
    labels: Tensor, share: float, *, seed: int, class_names: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Numbers of the training and of the validation images, both in rising order.

    labels: (M,) indices or (M, C) of 0 and 1. Of each class the share is held out, rounded, but at least one
    image, and at least one is left. Raises InputError for a class with fewer than two images.
    """
    if not 0 < share < 1:
        raise InputError(f"val_share={share}: allowed are shares between 0 and 1")
    counts = _counts(labels, class_names, least=2, use="a split for validation needs")
    wanted = [min(max(round(share * count), 1), count - 1) for count in counts]
    sizes = [[count - val, val] for count, val in zip(counts, wanted, strict=True)]
    return _parted(_deal(labels, sizes, seed), 1, labels, class_names)


def fold_of(
    labels: Tensor, folds: int, fold: int, *, seed: int, class_names: Sequence[str]
) -> tuple[list[int], list[int]]:
    """As `held_out`, of `folds` equal parts the one numbered `fold`, from 0. The folds partition the images.

    Raises InputError for a class with fewer images than folds.
    """
    if folds < 2 or not 0 <= fold < folds:
        raise InputError(f"fold={fold} of folds={folds}: allowed are at least 2 folds, counted from 0")
    counts = _counts(labels, class_names, least=folds, use=f"{folds} folds need")
    turn = 0  # the larger parts go round, or the first fold would get them all
    wanted = []
    for count in counts:
        wanted.append([count // folds + ((part - turn) % folds < count % folds) for part in range(folds)])
        turn += count % folds
    return _parted(_deal(labels, wanted, seed), fold, labels, class_names)


def _counts(labels: Tensor, class_names: Sequence[str], *, least: int, use: str) -> list[int]:
    counts = torch.bincount(labels, minlength=len(class_names)) if labels.ndim == 1 else (labels > 0).sum(0)
    for name, count in zip(class_names, counts.tolist(), strict=True):
        if count < least:
            raise InputError(
                f"class {name!r} has {count} images; {use} at least {least}: add some, or split the set"
            )
    return counts.tolist()


def _parted(
    parts: Tensor, val: int, labels: Tensor, class_names: Sequence[str]
) -> tuple[list[int], list[int]]:
    held = parts == val
    if labels.ndim == 2:  # an image of several classes cannot follow the wishes of all of them
        sides = zip(class_names, (labels[held] > 0).any(0), (labels[~held] > 0).any(0), strict=True)
        if lacking := [name for name, *both in sides if not all(both)]:
            raise InputError(
                f"class {lacking[0]!r} is rare, and came out on one side of the split only; give more images "
                "of it, another seed, or a split of your own"
            )
    return (~held).nonzero()[:, 0].tolist(), held.nonzero()[:, 0].tolist()


def _deal(labels: Tensor, wanted: list[list[int]], seed: int) -> Tensor:
    """(M,) the part each image goes to. wanted: of each class, how many images each part is to get."""
    if labels.ndim == 2:
        return _deal_several(labels > 0, torch.tensor(wanted, dtype=torch.float64), seed)
    parts = torch.empty(len(labels), dtype=torch.int64)
    for index, sizes in enumerate(wanted):
        members = (labels == index).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=seeds.generator(seed, index))]
        parts[members] = torch.repeat_interleave(torch.tensor(sizes))
    return parts


def _deal_several(has: Tensor, wanted: Tensor, seed: int) -> Tensor:
    """Iterative stratification: the images of the rarest class first, each to the part that lacks it most."""
    order = torch.randperm(len(has), generator=seeds.generator(seed))
    member, wish = has[order].numpy(), wanted.numpy().copy()
    room = wish.sum(0) / wish.sum() * len(has)
    parts = np.full(len(has), -1)
    while (free := parts < 0).any():
        counts = member[free].sum(0)
        rarest = int(np.where(counts > 0, counts, len(has) + 1).argmin())
        own = free & member[:, rarest] if counts.any() else free  # at last those of no class
        for image in own.nonzero()[0]:
            lack = wish[rarest] if counts.any() else room
            part = int(np.lexsort((room, lack))[-1])  # of equals, the one with the most room
            parts[image] = part
            wish[member[image], part] -= 1
            room[part] -= 1
    result = torch.empty(len(has), dtype=torch.int64)
    result[order] = torch.from_numpy(parts)
    return result
