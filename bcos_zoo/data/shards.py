"""webdataset's shards on disk (`wds/FOLDER`): tars in which files that share a name make up a sample."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import create_dataset

from .. import images
from ..errors import InputError, reason
from ..extras import required
from . import groups, parts
from .archives import Members
from .labelled import LabelledSet, to_labels, unknown_labels, values_of
from .layout import is_hidden
from .samples import Samples

NAMES = "classnames.txt"  # beside the shards, one per line, as CLIP's benchmarks have them
Part = tuple[str, int, int]  # name in the tar, first byte, bytes


def from_shards(
    name: str, train_split: str, val_split: str | None, *, label_key: str, group: str | None = None
) -> LabelledSet:
    """Shards in a folder, read in any order: unlike a stream, the whole set is shuffled.

    name: `wds/FOLDER`. Splits are names in the folder's _info.json, or patterns such as a-{000..012}.tar, as
    timm takes them. A sample's label is its .cls file, or the entry label_key of its .json file.
    Raises InputError for a split that is not there, a broken shard, and a sample without image or label.
    """
    root = Path(name.removeprefix("wds/"))
    required("webdataset", "webdataset", "train")

    def reader(split: str) -> Any:
        try:
            return create_dataset("wds/", root=str(root), split=split).reader
        except (RuntimeError, KeyError, ValueError, OSError) as error:
            raise InputError(
                f"{name}: no split {split} ({reason(error)}); name one of its _info.json, or shards, such "
                "as train-{000..012}.tar"
            ) from error

    info = root / "_info.json"
    listed_splits = _listed(info) if info.is_file() else []
    asked = [one for one in (train_split, val_split) if one and one not in listed_splits]
    patterns = [one for one in asked if "{" in one or one.endswith(".tar")]  # timm finds these by itself
    there = [*listed_splits, *patterns] or [train_split]
    try:
        chosen = parts.choose(name, there, train_split, val_split, kind="split")
    except InputError:
        reader(train_split), reader(val_split or train_split)  # which says more of one that is not there
        raise
    if chosen is None:
        reader(train_split)
        raise InputError(f"{name}: no split {train_split}; name one of its _info.json: {', '.join(there)}")
    notes = [f"{name}: {chosen.said()}"] if len(chosen.uses) + len(chosen.aside) > 1 else []
    file = root / NAMES
    listed = tuple(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else ()
    classes: tuple[str, ...] = ()
    found: dict[str, Samples] = {}
    for split, use in sorted(chosen.uses.items(), key=lambda one: list(parts.USES).index(one[1])):
        source, targets = _samples(root, reader(split).split_info, label_key)
        classes = classes or listed or values_of(name, targets)
        try:
            labels = to_labels(name, targets, classes, numbered=bool(listed))
        except InputError as error:
            if use != "test":
                raise
            notes.append(unknown_labels(name, split, str(error).split("; ")[0]))
            continue
        grouped = None if group is None else groups.by_pattern(name, group, source.names)
        found[use] = Samples(source, torch.arange(len(targets)), labels, grouped)
    return LabelledSet(found["train"], found.get("val"), classes, found.get("test"), tuple(notes))


def _listed(info: Path) -> list[str]:
    """The splits that a folder's _info.json names. Raises InputError if it cannot be read."""
    try:
        return list(json.loads(info.read_text(encoding="utf-8")).get("splits", {}))
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{info}: no list of splits ({reason(error)}); mend it, or remove it") from error


def _samples(root: Path, split: Any, label_key: str) -> tuple[Members, list[Any]]:
    """The images of a split's shards, and their labels as stored. split: timm's SplitInfo."""
    shards = tuple(root / name for name in split.filenames)
    entry = split.alt_label or label_key
    names, places, targets = [], [], []
    for number, shard in enumerate(shards):
        try:
            with tarfile.open(shard, "r:") as tar, shard.open("rb") as file:
                for key, parts in _grouped(tar):
                    image = next((part for ext, part in parts.items() if _is_image(ext)), None)
                    if image is None:
                        raise InputError(f"{shard}: sample {key} has no image; remove it, or add one")
                    names.append(image[0])
                    places.append((number, *image[1:]))
                    targets.append(_target(f"{shard}: sample {key}", file, parts, entry))
        except (OSError, tarfile.TarError, EOFError) as error:
            raise InputError(f"{shard}: no whole tar ({reason(error)}); make or copy it again") from error
    return Members(shards, tuple(names), np.array(places, dtype=np.int64).reshape(-1, 3)), targets


def _grouped(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, Part]]]:
    """Each sample: its name, up to the first dot, and its files by what follows that dot."""
    last, parts = "", dict[str, Part]()
    for member in tar:
        folder, slash, file = member.name.rpartition("/")
        stem, dot, ext = file.partition(".")
        if not member.isfile() or not stem or file.startswith("__") or is_hidden(member.name):
            continue
        if (key := folder + slash + stem) != last and parts:
            yield last, parts
            parts = {}
        last = key
        parts[ext.lower()] = member.name, member.offset_data, member.size
    if parts:
        yield last, parts


def _is_image(ext: str) -> bool:
    return "." + ext.rpartition(".")[2] in images.image_suffixes()


def _target(where: str, file: Any, parts: dict[str, Part], label_key: str) -> Any:
    kind = "cls" if "cls" in parts else "json"
    try:
        _, first, size = parts[kind]
        file.seek(first)
        text = file.read(size).decode()
        return int(text) if kind == "cls" else json.loads(text)[label_key]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{where} has no label; give a number in a .cls, or {label_key} in a .json"
        ) from error
