"""What the tests of fetching share: records, a hurried clock, and what must hold after every fault."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import close_session, constants

from bcos_zoo import weights
from bcos_zoo.errors import WeightsError
from bcos_zoo.weights import checksums, manifest
from bcos_zoo.weights.manifest import Checkpoint, Place

DATA = bytes(range(256)) * 2000
SHA = hashlib.sha256(DATA).hexdigest()
INVERTED = hashlib.sha256(DATA[::-1]).hexdigest()  # of what the fault WrongBytes makes of it
TOKEN = "hf_secretsecret"
PASSWORD = "open sesame"
CHUNK = 1000  # bytes; the client's own steps of 10 MB are lost if a connection breaks before their end
NETWORK = "bcos_resnet50.v2_in1k"
REPO = "someone/net"
FILE = "model.safetensors"
W = f"w-{SHA[:10]}.pth"  # of a url, as torch.hub has names: they hold the beginning of the sha256


def record(
    where: Place | None, *, sha256: str | None = SHA, prefix: str | None = None, size: int | None = None
) -> Checkpoint:
    """A checkpoint whose file is there."""
    known = manifest.get(NETWORK)
    file = dataclasses.replace(
        known.files[0], where=where, sha256=sha256, sha256_prefix=prefix, bytes=size, format="pth"
    )
    return dataclasses.replace(known, files=(file,))


@contextmanager
def surroundings(monkeypatch: Any, home: Path) -> Iterator[list[float]]:
    """Caches below `home`, no proxy, no token, and a clock in a hurry; the seconds that were to be waited."""
    waits: list[float] = []
    sleep = time.sleep

    def hurry(seconds: float) -> None:
        if seconds >= 0.5:
            waits.append(seconds)
        sleep(min(seconds, 0.05))

    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("HF_TOKEN", "HUGGING")):
            monkeypatch.delenv(name)
    for name in (weights.MIRROR, manifest.MORE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    monkeypatch.setattr(time, "sleep", hurry)
    close_session()
    yield waits
    close_session()


def use_hub(monkeypatch: Any, endpoint: str) -> None:
    """Let the client of this process, which has read its environment already, talk to another Hub."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def check_line(message: str) -> str:
    """The message, if it is one line of bearable length and holds no secret."""
    assert "\n" not in message
    assert len(message) < 800
    for secret in (TOKEN, PASSWORD, PASSWORD.replace(" ", "%20"), "Basic "):
        assert secret not in message
    return message


def check_cache(folder: Path) -> list[str]:
    """The names of the files that are there to be loaded; each of them has the right bytes."""
    found = []
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if hidden or path.is_dir() or path.suffix in (".damaged", ".incomplete", ".TAG"):
            continue
        assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA, path
        found.append(path.name)
    return sorted(found)


def partials(folder: Path) -> list[int]:
    """The sizes of what broken downloads left."""
    return [path.stat().st_size for path in folder.rglob(".*.partial")]


def fetched(checkpoint: Checkpoint, cache: Path) -> Path:
    """The file that `fetch` gives, its bytes and the cache being right."""
    path = weights.fetch(checkpoint, cache)
    assert path.read_bytes() == DATA
    check_cache(cache)
    return path


def refused(checkpoint: Checkpoint, cache: Path, call: Callable[..., object] = weights.fetch) -> str:
    """The one line of the WeightsError, the cache holding nothing bad."""
    try:
        result = call(checkpoint, cache)
    except WeightsError as error:
        check_cache(cache)
        return check_line(str(error))
    raise AssertionError(f"no error, but {result}")


def interleave(monkeypatch: Any, nth: int, damaged: Path, put_right: bool) -> list[Path]:
    """Another process removes a damaged file just before the n-th look at any file; the paths looked at.

    put_right: it has also put the right file there, before this process goes on.
    """
    looks: list[Path] = []
    real = checksums.state

    def state(path: Path) -> checksums.State:
        looks.append(path)
        turn = len(looks) == nth and damaged.exists() and damaged.read_bytes() != DATA
        if turn:
            damaged.unlink()
        try:
            return real(path)
        finally:
            if turn and put_right:
                damaged.write_bytes(DATA)

    monkeypatch.setattr(checksums, "state", state)
    return looks


def attempt(checkpoint: Checkpoint, cache: str | Path) -> str:
    """ "right", or the message of the WeightsError; for processes of their own."""
    logging.disable()
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    try:
        return "right" if weights.fetch(checkpoint, cache).read_bytes() == DATA else "wrong"
    except WeightsError as error:
        return str(error)


def at_once(n: int, checkpoint: Checkpoint, cache: str | Path) -> list[str]:
    """What `attempt` says in n processes; call it in a process without threads."""
    with multiprocessing.get_context("fork").Pool(n) as pool:
        return pool.starmap(attempt, [(checkpoint, cache)] * n, chunksize=1)
