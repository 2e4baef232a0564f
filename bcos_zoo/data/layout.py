"""Classes and parts by folder, one rule for all sources: the first folder below root or part is the class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import InputError
from . import parts

MADE_BY_TOOLS = frozenset({"__macosx", "@eadir", "$recycle.bin", "lost+found", "system volume information"})
ROOT = PurePosixPath()


@dataclass(frozen=True)
class Layout:
    """What the path of each image says."""

    classes: list[str]  # "" for images left out
    uses: list[str]  # "train", "val", "test", or "" for images left out
    names: dict[str, str]  # use -> the part's name
    notes: tuple[str, ...]


def is_hidden(name: PurePosixPath | str) -> bool:
    """Whether a component of a relative path is hidden, or is made by systems or tools for themselves."""
    return any(part.startswith(".") or part.lower() in MADE_BY_TOOLS for part in PurePosixPath(name).parts)


def arranged(
    where: object,
    files: Sequence[PurePosixPath],
    folders: Callable[[PurePosixPath], Iterable[str]],
    train_split: str = "train",
    val_split: str | None = None,
) -> Layout:
    """The class and the part of each file.

    files: below the root, none hidden. folders: names the sub-folders of a folder, hidden ones left out.
    Folders around all others (`set/cat`, `set/dog`) do not count. Raises InputError for an empty class, for
    images in no folder, and for parts without one to learn from.
    """
    if all(len(file.parts) < 2 for file in files):
        raise InputError(f"{where}: {files[0]} is in no folder; put the images of each class into one")
    root = _root(files, folders, (train_split, val_split))
    inside = [file.relative_to(root).parts for file in files]
    nested = sorted({one[0] for one in inside if len(one) > 2} | _of_empty_folders(root, folders))
    chosen = parts.choose(where, nested, train_split, val_split, kind="folder")
    if chosen is None:
        tops = set(folders(root))
        if tops and all(parts.part_of(name) for name in tops):
            raise InputError(
                f"{where}: {', '.join(sorted(tops))} in it, none of them a training part that holds "
                "class folders; name one train, give one of them alone, or set data.train_split"
            )
        uses = ["train" if len(one) > 1 else "" for one in inside]
        classes = [one[0] if len(one) > 1 else "" for one in inside]
        bases, names, notes = {"train": root}, {"train": str(where)}, []
    else:
        uses = [chosen.uses.get(one[0], "") if len(one) > 2 else "" for one in inside]
        classes = [one[1] if use else "" for one, use in zip(inside, uses, strict=True)]
        bases = {use: root / name for name, use in chosen.uses.items()}
        names, notes = {use: name for name, use in chosen.uses.items()}, [f"{where}: {chosen.said()}"]
    for use, base in bases.items():
        own = {name for name, one in zip(classes, uses, strict=True) if one == use}
        if use != "test" and (empty := sorted(set(folders(base)) - own)):
            raise InputError(f"{where}: {str(base / empty[0])!r} holds no image; add some, or remove it")
    if loose := [file for file, one in zip(files, inside, strict=True) if len(one) < (3 if chosen else 2)]:
        notes.append(f"{where}: {len(loose)} images are in no class folder, and not used, such as {loose[0]}")
    below = [one[2 if chosen else 1 :] for one, use in zip(inside, uses, strict=True) if use == "train"]
    taught = [name for name, use in zip(classes, uses, strict=True) if use == "train"]
    if same := _same_below(taught, below):
        notes.append(
            f"warning: {where}: no class folder holds an image itself, and all of them ({_few(taught)}) hold "
            f"the same folders ({_few(same)}); are these the classes?"
        )
    return Layout(classes, uses, names, tuple(notes))


def _root(
    files: Sequence[PurePosixPath],
    folders: Callable[[PurePosixPath], Iterable[str]],
    asked: tuple[str | None, ...],
) -> PurePosixPath:
    """The folder that holds the class or part folders, below any that merely wrap the whole set."""
    root, depth = ROOT, 0
    while all(len(file.parts) > depth + 2 for file in files):
        tops = {file.parts[depth] for file in files} | set(folders(root))
        if len(tops) > 1 or parts.part_of(only := tops.pop()) or only in asked:
            break
        root, depth = root / only, depth + 1
    return root


def _of_empty_folders(root: PurePosixPath, folders: Callable[[PurePosixPath], Iterable[str]]) -> set[str]:
    """Folders that are named like parts and hold folders, even empty ones."""
    return {name for name in folders(root) if parts.part_of(name) and any(True for _ in folders(root / name))}


def _same_below(classes: Sequence[str], below: Sequence[tuple[str, ...]]) -> list[str]:
    """The sub-folders of the classes, if all have the same ones and nothing else; otherwise none."""
    each: dict[str, set[str]] = {}
    for name, rest in zip(classes, below, strict=True):
        if len(rest) < 2:
            return []
        each.setdefault(name, set()).add(rest[0])
    first = next(iter(each.values()), set())
    return sorted(first) if len(each) > 1 and all(one == first for one in each.values()) else []


def _few(names: Iterable[str]) -> str:
    some = sorted(set(names))
    return ", ".join(some[:5]) + (", ..." if len(some) > 5 else "")
