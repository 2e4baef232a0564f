"""The folder of a run: one process at a time writes there, whole files only, and says when it cannot."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import InputError
from ..files import as_text, is_text, unwritable

LOCK = ".lock"
STATES, SNAPSHOTS = "state", "snapshots"  # folders inside that of a run
# The temporary names, as bcos_zoo.files makes them, of what a run writes; others may be at work beside it.
UNFINISHED = re.compile(
    r"\.(network|(step|epoch|tiles)-\d+\.\w+|(index|recipe|unreadable|test|metrics|curves|confusion|per_class|"
    r"snapshots|model|config|README|explanation|card-sample)\.\w+)\.[0-9a-f]{32}\.tmp"
)


def check_name(run: str | os.PathLike[str]) -> None:
    """Raise InputError for a folder whose name is not UTF-8: a network in it could not be loaded."""
    if not is_text(run):
        raise InputError(
            f"{as_text(os.fspath(run))!r}: a name that is not UTF-8, from which no network can be loaded; "
            "give another folder with -o"
        )


@contextmanager
def claimed(run: str | os.PathLike[str]) -> Iterator[Path]:
    """Lock a run's folder for this process during the block; only the process that writes does so.

    Creates the folder, and removes what a killed process left unfinished; the lock of a killed process is
    gone. If the block fails, a folder into which it put nothing is removed. Raises InputError if another
    process holds the lock, or if the folder cannot be written.
    """
    folder = Path(run)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(
                f"another process trains in {folder}; wait for it, or give another folder with -o"
            ) from None
    try:
        with writing(folder):
            _tidy(folder)
        yield folder
    except BaseException:
        if created and [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            _remove_empty(created)
        raise
    finally:
        lock.release()


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, until one holds something by now."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # another process has put something there
            return


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into an InputError of one line: which path, why, what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space, or lower run.keep" if full else "make its folder writable"
        advice += ", then --resume goes on from the newest state"
        raise unwritable(path, error, advice) from error


def _tidy(folder: Path) -> None:
    """Remove what a killed process left half written in a run's folder, and in no other folder."""
    for place in (folder, folder / STATES, folder / SNAPSHOTS):
        if place != folder and (place.is_symlink() or not place.is_dir()):
            continue
        for path in list(place.iterdir()):
            if UNFINISHED.fullmatch(path.name):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
