"""Images and labels from a CSV."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import torch

from ..errors import InputError
from .found import VAL_NAMES, Found, by_names
from .samples import Files, Samples

PATHS = ("path", "image", "file", "filename")
HELP = (
    "the columns are path, then label (one name), or labels (names with | between them), or one of 0 and 1 "
    "for each class, and maybe split (train, val)"
)


def from_csv(path: Path) -> Found:
    """The images that a CSV lists by path, relative to its folder, with a label, or with several.

    Columns: `path`; then `label`, one name, or `labels`, names with | or ; between them (maybe none), or one
    column for each class, of 0 and 1; and maybe `split`, of train and val. Raises InputError with the line
    for anything else, and for an image that is listed twice.
    """
    rows, lines = _read(path)
    columns = list(rows[0])
    key = next((name for name in PATHS if name in columns), None)
    if key is None:
        raise InputError(f"{path}: no column {PATHS[0]}, but {', '.join(columns)}; {HELP}")
    seen: dict[str, int] = {}
    for row, line in zip(rows, lines, strict=True):
        if not row[key]:
            raise InputError(f"{path}, line {line}: no path; name an image, or remove the line")
        if row[key] in seen:
            raise InputError(f"{path}, line {line}: {row[key]} is in line {seen[row[key]]} too; keep one")
        seen[row[key]] = line
    source = Files(tuple(path.parent / row[key] for row in rows))
    splits = _splits(path, rows, lines)
    if "label" in columns:
        if empty := [line for row, line in zip(rows, lines, strict=True) if not row["label"]]:
            raise InputError(f"{path}, line {empty[0]}: no label; name a class, or remove the line")
        return by_names(path, source, [row["label"] for row in rows], splits)
    if "labels" in columns:
        several = [[n for n in map(str.strip, re.split("[|;]", row["labels"])) if n] for row in rows]
        names = tuple(sorted({name for one in several for name in one}))
        values = [[float(name in one) for name in names] for one in several]
    else:
        names = tuple(name for name in columns if name not in (key, "split"))
        values = [_zeros_and_ones(path, row, line, names) for row, line in zip(rows, lines, strict=True)]
    if not names:
        raise InputError(f"{path}: no labels; {HELP}")
    everything = Samples(source, torch.arange(len(rows)), torch.tensor(values))
    train, val = (
        everything.select([i for i, split in enumerate(splits) if split == part]) for part in ("train", "val")
    )
    return Found(train, val if len(val) else None, names)


def _read(path: Path) -> tuple[list[dict[str, str]], list[int]]:
    """Rows, stripped, and the line each ends on."""
    rows: list[dict[str, str]] = []
    lines: list[int] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=head.count)
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            if twice := [name for name in columns if columns.count(name) > 1]:
                raise InputError(f"{path}: two columns are named {twice[0]!r}; rename one")
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"{path}, line {reader.line_num}: another number of columns than in line 1; mend it"
                    )
                rows.append({name.strip(): value.strip() for name, value in row.items()})
                lines.append(reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read as CSV in UTF-8 ({why}); mend it") from error
    if not rows:
        raise InputError(f"{path}: no line after that of the column names; {HELP}")
    return rows, lines


def _splits(path: Path, rows: list[dict[str, str]], lines: list[int]) -> list[str]:
    splits = []
    for row, line in zip(rows, lines, strict=True):
        split = row.get("split", "train").lower()
        if split not in ("train", *VAL_NAMES):
            raise InputError(f"{path}, line {line}: split is {split!r}; it can be train or val")
        splits.append("train" if split == "train" else "val")
    return splits


def _zeros_and_ones(path: Path, row: dict[str, str], line: int, names: tuple[str, ...]) -> list[float]:
    values = []
    for name in names:
        if row[name] not in ("0", "1", "0.0", "1.0"):
            raise InputError(f"{path}, line {line}: {name} is {row[name]!r}; it can be 0 or 1 ({HELP})")
        values.append(float(row[name]))
    return values
