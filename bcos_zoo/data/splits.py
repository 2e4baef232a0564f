"""Splits drawn by a seed: held-out shares and folds, with every class on both sides and each group on one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..extras import required
from . import seeds

Sides = tuple[list[int], list[int]]


def held_out(
    labels: Tensor, share: float, *, seed: int, class_names: Sequence[str], groups: np.ndarray | None = None
) -> Sides:
    """Indices of the training images and of the validation images, both ascending.

    labels: (M,) indices or (M, C) of 0 and 1. groups: (M,); each group stays on one side. The share of each
    class is held out, rounded, but at least one image is held out and at least one is not; with groups, as
    nearly as they allow. Raises InputError for a class with fewer than two images, or groups.
    """
    if not 0 < share < 1:
        raise InputError(f"val_share={share}: allowed are shares between 0 and 1")
    counts = _counts(labels, class_names, groups, least=2, use="a split for validation needs")
    wanted = [min(max(round(share * count), 1), count - 1) for count in counts]
    sizes = [[count - val, val] for count, val in zip(counts, wanted, strict=True)]
    return _parted(_deal(labels, sizes, seed, groups), 1, labels, class_names)


def fold_of(
    labels: Tensor,
    folds: int,
    fold: int,
    *,
    seed: int,
    class_names: Sequence[str],
    groups: np.ndarray | None = None,
) -> Sides:
    """As `held_out`, holding out part number `fold`, from 0, of `folds` equal parts of the images.

    With one label per image the folds are scikit-learn's. Raises InputError for a class with fewer images, or
    groups, than folds.
    """
    if folds < 2 or not 0 <= fold < folds:
        raise InputError(f"fold={fold} of folds={folds}: allowed are at least 2 folds, counted from 0")
    counts = _counts(labels, class_names, groups, least=folds, use=f"{folds} folds need")
    if labels.ndim == 1:
        found: Any = required("sklearn.model_selection", "scikit-learn", "train")
        kind = found.StratifiedKFold if groups is None else found.StratifiedGroupKFold
        made = kind(folds, shuffle=True, random_state=seeds.mix(seed) % 2**32)
        held = list(made.split(np.zeros(len(labels)), labels.numpy(), groups))[fold][1]
        parts = torch.zeros(len(labels), dtype=torch.int64)
        parts[torch.from_numpy(held)] = 1
        return _parted(parts, 1, labels, class_names)
    turn = 0  # the larger parts rotate, or the first fold would get them all
    wanted = []
    for count in counts:
        wanted.append([count // folds + ((part - turn) % folds < count % folds) for part in range(folds)])
        turn += count % folds
    return _parted(_deal(labels, wanted, seed, groups), fold, labels, class_names)


def _counts(
    labels: Tensor, class_names: Sequence[str], groups: np.ndarray | None, *, least: int, use: str
) -> list[int]:
    """The number of images of each class. Raises InputError if one has too few, or too few groups."""
    for index, name in enumerate(class_names):
        own = (labels == index if labels.ndim == 1 else labels[:, index] > 0).numpy()
        count, what = (int(own.sum()), "images") if groups is None else (len(set(groups[own])), "groups")
        if count < least:
            raise InputError(
                f"class {name!r} has {count} {what}; {use} at least {least}: add some, or split the set"
            )
    counts = torch.bincount(labels, minlength=len(class_names)) if labels.ndim == 1 else (labels > 0).sum(0)
    return counts.tolist()


def _parted(parts: Tensor, val: int, labels: Tensor, class_names: Sequence[str]) -> Sides:
    held = parts == val
    # An image or group that has several classes cannot go where each of them needs it.
    has = labels > 0 if labels.ndim == 2 else torch.nn.functional.one_hot(labels, len(class_names)) > 0
    sides = zip(class_names, has[held].any(0), has[~held].any(0), strict=True)
    if lacking := [name for name, *both in sides if not all(both)]:
        raise InputError(
            f"class {lacking[0]!r} is rare, and came out on one side of the split only; give more images "
            "of it, another data.seed, or a split of your own"
        )
    return (~held).nonzero()[:, 0].tolist(), held.nonzero()[:, 0].tolist()


def _deal(labels: Tensor, wanted: list[list[int]], seed: int, groups: np.ndarray | None) -> Tensor:
    """(M,) the part each image goes to. wanted: for each class, how many images each part is to get."""
    if labels.ndim == 2 or groups is not None:
        has = labels > 0 if labels.ndim == 2 else torch.nn.functional.one_hot(labels, len(wanted)) > 0
        each = np.arange(len(labels)) if groups is None else groups
        _, member = np.unique(each.astype(str) if groups is not None else each, return_inverse=True)
        counts = np.zeros((member.max() + 1, has.shape[1]))
        np.add.at(counts, member, has.numpy())
        parts = _deal_groups(counts, np.bincount(member), np.array(wanted, dtype=float), seed)
        return torch.from_numpy(parts[member])
    parts_ = torch.empty(len(labels), dtype=torch.int64)
    for index, sizes in enumerate(wanted):
        members = (labels == index).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=seeds.generator(seed, index))]
        parts_[members] = torch.repeat_interleave(torch.tensor(sizes))
    return parts_


def _deal_groups(counts: np.ndarray, sizes: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    """(G,) the part each group goes to, by iterative stratification: groups with the rarest class first.

    counts: (G, C) images of each class. sizes: (G,) images in each. wanted: (C, P) images for each part.
    Large groups go before small ones, each to the part that lacks this class most; the last ones of a class
    go to parts that have none of it yet. Source: Sechidis et al. 2011, there for single images.
    """
    order = torch.randperm(len(counts), generator=seeds.generator(seed)).numpy()
    order = order[np.argsort(-sizes[order], kind="stable")]
    counts, sizes = counts[order], sizes[order]
    wish, got = wanted.copy(), np.zeros_like(wanted)
    room = wish.sum(0) / wish.sum() * sizes.sum()
    parts = np.full(len(counts), -1)
    while (free := parts < 0).any():
        left = (counts[free] > 0).sum(0)
        rarest = int(np.where(left > 0, left, len(counts) + 1).argmin())
        own = free & (counts[:, rarest] > 0) if left.any() else free  # finally those without a class
        waiting = int(own.sum())
        for group in own.nonzero()[0]:
            none = (got[rarest] == 0) & (wanted[rarest] > 0)
            allowed = none if left.any() and none.sum() >= waiting else np.ones(len(room), dtype=bool)
            lack = np.where(allowed, wish[rarest] if left.any() else room, -np.inf)
            part = int(np.lexsort((room, lack))[-1])  # among equals, the one with the most room
            parts[group] = part
            wish[:, part] -= counts[group]
            got[:, part] += counts[group]
            room[part] -= sizes[group]
            waiting -= 1
    result = np.empty(len(counts), dtype=np.int64)
    result[order] = parts
    return result
