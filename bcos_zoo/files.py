"""Writing files completely or not at all, and by one process at a time."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from .errors import InputError, reason

SOFTWARE = "bcos-zoo"  # the mark in the pictures that we write
LONGEST = 255  # bytes of a file's name that all common systems allow


def shortened(name: str, most: int) -> str:
    """The start of a name, in at most `most` bytes, without cutting a character in two."""
    data = os.fsencode(name)
    if len(data) <= most:
        return name
    kept = name[:most]
    while len(os.fsencode(kept)) > most:
        kept = kept[:-1]
    return kept


def as_text(name: str) -> str:
    """A file's name as people see it: bytes in it that are not text can be shown by no page or font."""
    return "".join(character if character.isprintable() else "?" for character in name)


def is_text(name: str | os.PathLike[str]) -> bool:
    """Whether a name can be written in UTF-8: a name of a file may hold any bytes."""
    try:
        os.fspath(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def is_file(path: Path) -> bool:
    """`path.is_file()`, and False too where that raises: for a name no disk allows, or in a closed folder."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """`path.is_dir()`, and False too where that raises."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


@contextmanager
def writing(path: str | os.PathLike[str], advice: str) -> Iterator[None]:
    """Turn an OSError of the block into an InputError of one line: which path, why, and what to do."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, advice) from error


def unwritable(path: str | os.PathLike[str], error: OSError, advice: str) -> InputError:
    return InputError(f"{path} cannot be written: {error.strerror or error}; {advice}")


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn an OSError of the block, which reads the file of that name, into an InputError of one line."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{name!r} cannot be read ({error.strerror or reason(error)}); mend or remove it"
        ) from error


@contextmanager
def passing_folder(path: Path) -> Iterator[Path]:
    """A folder at `path`, to be filled in the block, from which files are moved; removed after the block."""
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the folder of `path`, to be written in the block.

    If the block succeeds, the file is flushed to disk and takes the name `path`, replacing any file there. If
    it fails, also by an interrupt, nothing is left. Creates the folder. Raises OSError if it cannot write.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{shortened(path.name, 64)}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # that of any new file: safetensors lets only the owner read its files
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a complete file its final name, after its bytes are on the disk. Raises OSError."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let only one process (or thread) at a time into the blocks for the same path.

    The others wait; if a process dies, its lock is released. Creates the folder. Raises OSError if it cannot
    write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{shortened(path.name, LONGEST - 6)}.lock")):
        yield
