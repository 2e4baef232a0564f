"""Data sets by name, through timm: of Hugging Face (`hfds/`) and of torchvision (`torch/`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import create_dataset

from .. import images
from ..errors import InputError, reason
from ..extras import required
from .found import VAL_NAMES, Found, to_labels, values_of
from .samples import Files, Samples, Source


@dataclass(frozen=True)
class Rows:
    """Images of a Hugging Face data set, by timm's reader."""

    reader: Any
    title: str

    def load(self, index: int) -> Image.Image:
        try:
            file, *_ = self.reader[index]
            with file:
                data = file.read()
        except (OSError, AssertionError, TypeError) as error:  # a missing file; a row without an image
            raise InputError(f"{self.name(index)!r} has no image ({reason(error)}); mend it") from error
        return images.decode_rgb(data, self.name(index))

    def name(self, index: int) -> str:
        return f"{self.title}, row {index}"


@dataclass(frozen=True)
class Items:
    """Images of a torchvision data set that are no files."""

    dataset: Any
    title: str

    def load(self, index: int) -> Image.Image:
        try:
            image = self.dataset[index][0]
        except OSError as error:
            raise InputError(f"{self.name(index)!r} cannot be read ({reason(error)}); mend it") from error
        return images.load_rgb(image)

    def name(self, index: int) -> str:
        return f"{self.title}, item {index}"


def from_hugging_face(
    name: str, train_split: str, val_split: str | None, *, root: str | None, image_key: str, label_key: str
) -> Found:
    """A data set that `datasets.load_dataset` opens: a name on the Hub, or a folder. root: of its cache.

    label_key: a column of class numbers or names, or of lists of them; or columns of 0 and 1, with commas.
    Raises InputError for what cannot be opened, and for labels of another kind.
    """
    required("datasets", "datasets", "train")

    def read(split: str) -> tuple[Any, list[Any]]:
        options = {"input_key": image_key, "target_key": label_key}
        reader = create_dataset(name, root=root, split=split, **options).reader
        if reader.dataset.data[image_key].null_count == len(reader):  # which it has made up
            raise ValueError(f"no images in column {image_key}")
        return reader, list(reader.iter_targets())

    opened: dict[str, tuple[Any, list[Any]]] = {}
    for split in [train_split, *([val_split] if val_split else VAL_NAMES)]:
        try:
            opened[split] = read(split)
        except Exception as error:  # of many libraries and file formats
            if "Unknown split" in str(error) and split not in (train_split, val_split):
                continue
            raise InputError(
                f"{name}: split {split} of it cannot be opened ({reason(error)}); check name, splits, "
                "and the columns image_key and label_key"
            ) from error
        if len(opened) == 2:
            break
    first, targets = opened[train_split]
    known = first.class_to_idx
    names = tuple(sorted(known, key=known.__getitem__)) or values_of(name, targets)
    parts = []
    for split, (reader, targets) in opened.items():
        labels = to_labels(f"{name}, split {split}", targets, names, numbered=bool(known))
        parts.append(Samples(Rows(reader, f"{name} {split}"), torch.arange(len(targets)), labels))
    return Found(parts[0], parts[1] if len(parts) == 2 else None, names)


def from_torchvision(
    name: str, train_split: str, val_split: str | None, *, root: str | None, download: bool
) -> Found:
    """A data set of torchvision's by timm's name, such as `torch/cifar10`. root: the folder it is kept in.

    Raises InputError for an unknown name, and for a set that is not in root (and not to be downloaded).
    """
    if root is None:
        raise InputError(f"{name}: give root, the folder that holds it")
    opened = []
    for split in (train_split, val_split or "validation"):
        try:
            opened.append(create_dataset(name, root=root, split=split, download=download))
        except (RuntimeError, OSError, ValueError, TypeError, AssertionError) as error:
            raise InputError(
                f"{name}: split {split} of it cannot be opened in {root} ({reason(error)}); check the name "
                "and the folder, or ask for a download"
            ) from error
    train, val = opened
    names = tuple(one if isinstance(one, str) else one[0] for one in train.classes)  # ImageNet has synonyms
    one_folder = getattr(train, "samples", None) is not None and train.root == val.root
    return Found(_torch_samples(train, name), None if one_folder else _torch_samples(val, name), names)


def _torch_samples(dataset: Any, title: str) -> Samples:
    files = getattr(dataset, "samples", None)
    source: Source = Files(tuple(Path(path) for path, _ in files)) if files else Items(dataset, title)
    labels = torch.as_tensor(dataset.targets, dtype=torch.int64)
    labels = labels[:, 0] if labels.ndim == 2 else labels  # QMNIST keeps more than the digit
    return Samples(source, torch.arange(len(labels)), labels)
