"""One file from a url: resumed where it broke off, tried again, and renamed once its hash is right."""

from __future__ import annotations

import base64
import errno
import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

# http_get and not torch.hub's: that cannot resume, tries only once, and waits forever for a stalled server.
from .._compat import http_get
from ..errors import WeightsError, reason, redact
from ..files import move_into_place
from .checksums import sha256, stamp, state

BUSY = (500, 502, 503, 504)  # HTTP statuses; 429 itself says how long to wait, and the client does so
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each new try
ANEW = 3  # times that a file may start anew, from a server that breaks off and cannot continue
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Result = TypeVar("Result")


def download(url: str, target: Path, digest: str, size: int | None = None) -> None:
    """Download `url` to `target`, with a stamp, if its sha256 begins with `digest`.

    The caller holds `files.locked(target)`. size: of the file, in bytes, if known.
    A partial file from an earlier try is continued; one that this try leaves stands beside the target under a
    name of its own. If stderr is a terminal, a bar shows the progress. Raises WeightsError.
    """
    partial = target.with_name(f".{target.name}.{digest[:16]}.partial")
    resumed = partial.exists() and partial.stat().st_size > 0
    hint = f"try again, or put the file at {target} by hand"
    try:
        _check_room(target.parent, partial, size)
        patiently(lambda: _get(url, partial, target.name, size))
        fault = None
    except _TooLongError as error:
        fault = str(error)
    except Exception as error:  # errors of the client and of its layers have no common base
        if _status(error) != 416 or not partial.stat().st_size:  # 416: the server has no more bytes
            _clean_up(partial, error)
            raise WeightsError(
                f"cannot download {target.name} from {shown(url)} ({reason(error)}); {hint}"
            ) from error
        fault = None
    if fault is None:
        hashed, got = state(partial), sha256(partial)
        if got.startswith(digest):
            move_into_place(partial, target)
            return stamp(target, got, hashed)
        fault = f"sha256 expected {digest}, got {got}"
    partial.unlink()
    if resumed:  # perhaps the earlier part was from another file
        return download(url, target, digest, size)
    raise WeightsError(
        f"{target.name} from {shown(url)} is not the file expected: {fault}; nothing was kept, {hint}"
    )


def patiently(call: Callable[[], Result]) -> Result:
    """The result of `call`, which is repeated after a while if a server is busy or a connection is reset."""
    for wait in WAITS:
        try:
            return call()
        except Exception as error:
            if not _passing(error):
                raise
        time.sleep(wait)
    return call()


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return bool(constants.HF_HUB_OFFLINE)


def shown(url: str) -> str:
    """A url to show to people: without user, password and query."""
    return redact(_split(url)[0])


def _get(url: str, partial: Path, name: str, size: int | None) -> None:
    bare, headers = _split(url)
    with _Partial(partial, size) as stream:
        if stream.tell() != size:
            http_get(bare, stream, resume_size=stream.tell(), displayed_filename=name, headers=headers)


def _split(url: str) -> tuple[str, dict[str, str]]:
    """The url without user and password, which the client would log, and headers that hold them instead."""
    headers = {"Accept-Encoding": "identity"}
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    if at:
        user, _, password = credentials.partition(":")
        pair = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        headers["Authorization"] = f"Basic {pair}"
    return parts._replace(netloc=host).geturl(), headers


class _TooLongError(Exception):
    """A server sends more bytes than the file has."""


class _Partial(io.BufferedWriter):
    """The file that http_get appends to. It never outgrows `size`, and starts anew only a few times."""

    def __init__(self, path: Path, size: int | None) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self.size = size
        self.begun = 0

    def write(self, data: Any) -> int:
        if self.size is not None and self.tell() + len(data) > self.size:
            raise _TooLongError(f"more than the {self.size} bytes it should have")
        return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        self.begun += 1
        if self.begun > ANEW:
            raise OSError("the connection breaks off, and the server cannot continue a file")
        return super().truncate(size)


def _check_room(folder: Path, partial: Path, size: int | None) -> None:
    missing = 0 if size is None else size - (partial.stat().st_size if partial.exists() else 0)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise OSError(errno.ENOSPC, f"{missing} bytes are missing and {free} are free in {folder}")


def _passing(error: BaseException) -> bool:
    """Whether a fault may pass in a few seconds, and the client has not already retried."""
    if isinstance(error, LocalEntryNotFoundError):
        return False  # it has already asked six times for the file
    reset = any(isinstance(e, (ConnectionResetError, ConnectionAbortedError)) for e in _causes(error))
    return reset or _status(error) in BUSY


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error, or None."""
    responses = (getattr(e, "response", None) for e in _causes(error))
    return next((int(response.status_code) for response in responses if response is not None), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _clean_up(partial: Path, error: BaseException) -> None:
    """Delete a partial file if the disk is full or the file is empty; keep it otherwise, to continue it."""
    try:
        if getattr(error, "errno", None) in FULL or not partial.stat().st_size:
            partial.unlink()
    except OSError:
        return  # there is no such file, or its folder cannot be written: nothing of ours is left
