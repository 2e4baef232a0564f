"""A task: labelled images for training and validation, from whatever holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

import torch
from torch import Tensor

from ..errors import InputError
from . import splits
from .archives import from_tar
from .folders import from_folder
from .found import Found
from .named import from_hugging_face, from_torchvision
from .samples import Samples
from .scan import check_share, scan
from .shards import from_shards
from .stream import Stream, from_stream
from .tables import from_csv

SOURCES = "a folder of class folders, a .csv, a .tar, hfds/NAME, hfids/NAME, torch/NAME or wds/FOLDER"


@dataclass(frozen=True)
class Task:
    """What a network is to learn."""

    train: Samples | Stream
    val: Samples
    class_names: tuple[str, ...]
    multilabel: bool
    unreadable: tuple[str, ...]  # 'name: why' of the images that were left out

    def class_counts(self) -> Tensor:
        """(C,) training images of each class. Raises InputError for a stream, which does not know them."""
        if isinstance(self.train, Stream):
            raise InputError(f"{self.train.name} is a stream, whose labels are not known before they come")
        return _counts(self.train, self.class_names)

    def draw_weights(self) -> Tensor:
        """(M,) how often to draw each training image, that all classes come up alike.

        Of several labels the rarest counts; an image without any is drawn as one of the most common class.
        Raises InputError for a stream.
        """
        rarity = 1 / self.class_counts().clamp_min(1).double()
        assert isinstance(self.train, Samples)  # class_counts has refused the others
        labels = self.train.labels
        return (
            rarity[labels] if labels.ndim == 1 else (labels * rarity).amax(1).clamp_min(float(rarity.min()))
        )

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 of classes, labels and names of all images, without folders, which may have moved."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        for samples in (self.train, self.val):
            if isinstance(samples, Stream):
                digest.update(repr(samples).encode())
                continue
            digest.update(samples.labels.numpy().tobytes())
            for i in range(len(samples)):
                digest.update(PurePath(samples.name(i)).name.encode() + b"\0")
        return digest.hexdigest()


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
    root: str | None = None,
    download: bool = False,
    check: bool = True,
    bad_share: float = 0.01,
    threads: int | None = None,
    log: Callable[[str], object] = print,
) -> Task:
    """Find the images of a source, leave out those that cannot be read, and split them if they are not.

    source: a folder or a .tar of class folders, maybe below train/ and val/ (valid/, validation/, test/); a
    .csv (see `from_csv`); or, through timm, hfds/NAME of Hugging Face, torch/NAME of torchvision (kept in
    `root`, and fetched with `download`), wds/FOLDER of webdataset, hfids/NAME or wds/ADDRESS as a stream.
    train_split, val_split, image_key, label_key: names in such sets. val_share: held out of each class, by
    `seed`, where there is no split; folds, fold: one of so many equal parts instead.
    check: decode every image once, in threads (one a core, unless given).
    bad_share: the largest share of unreadable images to go on with; above it UnreadableError.
    Raises InputError if there is no such source, for an empty class, for one class only, for too few images
    to split, and where the classes of both splits differ.
    """
    text, names = str(source), (train_split, val_split)
    if text.startswith(("hfids/", "wds/pipe:")) or (text.startswith("wds/") and "://" in text):
        if folds is not None:
            raise InputError(f"{source} is a stream, which is not divided: leave folds out")
        return _from_stream(Stream(text, train_split, 0, root, image_key, label_key), val_split, bad_share)
    if text.startswith("hfds/"):
        found = from_hugging_face(text, *names, root=root, image_key=image_key, label_key=label_key)
    elif text.startswith("torch/"):
        found = from_torchvision(text, *names, root=root, download=download)
    elif text.startswith("wds/"):
        found = from_shards(text, *names, label_key=label_key)
    else:
        found = _from_disk(Path(source), *names)
    if len(found.class_names) < 2 and found.train.labels.ndim == 1:
        raise InputError(f"{source}: one class only, {found.class_names[0]!r}; give images of two or more")
    if folds is not None and found.val is not None:
        raise InputError(f"{source} has a validation split, so folds={folds} cannot be made: leave folds out")
    train, val, unreadable = _checked(found, threads if check else 0, bad_share, log)
    for name, count in zip(found.class_names, _counts(train, found.class_names).tolist(), strict=True):
        if not count:
            raise InputError(f"{source}: class {name!r} has no image to read; add some, or remove it")
    if val is None:
        if folds is None:
            parts = splits.held_out(train.labels, val_share, seed=seed, class_names=found.class_names)
        else:
            parts = splits.fold_of(train.labels, folds, fold, seed=seed, class_names=found.class_names)
        train, val = train.select(parts[0]), train.select(parts[1])
    if not len(val):
        raise InputError(f"{source}: no validation image can be read; add some")
    return Task(train, val, found.class_names, train.labels.ndim == 2, unreadable)


def _from_disk(path: Path, train_split: str, val_split: str | None) -> Found:
    if path.is_dir():
        return from_folder(path, train_split, val_split)
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        return from_csv(path)
    if path.is_file() and path.suffix.lower() == ".tar":
        return from_tar(path, train_split, val_split)
    what = "no known kind of source" if path.exists() else "no such file or folder"
    raise InputError(f"{path}: {what}; give {SOURCES}")


def _from_stream(stream: Stream, val_split: str | None, bad_share: float) -> Task:
    stream, val, unreadable = from_stream(stream, val_split)
    check_share(unreadable, len(val) + len(unreadable), bad_share)
    if len(stream.class_names) < 2 and not stream.multilabel:
        raise InputError(f"{stream.name}: one class only; give images of two or more")
    if not len(val):
        raise InputError(f"{stream.name}: no validation image can be read; add some")
    return Task(stream, val, stream.class_names, stream.multilabel, unreadable)


def _checked(
    found: Found, threads: int | None, bad_share: float, log: Callable[[str], object]
) -> tuple[Samples, Samples | None, tuple[str, ...]]:
    """The images that can be decoded, by 0 threads all of them unseen; and the others, listed."""
    if threads == 0:
        return found.train, found.val, ()
    train, unreadable = scan(found.train, threads)
    val, more = (None, ()) if found.val is None else scan(found.val, threads)
    total = len(found.train) + len(found.val or ())
    unreadable += more
    log(f"{total} images decoded; {len(unreadable)} cannot be read")
    check_share(unreadable, total, bad_share)
    return train, val, unreadable


def _counts(samples: Samples, class_names: tuple[str, ...]) -> Tensor:
    if samples.labels.ndim == 2:
        return (samples.labels > 0).sum(0)
    return torch.bincount(samples.labels, minlength=len(class_names))
