"""Data sets by name, through timm: Hugging Face's (`hfds/`) and torchvision's (`torch/`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_dataset

from .. import images
from ..errors import InputError, reason
from ..extras import required
from ..files import reading
from . import groups, parts
from .folders import from_folder
from .labelled import LabelledSet, to_labels, unknown_labels, values_of
from .samples import Files, ImageStore, Samples

# The splits of each set of torchvision's that timm opens and that lists its classes and labels.
SPLITS = {
    **dict.fromkeys(("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist"), ("train", "test")),
    "imagenet": ("train", "val"),
    "places365": ("train", "val", "train-challenge"),
}


@dataclass(frozen=True)
class Rows:
    """Images of a Hugging Face data set, read by timm."""

    reader: Any
    title: str

    def load(self, index: int) -> Image.Image:
        return images.decode_rgb(self.content(index), self.name(index))

    def content(self, index: int) -> bytes:
        try:
            file, *_ = self.reader[index]
            with file:
                data: bytes = file.read()
        except (OSError, AssertionError, TypeError) as error:  # a missing file; a row without an image
            raise InputError(f"{self.name(index)!r} has no image ({reason(error)}); mend it") from error
        return data

    def name(self, index: int) -> str:
        return f"{self.title}, row {index}"


@dataclass(frozen=True)
class Items:
    """Images of a torchvision data set that are not files."""

    dataset: Any
    title: str

    def load(self, index: int) -> Image.Image:
        with reading(self.name(index)):
            image = self.dataset[index][0]
        return images.load_rgb(image)

    def content(self, index: int) -> bytes:
        image = self.load(index)
        return repr(image.size).encode() + image.tobytes()

    def name(self, index: int) -> str:
        return f"{self.title}, item {index}"


def from_hugging_face(
    name: str,
    train_split: str,
    val_split: str | None,
    *,
    root: str | None,
    image_key: str,
    label_key: str,
    group: str | None = None,
) -> LabelledSet:
    """A data set that `datasets.load_dataset` opens: a name on the Hub, or a folder. root: its cache.

    label_key: a column of class numbers or names, or of lists of these; or columns of 0 and 1, with commas.
    group: a column. Raises InputError for what cannot be opened, and for labels of another kind.
    """
    datasets = required("datasets", "datasets", "train")

    def read(split: str) -> tuple[Any, list[Any], np.ndarray | None]:
        options = {"input_key": image_key, "target_key": label_key}
        try:
            reader = create_dataset(name, root=root, split=split, **options).reader
            columns = [one for one in reader.dataset.column_names if one != image_key]
            if reader.dataset.data[image_key].null_count == len(reader):  # made up by the reader
                raise ValueError(f"no images in column {image_key}")
            if missing := [key for key in _keys(label_key) if key not in columns]:
                others = f"the others are {', '.join(columns)}" if columns else "there is no other column"
                raise ValueError(f"no labels in column {missing[0]}: {others}")
            if group is not None and group not in columns:
                raise ValueError(f"no groups in column {group}: its columns are {', '.join(columns)}")
            grouped = None if group is None else np.array(list(map(str, reader.dataset[group])), dtype=object)
            return reader, list(reader.iter_targets()), grouped
        except Exception as error:  # of many libraries and file formats
            raise InputError(
                f"{name}: split {split} of it cannot be opened ({reason(error)}); check name, splits, "
                "and the columns image_key and label_key"
            ) from error

    there = _splits(datasets, name, root, (train_split, val_split))
    chosen = parts.choose(name, there, train_split, val_split, kind="split")
    if chosen is None:
        raise InputError(f"{name}: no training split; name one with data.train_split")
    notes = [f"{name}: {chosen.said()}"] if len(chosen.uses) + len(chosen.aside) > 1 else []
    train = chosen.named("train") or train_split
    first, targets, grouped = read(train)
    known = first.class_to_idx
    names = tuple(sorted(known, key=known.__getitem__)) or values_of(name, targets)
    found: dict[str, Samples] = {}
    for split, use in sorted(chosen.uses.items(), key=lambda one: list(parts.USES).index(one[1])):
        reader, targets, grouped = (first, targets, grouped) if split == train else read(split)
        try:
            labels = to_labels(f"{name}, split {split}", targets, names, numbered=bool(known))
        except InputError as error:
            if use != "test":
                raise
            notes.append(unknown_labels(name, split, str(error).split("; ")[0]))
            continue
        found[use] = Samples(Rows(reader, f"{name} {split}"), torch.arange(len(targets)), labels, grouped)
    return LabelledSet(found["train"], found.get("val"), names, found.get("test"), tuple(notes))


def _keys(label_key: str) -> list[str]:
    return [key.strip() for key in label_key.split(",")]


def _splits(datasets: Any, name: str, root: str | None, asked: tuple[str | None, ...]) -> list[str]:
    """The names of a set's splits, and those asked for in the form train[:80%] or train+validation."""
    try:
        there = datasets.get_dataset_split_names(name.removeprefix("hfds/"), cache_dir=root)
    except Exception as error:  # of many libraries and file formats
        raise InputError(
            f"{name}: it cannot be opened ({reason(error)}); check the name, and root"
        ) from error
    return [*there, *(one for one in asked if one and re.search(r"[\[+]", one))]


def from_torchvision(
    name: str,
    train_split: str,
    val_split: str | None,
    *,
    root: str | None,
    download: bool,
    group: str | None = None,
) -> LabelledSet:
    """A data set of torchvision's by timm's name, such as `torch/cifar10`. root: the folder it is kept in.

    Raises InputError for a set or split that is unknown, or that is not in root and not to be downloaded.
    """
    if root is None:
        raise InputError(f"{name}: give root, the folder that holds it")
    if name.lower() in ("torch/image_folder", "torch/folder"):
        return from_folder(Path(root), train_split, val_split, group)
    if (there := SPLITS.get(name.lower().removeprefix("torch/"))) is None:
        raise InputError(
            f"{name}: no set of torchvision's that is known here; known are {', '.join(SPLITS)} and "
            "image_folder: name one of them"
        )
    # timm takes a split of any name it does not know for the test images.
    chosen = parts.choose(name, there, train_split, val_split, kind="split")
    assert chosen is not None  # each of these sets has a split for training
    found: dict[str, Samples] = {}
    names: tuple[str, ...] = ()
    for split, use in chosen.uses.items():
        try:
            dataset = create_dataset(name, root=root, split=split, download=download)
        except (RuntimeError, OSError, ValueError, TypeError, AssertionError) as error:
            raise InputError(
                f"{name}: split {split} of it cannot be opened in {root} ({reason(error)}); check the name "
                "and the folder, or ask for a download"
            ) from error
        found[use] = _torch_samples(dataset, name, group)
        names = tuple(
            one if isinstance(one, str) else one[0] for one in dataset.classes
        )  # ImageNet: synonyms
    notes = (f"{name}: {chosen.said()}",)
    return LabelledSet(found["train"], found.get("val"), names, found.get("test"), notes)


def _torch_samples(dataset: Any, title: str, group: str | None) -> Samples:
    files = getattr(dataset, "samples", None)
    source: ImageStore = Files(tuple(Path(path) for path, _ in files)) if files else Items(dataset, title)
    labels = torch.as_tensor(dataset.targets, dtype=torch.int64)
    labels = labels[:, 0] if labels.ndim == 2 else labels  # QMNIST keeps more than the digit
    if group is not None and not files:
        raise InputError(f"{title}: its images are no files, so group {group!r} finds no path; leave it out")
    places = [Path(path).relative_to(dataset.root).as_posix() for path, _ in files or ()]
    grouped = None if group is None else groups.by_pattern(title, group, places)
    return Samples(source, torch.arange(len(labels)), labels, grouped)
