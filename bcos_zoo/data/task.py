"""A task: labelled images for training and validation, from whatever holds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..files import is_file, is_folder
from . import groups, identity, options, splits
from .archives import from_tar
from .folders import from_folder
from .labelled import LabelledSet
from .libraries import from_hugging_face, from_torchvision
from .samples import Samples
from .scan import Scan, check_share, scan
from .shards import from_shards
from .stream import Stream, from_stream
from .tables import from_csv
from .unlabelled import from_unlabelled

SOURCES = "a folder of class folders, a .csv, a .tar, hfds/NAME, hfids/NAME, torch/NAME or wds/FOLDER"


@dataclass(frozen=True)
class Task:
    """What a network is to learn."""

    train: Samples | Stream
    val: Samples  # what chooses the best epoch
    class_names: tuple[str, ...]
    multilabel: bool
    unreadable: tuple[str, ...]  # 'name: why' of the images that were left out
    test: Samples | None = None  # for the final test only: nothing is chosen by it
    notes: tuple[str, ...] = ()  # what people should know about how the set was read
    drawn: bool = False  # whether validation was drawn from the training images, by seed
    found: dict[str, Samples | Stream] = field(default_factory=dict)  # the parts, unreadable images included
    scans: dict[str, Scan] = field(default_factory=dict)  # of each part in `found`; empty if unchecked

    def said(self) -> str:
        """How many images are for validation and for the test, and the classes, in words."""
        drawn = " (held out of them)" if self.drawn else ""
        end = f", {len(self.test)} for the final test" if self.test is not None else ""
        names = ", ".join(self.class_names[:10]) + (", ..." if len(self.class_names) > 10 else "")
        return f"{len(self.val)} for validation{drawn}{end}, {len(self.class_names)} classes: {names}"

    def state(self) -> dict[str, Any]:
        """Plain data by which `as_before` recognises the images."""
        parts = {part: {"left_out": s.left_out, "contents": s.contents} for part, s in self.scans.items()}
        return {"set": self.fingerprint, "parts": parts}

    def as_before(self, state: dict[str, Any], where: object) -> Task:
        """The task as it was when a run began, with the same images left out. state: its `state` then.

        The task is returned unchanged if the names or labels differ, which `fingerprint` tells. Images that
        have become unreadable stay in it: in training others stand in for them, in measurements they are left
        out. Raises InputError if the content of images has changed. where: what to call the run.
        """
        if state.get("set") != self.fingerprint:
            return self
        state = state["parts"]
        left, changed = dict[str, Samples | Stream](), list[str]()
        for part, samples in self.found.items():
            left[part] = samples
            if part not in state or isinstance(samples, Stream):
                continue
            before, now = state[part], self.scans.get(part)
            if now is not None:
                other = identity.other_content(before["contents"], now.contents).tolist()
                changed += [samples.name(i) for i in other]
            left[part] = _without(samples, before["left_out"])
        if changed:
            raise InputError(
                f"{where} is of a run with other images: {len(changed)} have changed since it began, such as "
                f"{changed[0]}; put them back, or start anew in another folder"
            )
        gone = tuple(
            samples.name(int(i)) + ": left out when the run began"
            for part, samples in self.found.items()
            if part in state and isinstance(samples, Samples)
            for i in state[part]["left_out"]
        )
        if not self.scans and not gone:
            return self
        val, test = left["val"], left.get("test")
        assert isinstance(val, Samples) and not isinstance(test, Stream)
        known = {line.split(": ")[0]: line for line in self.unreadable}
        unreadable = tuple(known.get(line.split(": ")[0], line) for line in gone)
        return replace(self, train=left["train"], val=val, test=test, unreadable=unreadable)

    def class_counts(self) -> Tensor:
        """(C,) training images of each class. Raises InputError for a stream, which does not know them."""
        if isinstance(self.train, Stream):
            raise InputError(f"{self.train.name} is a stream, whose labels are not known before they come")
        return _counts(self.train, self.class_names)

    def draw_weights(self) -> Tensor:
        """(M,) how often to draw each training image so that all classes come up equally often.

        An image with several labels is drawn as its rarest class, one without any as the most common class.
        Raises InputError for a stream.
        """
        rarity = 1 / self.class_counts().clamp_min(1).double()
        assert isinstance(self.train, Samples)  # class_counts has refused streams
        labels = self.train.labels
        return (
            rarity[labels] if labels.ndim == 1 else (labels * rarity).amax(1).clamp_min(float(rarity.min()))
        )

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 of the classes, labels and names of all images, readable or not, without their folders."""
        parts = {"train": self.train, "val": self.val} | ({"test": self.test} if self.test else {})
        return identity.of_parts(self.class_names, self.found or parts)


def open_task(
    source: str | Path,
    *,
    val_share: float = 0.2,
    folds: int | None = None,
    fold: int = 0,
    group: str | None = None,
    seed: int = 42,
    train_split: str = "train",
    val_split: str | None = None,
    image_key: str = "image",
    label_key: str = "label",
    root: str | None = None,
    download: bool = False,
    check: bool = True,
    bad_share: float = 0.01,
    threads: int | None = None,
    answers: Sequence[str] | None = None,
    log: Callable[[str], object] = print,
) -> Task:
    """Find the images of a source, split them if they are not split, and leave out those that cannot be read.

    source: a folder or a .tar of class folders, optionally below train/, val/ and test/ (or other names in
    `parts.NAMES`); a .csv (see `from_csv`); or, through timm, hfds/NAME of Hugging Face, torch/NAME of
    torchvision (kept in `root`, and fetched with `download`), wds/FOLDER of webdataset, hfids/NAME or
    wds/ADDRESS as a stream. A test part is set aside, as `Task.test`, unless it is the only one besides
    training: then it validates.
    train_split, val_split, image_key, label_key: names of splits and columns.
    val_share: how much of each class to hold out, by `seed`, if there is no split.
    folds, fold: hold out one of so many equal parts instead; fold says which, from 0.
    group: what tells groups apart, each of which stays on one side: a column of a .csv or of a Hugging Face
    set, or a pattern for paths below the root (see `groups.by_pattern`).
    check: decode every image once, in threads (one per core unless given), and hash its bytes.
    bad_share: the largest share of unreadable images to go on with; above it UnreadableError is raised.
    answers: for images without labels, the classes of the network that they are to be shown to: every image
    below a folder then counts, and is of the first of these classes until that network has said more.
    Raises InputError if the source does not exist, for an empty class, for a single class, for too few images
    or groups to split, for splits with different classes, and for a group in two parts.
    """
    text, names = str(source), (train_split, val_split)
    given = {
        name: value
        for name, value, usual in (
            ("val_share", val_share, 0.2), ("folds", folds, None), ("fold", fold, 0), ("seed", seed, 42),
            ("group", group, None), ("root", root, None), ("download", download, False),
            ("image_key", image_key, "image"), ("label_key", label_key, "label"),
        )
        if value != usual
    }  # fmt: skip
    options.check_kind(text, given)
    if answers is None and options.is_stream(text):
        if idle := [name for name in given if name in ("group", *options.DIVIDING)]:
            raise InputError(f"{source} is a stream, which is not divided: leave {idle[0]} out")
        stream = Stream(text, train_split, 0, root, image_key, label_key)
        return _from_stream(stream, val_split, bad_share, log)
    if answers is not None:
        found = from_unlabelled(Path(source), *names, group)
    elif text.startswith("hfds/"):
        found = from_hugging_face(
            text, *names, root=root, image_key=image_key, label_key=label_key, group=group
        )
    elif text.startswith("torch/"):
        found = from_torchvision(text, *names, root=root, download=download, group=group)
    elif text.startswith("wds/"):
        found = from_shards(text, *names, label_key=label_key, group=group)
    else:
        found = _from_disk(Path(source), *names, group)
    if not len(found.train):
        raise InputError(f"{source}: no training image; give some of two classes or more")
    if answers is None and len(found.class_names) < 2 and found.train.labels.ndim == 1:
        raise InputError(f"{source}: one class only, {found.class_names[0]!r}; give images of two or more")
    options.check_division(text, given, divided=found.val is None)
    groups.check_apart(source, {"train": found.train, "val": found.val, "test": found.test})
    whole = _divided(found, val_share, folds, fold, seed)
    scans = {name: scan(one, threads) for name, one in whole.items()} if check else {}
    unreadable = tuple(line for one in scans.values() for line in one.unreadable)
    notes = list(found.notes)
    if check:
        total = sum(map(len, whole.values()))
        log(f"{total} images decoded; {len(unreadable)} cannot be read")
        check_share(unreadable, total, bad_share)
        notes += _twice(whole, scans)
    for line in notes:
        log(line)
    parts = {name: _without(one, scans[name].left_out) if check else one for name, one in whole.items()}
    train, val, test = parts["train"], parts["val"], parts.get("test")
    for name, count in zip(found.class_names, _counts(train, found.class_names).tolist(), strict=True):
        if not count:
            raise InputError(
                f"{source}: class {name!r} has no readable training image; add some, or remove it"
            )
    if not len(val):
        raise InputError(f"{source}: no validation image can be read; add some")
    test = test if test is not None and len(test) else None
    class_names = found.class_names if answers is None else tuple(answers)
    return Task(
        train, val, class_names, train.labels.ndim == 2, unreadable, test, tuple(notes),
        found.val is None, dict(whole), scans,
    )  # fmt: skip


def _divided(
    found: LabelledSet, val_share: float, folds: int | None, fold: int, seed: int
) -> dict[str, Samples]:
    """The parts of a set, validation drawn from training where it has none. Unreadable images count too: so
    an image that breaks does not move any other to another side.
    """
    train, val = found.train, found.val
    if val is None:
        known: dict[str, Any] = {"seed": seed, "class_names": found.class_names, "groups": train.groups}
        if folds is None:
            sides = splits.held_out(train.labels, val_share, **known)
        else:
            sides = splits.fold_of(train.labels, folds, fold, **known)
        train, val = train.select(sides[0]), train.select(sides[1])
    return {"train": train, "val": val} | ({} if found.test is None else {"test": found.test})


def _without(samples: Samples, left_out: Tensor) -> Samples:
    if not len(left_out):
        return samples
    kept = torch.ones(len(samples), dtype=torch.bool)
    kept[left_out] = False
    return samples.select(kept.nonzero()[:, 0])


def _twice(whole: dict[str, Samples], scans: dict[str, Scan]) -> list[str]:
    """Warnings about images that are, byte for byte, in two parts."""
    lines = []
    for before, part in combinations(whole, 2):  # training comes first, the final test last
        if len(shared := identity.shared_content(scans[part].contents, scans[before].contents)):
            first = whole[part].name(int(shared[0]))
            why = "their score says nothing"
            if before != "train":
                why = f"they helped to choose the epoch, so the score of {part} is too good"
            lines.append(
                f"warning: {len(shared)} of {len(whole[part])} images of {part} are in {before} too, byte "
                f"for byte, such as {first}: {why}"
            )
    return lines


def _from_disk(path: Path, train_split: str, val_split: str | None, group: str | None) -> LabelledSet:
    if is_folder(path):
        return from_folder(path, train_split, val_split, group)
    if is_file(path) and path.suffix.lower() in (".csv", ".tsv"):
        return from_csv(path, train_split, val_split, group)
    if is_file(path) and path.suffix.lower() == ".tar":
        return from_tar(path, train_split, val_split, group)
    what = "no known kind of source" if is_file(path) else "no such file or folder"
    raise InputError(f"{path}: {what}; give {SOURCES}")


def _from_stream(
    stream: Stream, val_split: str | None, bad_share: float, log: Callable[[str], object]
) -> Task:
    stream, val, unreadable, notes = from_stream(stream, val_split)
    for line in notes:
        log(line)
    check_share(unreadable, len(val) + len(unreadable), bad_share)
    if len(stream.class_names) < 2 and not stream.multilabel:
        raise InputError(f"{stream.name}: one class only; give images of two or more")
    if not len(val):
        raise InputError(f"{stream.name}: no validation image can be read; add some")
    return Task(
        stream, val, stream.class_names, stream.multilabel, unreadable, notes=notes,
        found={"train": stream, "val": val},
    )  # fmt: skip


def _counts(samples: Samples, class_names: tuple[str, ...]) -> Tensor:
    if samples.labels.ndim == 2:
        return (samples.labels > 0).sum(0)
    return torch.bincount(samples.labels, minlength=len(class_names))
