"""sha256 of files, and stamps that save hashing an unchanged file again.

A stamp records a file's sha256 along with its size, times and inode. As long as these are the same, so is the
file: changing its bytes changes the time of its inode, which no program can set. That time advances in small
steps, so a stamp is written only once the last change is more than a step ago.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import torch

from ..errors import WeightsError, reason
from ..files import replacing

CHUNK = 1 << 18  # bytes
GRAIN = 0.02  # seconds; the kernel's clock for file times ticks every 1 to 10 ms
State = list[int]  # size, time of the bytes, inode, device, time of the inode


def sha256(path: str | os.PathLike[str]) -> str:
    """The file's sha256, 64 hex digits. Raises WeightsError if it cannot be read."""
    digest, chunk = hashlib.sha256(), bytearray(CHUNK)
    view = memoryview(chunk)
    try:
        with open(path, "rb", buffering=0) as stream:
            while count := stream.readinto(chunk):
                digest.update(view[:count])
    except OSError as error:
        raise WeightsError(f"cannot read {path} ({reason(error)}); give a file that can be read") from error
    return digest.hexdigest()


def stamped_sha256(path: Path) -> str:
    """`sha256(path)`, from the file's stamp if the file has not changed since; otherwise writes a stamp.

    Raises WeightsError if the file cannot be read.
    """
    try:
        now = state(path)
    except OSError as error:
        raise WeightsError(f"cannot read {path} ({reason(error)}); give a file that can be read") from error
    if (known := _read(_stamp_of(path))) and known["state"] == now:
        return str(known["sha256"])
    _let_settle(now)
    digest = sha256(path)
    _write(path, digest, now)
    return digest


def stamp(path: Path, digest: str, hashed: State) -> None:
    """Write a stamp for a file that was hashed under another name, when `hashed` was its `state`."""
    now = state(path)
    if now[:-1] == hashed[:-1]:  # not the last one, which renaming changes too
        _let_settle(now)
        _write(path, digest, now, fetched=_which(now))


def was_fetched(path: Path) -> bool:
    """Whether `stamp` was called for this very file: then bcos_zoo made it, whatever its bytes are now."""
    try:
        return (_read(_stamp_of(path)) or {}).get("fetched") == _which(state(path))
    except OSError:
        return False  # the file is gone


def _which(now: State) -> State:
    """Inode and device, which change if another file takes its place."""
    return now[2:4]


def state(path: Path) -> State:
    """The metadata that change with the bytes of a file. Raises OSError if there is no file."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev, status.st_ctime_ns]


def _let_settle(now: State) -> None:
    """Wait until any further change to the file would give its inode another time."""
    if time.time() - now[-1] / 1e9 < GRAIN:
        time.sleep(GRAIN)


def _write(path: Path, digest: str, now: State, fetched: State | None = None) -> None:
    said: dict[str, object] = {"path": str(path), "sha256": digest, "state": now}
    said["fetched"] = fetched or (_read(_stamp_of(path)) or {}).get("fetched")  # hashing does not change it
    try:
        if state(path) == now:  # else somebody is writing it right now
            with replacing(_stamp_of(path)) as temporary:
                temporary.write_text(json.dumps(said))
    except OSError:
        return  # the cache cannot be written: the next load hashes again


def _stamp_of(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return Path(torch.hub.get_dir(), "bcos_zoo", "stamps", f"{name}.json")


def _read(stamp: Path) -> dict[str, object] | None:
    try:
        content = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return None  # there is none, or it is not ours: the file is hashed
    whole = isinstance(content, dict) and isinstance(content.get("sha256"), str) and "state" in content
    return content if whole else None
