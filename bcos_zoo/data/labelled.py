"""What each kind of source gives, before it is checked and split."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import as_text, is_text
from .samples import ImageStore, Samples


@dataclass(frozen=True)
class LabelledSet:
    """A set of images as its source has it."""

    train: Samples
    val: Samples | None  # None: it has no validation part
    class_names: tuple[str, ...]
    test: Samples | None = None  # None: it has no test part
    notes: tuple[str, ...] = ()  # what people should know about how it was read

    def __post_init__(self) -> None:
        """Raise InputError for two classes whose names are one name written in two ways, and for one that is
        no text: it would stand in tables, on cards and in the network's config.json.
        """
        first: dict[str, str] = {}
        for name in self.class_names:
            if not is_text(name):
                raise InputError(f"class {as_text(name)!r}: a name that is not UTF-8; rename its folder")
            before = first.setdefault(_plainest(name), name)
            if before != name:
                raise InputError(
                    f"{before!a} and {name!a} are one name written in two ways, and would become two "
                    "classes; "
                    "write it in one"
                )


def _plainest(name: str) -> str:
    """A form equal for names that only a machine tells apart: é as one character or two, 1 and 1.0."""
    text = unicodedata.normalize("NFC", name)
    return text.removesuffix(".0") if re.fullmatch(r"[+-]?\d+\.0", text) else text


def by_names(
    where: object,
    source: ImageStore,
    labels: Sequence[str],
    uses: Sequence[str],
    *,
    names: Mapping[str, str] | None = None,
    groups: np.ndarray | None = None,
    notes: Sequence[str] = (),
) -> LabelledSet:
    """A set of images whose classes are given by name; the classes are sorted by name.

    uses: "train", "val", "test" or "" (none of them) for each image. names: what the part for each use is
    called. groups: (M,) or None. Raises InputError if the validation part, where there is one, and the
    training part have different classes, and if only some of the test part's classes are among training's. A
    test part that has none of them, because its labels are kept secret for example, is left out.
    """
    called = {"train": "train", "val": "val", "test": "test"} | dict(names or {})
    of = {use: {label for label, one in zip(labels, uses, strict=True) if one == use} for use in called}
    if of["val"] and (only := sorted(of["train"] ^ of["val"])):
        raise InputError(
            f"{where}: {', '.join(only[:5])} in one of {called['train']} and {called['val']} only; give both "
            "the same classes"
        )
    if unknown := sorted(of["test"] - of["train"]):
        if of["test"] & of["train"]:
            raise InputError(
                f"{where}: {', '.join(unknown[:5])} in {called['test']} and not in {called['train']}; give "
                "both the same classes"
            )
        notes = [*notes, unknown_labels(where, called["test"], ", ".join(unknown[:5]))]
        uses = ["" if use == "test" else use for use in uses]
    class_names = tuple(sorted(of["train"]))
    index = {name: i for i, name in enumerate(class_names)}
    targets = torch.tensor([index.get(label, -1) for label in labels], dtype=torch.int64)
    everything = Samples(source, torch.arange(len(targets)), targets, groups)
    return parted(everything, uses, class_names, notes)


def parted(
    everything: Samples, uses: Sequence[str], names: tuple[str, ...], notes: Sequence[str]
) -> LabelledSet:
    """Images divided by use: "train", "val", "test", or "" for none."""
    train, val, test = (
        everything.select([i for i, one in enumerate(uses) if one == use]) for use in ("train", "val", "test")
    )
    return LabelledSet(train, val if len(val) else None, names, test if len(test) else None, tuple(notes))


def unknown_labels(where: object, part: str, why: str) -> str:
    """The note about a test part whose labels are not among training's."""
    return f"{where}: {part} is not used: its labels are not among the classes ({why})"


def values_of(where: str, targets: Sequence[Any]) -> tuple[str, ...]:
    """The class names for labels that come without a list of them."""
    flat = [value for target in targets for value in (target if isinstance(target, list) else [target])]
    if not all(isinstance(value, (int, str)) for value in flat):
        wrong = next(value for value in flat if not isinstance(value, (int, str)))
        raise InputError(f"{where}: a label is {wrong!r}; numbers or names of classes are needed")
    return tuple(map(str, sorted(set(flat), key=lambda value: (isinstance(value, str), value))))


def to_labels(where: str, targets: Sequence[Any], names: tuple[str, ...], *, numbered: bool) -> Tensor:
    """(M,) or (M, C) as in `Samples`. numbered: the labels are indices into names; else they are names."""
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
