"""sha256 of files, and stamps that spare hashing a file again that has not changed since.

A stamp says of a file what its sha256 was, and its size, times and inode then. As long as these are the
same, so is the file: whoever swaps its bytes changes the time of its inode, which no program can set. That
time has a grain, so a file gets its stamp only when it is older than that.
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
GRAIN = 0.02  # seconds; the kernel's clock of files ticks every 1 to 10 ms
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
    """`sha256(path)`, from the file's stamp if the file has not changed since; leaves a stamp if it had none.

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
    """Leave a stamp on a file that was hashed under another name, when `hashed` was its `state`."""
    now = state(path)
    if now[:-1] == hashed[:-1]:  # the last one, a new name changes too
        _let_settle(now)
        _write(path, digest, now, fetched=_which(now))


def was_fetched(path: Path) -> bool:
    """Whether `stamp` was left on this very file: then bcos_zoo made it, whatever became of its bytes."""
    try:
        return (_read(_stamp_of(path)) or {}).get("fetched") == _which(state(path))
    except OSError:
        return False  # there is none any more


def _which(now: State) -> State:
    """Inode and device: who puts another file in its place changes them."""
    return now[2:4]


def state(path: Path) -> State:
    """What changes with the bytes of a file. Raises OSError if there is none."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev, status.st_ctime_ns]


def _let_settle(now: State) -> None:
    """Wait until whatever changes the file gives its inode another time."""
    if time.time() - now[-1] / 1e9 < GRAIN:
        time.sleep(GRAIN)


def _write(path: Path, digest: str, now: State, fetched: State | None = None) -> None:
    said: dict[str, object] = {"path": str(path), "sha256": digest, "state": now}
    said["fetched"] = fetched or (_read(_stamp_of(path)) or {}).get("fetched")  # hashing does not change it
    try:
        if state(path) == now:  # else somebody writes it at this moment
            with replacing(_stamp_of(path)) as temporary:
                temporary.write_text(json.dumps(said))
    except OSError:
        return  # a cache that cannot be written: the next load hashes again


def _stamp_of(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return Path(torch.hub.get_dir(), "bcos_zoo", "stamps", f"{name}.json")


def _read(stamp: Path) -> dict[str, object] | None:
    try:
        content = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return None  # none yet, or not ours: then the file is hashed
    whole = isinstance(content, dict) and isinstance(content.get("sha256"), str) and "state" in content
    return content if whole else None
