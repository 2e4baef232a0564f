"""Which part of a set is for training, which for validation, and which for the final test: by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import InputError

NAMES = {  # of each part, as `_plain` writes them; the first one present counts
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "holdout", "heldout"),
}
BESIDE = re.compile(r"(set|data|images|split)$")  # as in train_set
USES = {"train": "for training", "val": "for validation", "test": "for the final test"}


@dataclass(frozen=True)
class Parts:
    """The names of a set's parts, each with what it is for."""

    uses: dict[str, str]  # name -> "train", "val" or "test"
    aside: tuple[str, ...]  # names of parts that are not used

    def named(self, use: str) -> str | None:
        """The name of the part for a use, the first of several; None if there is none."""
        return next((name for name, one in self.uses.items() if one == use), None)

    def said(self) -> str:
        """One line for people: which part is for what."""
        each = [
            f"{', '.join(name for name, one in self.uses.items() if one == use)} {words}"
            for use, words in USES.items()
            if use in self.uses.values()
        ]
        if self.aside:
            each.append(f"not used: {', '.join(self.aside)}")
        if self.named("test") is None and part_of(self.named("val") or "") == "test":
            each.append(
                "there is no other part to choose the best epoch by, so none is left for a final test"
            )
        return "; ".join(each)


def part_of(name: str) -> str | None:
    """What a part of that name is for by convention: "train", "val" or "test"; None for any other name."""
    return next((use for use, names in NAMES.items() if _plain(name) in names), None)


def _plain(name: str) -> str:
    """A name in lower case, without separators between words and without a trailing "set" or the like."""
    return BESIDE.sub("", re.sub("[-_ ]", "", name.lower()))


def choose(
    where: object,
    there: Iterable[str],
    train_split: str = "train",
    val_split: str | None = None,
    *,
    kind: str = "part",
    merged: bool = False,
) -> Parts | None:
    """What the parts of these names are for; None if none is for training and none was asked for.

    The test part is set aside, unless it is the only one besides training: then it validates.
    train_split, val_split: names that win over convention. merged: if several names are for one use, all of
    them count, as in a column, not only the first. kind: what parts are called in errors.
    Raises InputError if a part that is asked for is not there, and if one is asked for twice.
    """
    there = list(dict.fromkeys(there))
    uses: dict[str, str] = {}

    def asked(name: str, option: str, use: str) -> None:
        found = name if name in there else next((one for one in there if one.lower() == name.lower()), None)
        if found is None:
            had = f" of {', '.join(there[:5])}" if there else ""
            raise InputError(f"{where}: no {kind} {name} in it; {option} must name one{had}")
        uses[found] = use

    def usual(use: str) -> None:
        fitting = [name for name in there if name not in uses and part_of(name) == use]
        fitting.sort(key=lambda name: (NAMES[use].index(_plain(name)), name != _plain(name)))
        uses.update(dict.fromkeys(fitting if merged else fitting[:1], use))

    if val_split is not None:
        asked(val_split, "val_split", "val")
    held = next(iter(uses), None)
    if train_split != "train":
        asked(train_split, "train_split", "train")
    else:
        usual("train")
    taught = "train" in uses.values()
    if held is not None and (uses[held] == "train" or (not taught and part_of(held) == "train")):
        raise InputError(
            f"{where}: {kind} {held} is named for training and for validation, and what trains cannot "
            "validate; name another with val_split, or leave it out"
        )
    if not taught:
        if val_split is not None:
            raise InputError(f"{where}: no {kind} {train_split} in it; train_split must name one")
        return None
    for use in ("val", "test"):
        if use not in uses.values():
            usual(use)
    if "val" not in uses.values():
        uses = {name: "val" if use == "test" else use for name, use in uses.items()}
    return Parts(uses, tuple(name for name in there if name not in uses))
