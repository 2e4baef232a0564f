"""Whatever goes wrong on the way from a Hugging Face repository, its own client in between."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fetching
import pytest
from fetching import DATA, FILE, INVERTED, REPO, SHA, TOKEN, check_cache, fetched, record, refused
from huggingface_hub import constants
from servers import HubServer, Redirect, Reset, Stall, Status, Truncate, When, WrongBytes, WrongLength

from bcos_zoo import weights
from bcos_zoo.errors import WeightsError
from bcos_zoo.weights import checksums
from bcos_zoo.weights.manifest import Checkpoint, HubFile


@pytest.fixture(autouse=True)
def waits(monkeypatch: Any, tmp_path: Path) -> Iterator[list[float]]:
    with fetching.surroundings(monkeypatch, tmp_path / "home") as waits:
        yield waits


@pytest.fixture
def hub(monkeypatch: Any) -> Iterator[HubServer]:
    with HubServer({TOKEN}) as hub:
        fetching.use_hub(monkeypatch, hub.endpoint)
        hub.create(REPO, {FILE: DATA})
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def at(hub: HubServer, revision: str | None = None) -> Checkpoint:
    return record(HubFile(REPO, revision or hub.repositories[REPO].refs["main"], FILE))


def test_wrong_bytes_once(hub: HubServer, cache: Path) -> None:
    hub.cdn.faults = [WrongBytes()]
    fetched(at(hub), cache)
    assert len(hub.cdn.requests) == 2


def test_wrong_bytes_for_ever(hub: HubServer, cache: Path) -> None:
    hub.cdn.always = WrongBytes()
    line = refused(at(hub), cache)
    assert re.search(
        f"{FILE} from {REPO} at [0-9a-f]+ is not .*expected {SHA}, got {INVERTED}; nothing", line
    )
    assert check_cache(cache) == []


def test_another_file_under_that_name(hub: HubServer, cache: Path) -> None:
    """The Hub says so itself: of other length, and with another hash of its own."""
    hub.commit(REPO, {FILE: DATA[:-1]})
    assert f"expected {SHA}, got" in refused(at(hub), cache)
    assert check_cache(cache) == []


def test_truncated(hub: HubServer, cache: Path) -> None:
    hub.cdn.faults = [Truncate(256_000)]
    fetched(at(hub), cache)
    assert [request.headers.get("range") for request in hub.cdn.requests] == [None, "bytes=256000-"]


def test_truncated_for_ever(hub: HubServer, cache: Path) -> None:
    hub.cdn.always = Truncate(0)
    assert f"cannot download {FILE} from {REPO}" in refused(at(hub), cache)
    assert check_cache(cache) == []


def test_length_announced_too_large(hub: HubServer, cache: Path) -> None:
    hub.cdn.faults = [WrongLength(10)]
    fetched(at(hub), cache)


def test_length_announced_too_small(hub: HubServer, cache: Path) -> None:
    hub.cdn.faults = [WrongLength(-10)]
    assert "should be of size 512000 but has size 511990" in refused(at(hub), cache)
    assert check_cache(cache) == []
    fetched(at(hub), cache)


@pytest.mark.parametrize("what", ["file", "revision", "repository"])
def test_404(hub: HubServer, cache: Path, what: str) -> None:
    if what == "file":
        checkpoint = at(hub, hub.create(REPO, {"other.safetensors": DATA}))
    elif what == "revision":
        checkpoint = at(hub, "0" * 40)
    else:
        checkpoint = at(hub)
        hub.repositories.clear()
    line = refused(checkpoint, cache)
    assert re.search(f"cannot download {FILE} from {REPO} at .*(404|401).*name the folder in BCOS", line)
    assert check_cache(cache) == []


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_403(hub: HubServer, cache: Path, method: str) -> None:
    (hub if method == "HEAD" else hub.cdn).always = When(Status(403), method)
    assert re.search(f"cannot download {FILE} from {REPO} at .*403.*try again", refused(at(hub), cache))


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_500_three_times(hub: HubServer, cache: Path, method: str) -> None:
    (hub if method == "HEAD" else hub.cdn).faults = [When(Status(500), method)] * 3
    fetched(at(hub), cache)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_500_for_ever(hub: HubServer, cache: Path, method: str, waits: list[float]) -> None:
    """It takes no longer than half a minute to say so."""
    (hub if method == "HEAD" else hub.cdn).always = When(Status(500), method)
    assert re.search(f"cannot download {FILE} from {REPO} at .*500.*try again", refused(at(hub), cache))
    assert sum(waits) <= 30


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_429_waits_as_told(hub: HubServer, cache: Path, method: str, waits: list[float]) -> None:
    fault = When(Status(429, {"Retry-After": "7"}), method)
    (hub if method == "HEAD" else hub.cdn).faults = [fault] * 2
    fetched(at(hub), cache)
    assert max(waits) >= 7


def test_reset_midway(hub: HubServer, cache: Path) -> None:
    hub.cdn.faults = [Reset(256_000), Reset(1000)]
    fetched(at(hub), cache)


def test_stalled(hub: HubServer, cache: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.cdn.faults = [Stall(None), Stall(256_000)]
    fetched(at(hub), cache)


def test_token_stays_at_the_hub(hub: HubServer, cache: Path, monkeypatch: Any, caplog: Any) -> None:
    """The file is on another host; there it goes on by a redirect to a third."""
    hub.repositories[REPO].private = True
    assert re.search(f"cannot download {FILE} .*401", refused(at(hub), cache))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.cdn.faults = [Status(403), Redirect(hub.cdn.sign("GET", SHA).replace("localhost", "127.0.0.1"))]
    with caplog.at_level("DEBUG"):
        assert "403" in refused(at(hub), cache)
        fetched(at(hub), cache)
    assert TOKEN not in caplog.text
    assert any("authorization" in request.headers for request in hub.requests)
    assert len(hub.cdn.requests) == 3
    assert not any("authorization" in request.headers for request in hub.cdn.requests)


def test_token_is_wrong(hub: HubServer, cache: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrong")
    line = refused(at(hub), cache)
    assert re.search(f"cannot download {FILE} from {REPO} at .*401", line)
    assert "hf_wrongwrong" not in line


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_offline_with_nothing_good(
    hub: HubServer, cache: Path, monkeypatch: Any, content: bytes | None
) -> None:
    if content:
        fetched(at(hub), cache).resolve().write_bytes(content)
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert f"{FILE} is not in the cache and HF_HUB_OFFLINE is set; put the file" in refused(at(hub), cache)
    assert len(hub.requests) == asked and check_cache(cache) == []


def test_offline_with_the_file(hub: HubServer, cache: Path, monkeypatch: Any) -> None:
    fetched(at(hub), cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fetched(at(hub), cache)


def test_no_network(hub: HubServer, cache: Path) -> None:
    checkpoint = at(hub)
    hub.close()
    assert re.search(f"cannot download {FILE} from {REPO} .*refused.*try again", refused(checkpoint, cache))


def test_file_swapped_after_it_was_verified(hub: HubServer, cache: Path) -> None:
    blob = fetched(at(hub), cache).resolve()
    blob.write_bytes(DATA[::-1])
    fetched(at(hub), cache)
    assert len(hub.cdn.requests) == 2


def test_damaged_file_that_another_revision_brings(hub: HubServer, cache: Path) -> None:
    """The cache has the bytes once for all revisions."""
    blob = fetched(at(hub), cache).resolve()
    blob.write_bytes(DATA[::-1])
    fetched(at(hub, hub.commit(REPO, {"more.txt": b"more"})), cache)


def test_damaged_file_is_replaced_by_one_alone(hub: HubServer, cache: Path, monkeypatch: Any) -> None:
    """However slowly they go about it, nobody deletes what another has just downloaded."""
    fetched(at(hub), cache).resolve().write_bytes(DATA[::-1])
    removed: list[Path] = []
    real = importlib.import_module("bcos_zoo.weights.fetching")._remove

    def remove(link: Path, folder: Path) -> None:
        removed.append(link)
        hub.pause(0.3)
        real(link, folder)

    monkeypatch.setattr("bcos_zoo.weights.fetching._remove", remove)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: weights.fetch(at(hub), cache), range(4)))
    assert (len(removed), len(hub.cdn.requests)) == (1, 2)


@pytest.mark.parametrize("put_right", [False, True])
@pytest.mark.parametrize("nth", range(1, 7))
def test_damaged_file_that_another_process_removes_at_any_moment(
    hub: HubServer, cache: Path, monkeypatch: Any, nth: int, put_right: bool
) -> None:
    blob = fetched(at(hub), cache).resolve()
    blob.write_bytes(DATA[::-1])
    looks = fetching.interleave(monkeypatch, nth, blob, put_right)
    fetched(at(hub), cache)
    assert looks


def test_damaged_file_and_server_away(hub: HubServer, cache: Path) -> None:
    checkpoint = at(hub)
    fetched(checkpoint, cache).resolve().write_bytes(b"damaged")
    hub.close()
    assert re.search(f"cannot download {FILE} .*refused", refused(checkpoint, cache))
    assert check_cache(cache) == []


def test_second_fetch_asks_and_hashes_nothing(hub: HubServer, cache: Path, monkeypatch: Any) -> None:
    fetched(at(hub), cache)
    monkeypatch.setattr(checksums, "sha256", None)
    asked = len(hub.requests)
    fetched(at(hub), cache)
    assert len(hub.requests) == asked


def test_clock_of_the_file_changed(hub: HubServer, cache: Path) -> None:
    os.utime(fetched(at(hub), cache), (1, 1))
    fetched(at(hub), cache)
    assert len(hub.cdn.requests) == 1


def test_mirror_stands_for_the_hub(hub: HubServer, cache: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv(weights.MIRROR, str(tmp_path))
    assert f"no file {tmp_path}/{weights.filename(at(hub))} for" in refused(at(hub), cache)
    (tmp_path / f"{fetching.NETWORK}.pth").write_bytes(DATA)
    fetched(at(hub), cache)
    assert hub.requests == []


def test_cached_file_is_used_though_the_token_is_gone(hub: HubServer, cache: Path, monkeypatch: Any) -> None:
    hub.repositories[REPO].private = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetched(at(hub), cache)
    monkeypatch.delenv("HF_TOKEN")
    fetched(at(hub), cache)


def test_a_record_with_another_sha256_deletes_nothing_of_the_hubs(hub: HubServer, cache: Path) -> None:
    """Two records may name one file; the one that is wrong must not cost the other its copy."""
    right = at(hub)
    path = fetched(right, cache)
    wrong = record(right.files[0].where, sha256="0" * 64)
    asked = len(hub.cdn.requests)
    with pytest.raises(WeightsError, match="is not the file expected.*it stays in the cache of the Hub"):
        weights.fetch(wrong, cache)
    assert path.read_bytes() == DATA and len(hub.cdn.requests) == asked
