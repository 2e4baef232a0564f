"""Images and labels from a CSV."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from ..errors import InputError
from . import groups, parts
from .labelled import LabelledSet, by_names, parted
from .samples import Files, Samples

PATHS = ("path", "image", "file", "filename")
HELP = (
    "the columns are path, then label (one name), or labels (names with | between them), or one of 0 and 1 "
    "for each class, and maybe split (train, val, test)"
)
ZEROS, ONES = ("0", "0.0", "false"), ("1", "1.0", "true")
MISSING = "nan"  # how pandas writes an empty cell of a column converted to text


@dataclass(frozen=True)
class Table:
    """The rows of a CSV by column name, their cells stripped."""

    path: Path
    columns: tuple[str, ...]
    rows: list[dict[str, str]]
    lines: list[int]  # the line that each row ends on

    def column(self, *names: str) -> str | None:
        """The first of these columns that exists, whatever its case."""
        lower = {name.lower(): name for name in self.columns}
        return next((lower[name.lower()] for name in names if name.lower() in lower), None)

    def filled(self, name: str, what: str, advice: str) -> list[str]:
        """The values of a column. Raises InputError, with the line, for an empty cell."""
        for row, line in zip(self.rows, self.lines, strict=True):
            if row[name].lower() in ("", MISSING):
                raise InputError(f"{self.path}, line {line}: no {what}; {advice}, or remove the line")
        return [row[name] for row in self.rows]


@dataclass(frozen=True)
class Listed:
    """What a CSV says of each image, row by row."""

    table: Table
    files: tuple[Path, ...]
    named: tuple[str, ...]  # the paths as they are written
    said: tuple[frozenset[str], ...]  # the classes that each shows
    split: str | None  # the column of the parts
    parts: tuple[str, ...]  # the name of each one's part; "" without such a column
    groups: np.ndarray | None
    one_label: bool  # whether each image has exactly one
    columns: tuple[str, ...] | None  # the classes that have a column of 0 and 1

    def classes(self, said: Sequence[frozenset[str]]) -> tuple[str, ...]:
        """Those with a column, or else those that an image shows, sorted. Raises InputError if none does."""
        shown = tuple(sorted(frozenset().union(*said))) if self.columns is None else self.columns
        if not shown:
            raise InputError(f"{self.table.path}: no labels; {HELP}")
        return shown

    def once(self, uses: Sequence[str]) -> tuple[list[int], list[str]]:
        """Indices of the rows that are the first to name their image, and a note if there are others.

        uses: what each row is for. Raises InputError if two rows say different things of one image.
        """
        groups = [None] * len(self.said) if self.groups is None else self.groups.tolist()
        told = list(zip(self.said, uses, groups, strict=True))
        kept, again = _once(self.table, self.files, self.named, told)
        note = f"{again} lines name an image that another has named, and say the same of it"
        return kept, [f"{self.table.path}: {note}"] if again else []


@dataclass(frozen=True)
class Rows:
    """The images of a CSV that are measured. said: the classes that each shows."""

    source: Files
    said: list[frozenset[str]]
    classes: tuple[str, ...]
    one_label: bool  # whether each image has exactly one
    groups: np.ndarray | None
    part: str | None  # the name of their part, or its names; None for a CSV without parts
    notes: tuple[str, ...]


def from_csv(
    path: Path, train_split: str = "train", val_split: str | None = None, group: str | None = None
) -> LabelledSet:
    """The images that a CSV lists by path, relative to its folder, with one label or several.

    Columns, in any case: `path`; then `label`, one name, or `labels`, any number of names separated by | or
    ;, or one column of 0 and 1 for each class; and optionally `split`, of train, val and test. A first column
    without a name that counts the rows, as pandas writes it, is skipped; so are empty lines.
    group: a column, or a pattern for the paths.
    Lines that name the same image, however they write it, count once if they agree.
    Raises InputError with the line if they do not agree, and for any other fault.
    """
    listed = _listed(path, group)
    uses, names, notes = _uses(listed.table, listed.split, train_split, val_split)
    kept, again = listed.once(uses)
    chosen = [i for i in kept if uses[i]]
    source = Files(tuple(listed.files[i] for i in chosen))
    uses, notes = [uses[i] for i in chosen], [*notes, *again]
    grouped = None if listed.groups is None else listed.groups[chosen]
    if listed.one_label:
        texts = [next(iter(listed.said[i])) for i in chosen]
        return by_names(path, source, texts, uses, names=names, groups=grouped, notes=notes)
    classes = listed.classes(listed.said)
    values = [[float(name in listed.said[i]) for name in classes] for i in chosen]
    everything = Samples(source, torch.arange(len(chosen)), torch.tensor(values), grouped)
    return parted(everything, uses, classes, notes)


def to_measure(path: Path, group: str | None = None) -> Rows:
    """The rows of a CSV that a network is measured on: the test part, else validation, else all there is.

    Columns and errors are those of `from_csv`; but there need be nothing to learn from, and what is said of
    other parts does not matter. Raises InputError for a part of any other name.
    """
    listed = _listed(path, group)
    kept, again = listed.once(listed.parts)
    names: tuple[str, ...] = ()
    if listed.split is not None:
        uses = [parts.part_of(name) for name in listed.parts]
        if None in uses:
            i = uses.index(None)
            _refuse_part(listed.table, listed.parts[i], listed.table.lines[i])
        use = next(one for one in ("test", "val", "train") if one in uses)
        kept = [i for i in kept if uses[i] == use]
        names = tuple(dict.fromkeys(listed.parts[i] for i in kept))
    said = [listed.said[i] for i in kept]
    return Rows(
        Files(tuple(listed.files[i] for i in kept)), said, listed.classes(said), listed.one_label,
        None if listed.groups is None else listed.groups[kept], ", ".join(names) or None, tuple(again),
    )  # fmt: skip


def _listed(path: Path, group: str | None) -> Listed:
    """What a CSV says of each image. Raises InputError for what is missing or cannot be understood."""
    table = _read(path)
    key = table.column(*PATHS)
    if key is None:
        raise InputError(f"{path}: no column {PATHS[0]}; its columns are {', '.join(table.columns)}: {HELP}")
    named = table.filled(key, "path", "name an image")
    split, label, labels = (table.column(name) for name in ("split", "label", "labels"))
    grouped = _groups(table, named, group)
    taken = {key, split, table.column(group) if group else None}
    ones = [name for name in table.columns if name not in taken]
    said = [frozenset({one}) for one in table.filled(label, "label", "name a class")] if label else []
    for row, line in zip(table.rows, table.lines, strict=True) if not label else ():
        said.append(_several(table, row[labels], line) if labels else _ones(table, row, line, ones))
    files = tuple(_file(path.parent, name) for name in named)
    values = tuple(row[split] if split else "" for row in table.rows)
    fixed = None if label or labels else tuple(ones)
    return Listed(table, files, tuple(named), tuple(said), split, values, grouped, label is not None, fixed)


def _read(path: Path) -> Table:
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=head.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=delimiter != "\t")
            columns = [name.strip() for name in next(reader, [])]
            for row in reader:
                cells = [value.strip() for value in row]
                if not any(cells):
                    continue
                if len(cells) != len(columns):
                    raise InputError(
                        f"{path}, line {reader.line_num}: another number of columns than in line 1; mend it"
                    )
                rows.append(cells)
                lines.append(reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read as CSV in UTF-8 ({why}); mend it") from error
    if not rows:
        raise InputError(f"{path}: no line after that of the column names; {HELP}")
    if columns[0] in ("", "Unnamed: 0") and [row[0] for row in rows] == [str(i) for i in range(len(rows))]:
        columns, rows = columns[1:], [row[1:] for row in rows]  # pandas' index
    if "" in columns:
        raise InputError(
            f"{path}: column {columns.index('') + 1} has no name, and does not count the lines from 0; "
            "name it, or leave it out (pandas: to_csv(..., index=False))"
        )
    lower = [name.lower() for name in columns]
    if twice := [name for name in columns if lower.count(name.lower()) > 1]:
        raise InputError(f"{path}: two columns are named {twice[0]!r}; rename one")
    return Table(path, tuple(columns), [dict(zip(columns, row, strict=True)) for row in rows], lines)


def _file(folder: Path, name: str) -> Path:
    """The path of an image, whose name may be written as on Windows."""
    path = folder / name
    return folder / name.replace("\\", "/") if "\\" in name and not path.exists() else path


def _once(
    table: Table, files: Sequence[Path], named: Sequence[str], told: Sequence[tuple[Hashable, ...]]
) -> tuple[list[int], int]:
    """Indices of the rows that are the first to name their image, and the number of other rows."""
    first: dict[Hashable, int] = {}
    for i, file in enumerate(files):
        before = first.setdefault(_same(file), i)
        if before != i and told[before] != told[i]:
            other = f" as {named[before]}" if named[before] != named[i] else ""
            raise InputError(
                f"{table.path}, line {table.lines[i]}: {named[i]} is in line {table.lines[before]} "
                f"too{other}, with something else said of it; keep one"
            )
    return sorted(first.values()), len(files) - len(first)


def _same(file: Path) -> Hashable:
    """A key equal for all paths of one file: its number on the disk, else the path in its plainest form."""
    try:
        status = file.stat()
    except (OSError, ValueError):  # it does not exist, which is reported when it is read
        return os.path.normcase(os.path.normpath(file))
    return (status.st_dev, status.st_ino)


def _groups(table: Table, named: Sequence[str], group: str | None) -> np.ndarray | None:
    if group is None:
        return None
    if column := table.column(group):
        values = table.filled(column, group, "say which group the image is of")
        return np.array(values, dtype=object)
    if "(" not in group:
        raise InputError(
            f"{table.path}: no column {group}; its columns are {', '.join(table.columns)}: name one of them, "
            f"or {groups.HELP}"
        )
    return groups.by_pattern(table.path, group, [name.replace("\\", "/") for name in named])


def _uses(
    table: Table, column: str | None, train_split: str, val_split: str | None
) -> tuple[list[str], dict[str, str], list[str]]:
    """What each row is for, the names of the parts by use, and what to tell people about it."""
    if column is None:
        if train_split != "train" or val_split is not None:
            raise InputError(
                f"{table.path}: no column split, whose parts train_split and val_split could name"
            )
        return ["train"] * len(table.rows), {}, []
    values = [row[column] for row in table.rows]
    asked = {name.lower() for name in (train_split, val_split or "train")}
    for value, line in zip(values, table.lines, strict=True):
        if parts.part_of(value) is None and value.lower() not in asked:
            _refuse_part(table, value, line)
    chosen = parts.choose(table.path, values, train_split, val_split, kind="split", merged=True)
    if chosen is None:
        raise InputError(f"{table.path}: no line whose split is train; mark the training images so")
    names = {use: name for name, use in reversed(chosen.uses.items())}
    notes = [f"{table.path}: {chosen.said()}"] if len(chosen.uses) + len(chosen.aside) > 1 else []
    return [chosen.uses.get(value, "") for value in values], names, notes


def _refuse_part(table: Table, value: str, line: int) -> NoReturn:
    raise InputError(f"{table.path}, line {line}: split is {value!r}; it can be train, val or test")


def _several(table: Table, text: str, line: int) -> frozenset[str]:
    if text.lower() == MISSING:
        raise InputError(
            f"{table.path}, line {line}: labels is {text!r}; leave it empty where there are none"
        )
    return frozenset(name for name in map(str.strip, re.split("[|;]", text)) if name)


def _ones(table: Table, row: dict[str, str], line: int, names: Sequence[str]) -> frozenset[str]:
    """The names of the columns that are 1."""
    for name in names:
        if row[name].lower() not in (*ZEROS, *ONES):
            raise InputError(f"{table.path}, line {line}: {name} is {row[name]!r}; it can be 0 or 1 ({HELP})")
    return frozenset(name for name in names if row[name].lower() in ONES)
