"""Whatever goes wrong on the way from a url: the right bytes or one clear line, and nothing bad in the cache.

docs/faults.md is the table of these tests, and of those in test_faults_*.py.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fetching
import pytest
from fetching import DATA, INVERTED, PASSWORD, SHA, W, check_cache, fetched, partials, record, refused
from huggingface_hub import constants
from servers import (
    IgnoreRange,
    Redirect,
    ReleaseServer,
    Request,
    Reset,
    Response,
    Stall,
    Status,
    Truncate,
    WrongBytes,
    WrongLength,
)

from bcos_zoo import weights
from bcos_zoo.weights.manifest import Checkpoint, Url

HALF = len(DATA) // 2


@pytest.fixture(autouse=True)
def waits(monkeypatch: Any, tmp_path: Path) -> Iterator[list[float]]:
    """The seconds that the code wanted to wait, and did not."""
    with fetching.surroundings(monkeypatch, tmp_path / "home") as waits:
        yield waits


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer({W: DATA}) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def at(server: ReleaseServer, **options: Any) -> Checkpoint:
    return record(Url(server.url(W)), **options)


def ranges(server: ReleaseServer) -> list[str | None]:
    return [request.headers.get("range") for request in server.requests]


class Forgetful(ReleaseServer):
    """Knows no ranges."""

    def respond(self, request: Request) -> Response:
        return replace(super().respond(request), etag=None)


def test_truncated_body_is_continued(server: ReleaseServer, cache: Path) -> None:
    server.faults = [Truncate(HALF)]
    fetched(at(server), cache)
    assert ranges(server) == [None, f"bytes={HALF}-"]


def test_truncated_for_ever_keeps_the_start(server: ReleaseServer, cache: Path) -> None:
    server.faults, server.always = [Truncate(HALF)], Truncate(0)
    assert f"cannot download {W}" in refused(at(server), cache)
    assert partials(cache) == [HALF]
    server.always = None
    fetched(at(server), cache)
    assert ranges(server)[-1] == f"bytes={HALF}-"


def test_truncated_for_ever_without_ranges(cache: Path) -> None:
    with Forgetful({W: DATA}) as server:
        server.always = Truncate(HALF)
        assert "the server cannot continue a file" in refused(at(server), cache)
        assert len(server.requests) < 10


def test_range_ignored(server: ReleaseServer, cache: Path) -> None:
    server.faults = [Truncate(HALF), IgnoreRange()]
    fetched(at(server), cache)
    assert len(server.requests) == 2


def test_wrong_bytes(server: ReleaseServer, cache: Path) -> None:
    server.always = WrongBytes()
    line = refused(at(server), cache)
    assert re.search(f"{W} from http.* expected {SHA}, got {INVERTED}; nothing was kept, try again", line)
    assert partials(cache) == []


def test_wrong_start_left_by_an_earlier_try(server: ReleaseServer, cache: Path) -> None:
    server.faults, server.always = [Truncate(HALF)], Truncate(0)
    refused(at(server), cache)
    (left,) = cache.rglob(".*.partial")
    left.write_bytes(b"x" * HALF)
    server.always = None
    fetched(at(server), cache)
    assert ranges(server)[-2:] == [f"bytes={HALF}-", None]


def test_left_longer_than_the_file(server: ReleaseServer, cache: Path) -> None:
    server.faults, server.always = [Truncate(HALF)], Truncate(0)
    refused(at(server), cache)
    (left,) = cache.rglob(".*.partial")
    left.write_bytes(DATA + b"x")
    server.always = None
    fetched(at(server), cache)


def test_length_announced_too_large(server: ReleaseServer, cache: Path) -> None:
    server.faults = [WrongLength(10)]
    fetched(at(server), cache)


def test_length_announced_too_small(server: ReleaseServer, cache: Path) -> None:
    server.faults = [WrongLength(-10)]
    assert "not the file expected" in refused(at(server), cache)
    assert partials(cache) == []
    fetched(at(server), cache)


def test_file_longer_than_the_manifest_says(server: ReleaseServer, cache: Path) -> None:
    server.files[W] = DATA * 100
    line = refused(at(server, size=len(DATA)), cache)
    assert f"not the file expected: more than the {len(DATA)} bytes" in line
    assert partials(cache) == []
    assert server.requests[0].sent < len(DATA) * 100


def test_file_shorter_than_the_manifest_says(server: ReleaseServer, cache: Path) -> None:
    server.files[W] = DATA[:-1]
    assert f"expected {SHA}, got" in refused(at(server, size=len(DATA)), cache)
    assert partials(cache) == []


@pytest.mark.parametrize("code", [404, 403])
def test_missing_or_forbidden(server: ReleaseServer, cache: Path, code: int) -> None:
    server.always = Status(code)
    line = refused(at(server), cache)
    target = cache / W
    assert re.search(f"{W} from {server.url(W)} .*{code}.* put the file at {target} by hand", line)
    assert len(server.requests) == 1 and not partials(cache)


def test_500_three_times(server: ReleaseServer, cache: Path, waits: list[float]) -> None:
    server.faults = [Status(500)] * 3
    fetched(at(server), cache)
    assert waits == [1, 2, 4]


@pytest.mark.parametrize("code", [500, 503])
def test_500_for_ever(server: ReleaseServer, cache: Path, code: int) -> None:
    server.always = Status(code)
    assert re.search(f"cannot download {W} from http.*{code}.*try again", refused(at(server), cache))
    assert len(server.requests) == 5 and not partials(cache)


def test_429_waits_as_told(server: ReleaseServer, cache: Path, waits: list[float]) -> None:
    server.faults = [Status(429, {"Retry-After": "7"})]
    fetched(at(server), cache)
    assert len(waits) == 1 and waits[0] >= 7


def test_429_for_ever(server: ReleaseServer, cache: Path) -> None:
    server.always = Status(429, {"Retry-After": "1"})
    assert re.search(f"cannot download {W} .*429.*try again", refused(at(server), cache))


def test_reset_midway_is_continued(server: ReleaseServer, cache: Path) -> None:
    server.faults = [Reset(HALF), Reset(1000)]
    fetched(at(server), cache)
    assert ranges(server)[0] is None and all(ranges(server)[1:])


def test_reset_for_ever(server: ReleaseServer, cache: Path) -> None:
    server.always = Reset(0)
    assert f"cannot download {W} from http" in refused(at(server), cache)


def test_stall_is_continued(server: ReleaseServer, cache: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    server.faults = [Stall(None), Stall(HALF)]
    fetched(at(server), cache)
    assert len(server.requests) == 3


def test_stall_for_ever(server: ReleaseServer, cache: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    server.always = Stall(None)
    assert re.search(f"cannot download {W} from http.*timed out.*try again", refused(at(server), cache))


def test_redirect_is_followed(server: ReleaseServer, cache: Path) -> None:
    server.faults = [Redirect("/a/b"), Redirect(server.url(W), 307)]
    fetched(at(server), cache)


def test_redirect_in_a_loop(server: ReleaseServer, cache: Path) -> None:
    server.always = Redirect(f"/{W}")
    assert "redirects" in refused(at(server), cache)


def test_redirect_takes_no_password_along(
    server: ReleaseServer, cache: Path, monkeypatch: Any, caplog: Any
) -> None:
    """Nor does a log have it, though the client logs the urls with which it fails."""
    mirror = server.url().replace("://", f"://me:{PASSWORD.replace(' ', '%20')}@")
    monkeypatch.setenv(weights.MIRROR, mirror)
    with ReleaseServer({"other.pth": DATA}, host="localhost") as other:
        server.faults = [Redirect(other.url("other.pth"))]
        other.faults = [Truncate(HALF)]
        server.always = Status(403)
        with caplog.at_level(logging.DEBUG):
            assert "403" in refused(at(server), cache)
        server.always = Redirect(other.url("other.pth"))
        fetched(at(server), cache)
        assert len(other.requests) == 2
        assert all(
            request.headers["authorization"] == "Basic bWU6b3BlbiBzZXNhbWU=" for request in server.requests
        )
        assert not any("authorization" in request.headers for request in other.requests)
    assert "Error while downloading from" in caplog.text
    for secret in (PASSWORD, PASSWORD.replace(" ", "%20"), "bWU6b3B"):
        assert secret not in caplog.text


def test_password_is_never_shown_even_with_an_at_sign(
    server: ReleaseServer, cache: Path, monkeypatch: Any
) -> None:
    server.always = Status(403)
    monkeypatch.setenv(weights.MIRROR, server.url().replace("://", f"://me:a@{PASSWORD}@"))
    refused(at(server), cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(at(server), cache)


def test_no_network(cache: Path) -> None:
    with ReleaseServer({}) as server:
        checkpoint = at(server)
    line = refused(checkpoint, cache)  # the port is free again: connections to it are refused
    assert re.search(f"cannot download {W} from http.*refused.*try again, or put the file at", line)


def test_interrupt_keeps_the_start(server: ReleaseServer, cache: Path) -> None:
    """Ctrl-C; the next try continues. What is left has a hidden name beside the target, and is all."""
    server.faults = [Stall(HALF)]

    def interrupt() -> None:
        while not any(partials(cache)):
            server.pause(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            weights.fetch(at(server), cache)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert check_cache(cache) == []
    assert all(name.startswith(".") for name in os.listdir(cache))
    fetched(at(server), cache)
    assert ranges(server)[1]
    assert [name for name in os.listdir(cache) if not name.endswith(".lock")] == [W]


def test_the_table_in_the_docs_is_complete() -> None:
    tests = Path(__file__).parent
    written = set()
    for file in tests.glob("test_faults*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                written.add(f"{file.stem}::{node.name}")
    written.remove(f"{Path(__file__).stem}::test_the_table_in_the_docs_is_complete")
    page = (tests.parents[1] / "docs" / "faults.md").read_text()
    rows = re.findall(r"^\|[^|]+\|[^|]+\| `(test_\w+::test_\w+)` \|$", page, re.MULTILINE)
    assert sorted(rows) == sorted(written)
