"""Whatever goes wrong on this machine: disks, caches, clocks, swapped and damaged files, mirrors, offline."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fetching
import pytest
from disks import small_disk
from fetching import DATA, INVERTED, SHA, fetched, partials, record, refused
from huggingface_hub import constants
from servers import ReleaseServer

from bcos_zoo import checksums, weights
from bcos_zoo.manifest import Checkpoint, Url


@pytest.fixture(autouse=True)
def hurried(monkeypatch: Any, tmp_path: Path) -> Iterator[None]:
    with fetching.surroundings(monkeypatch, tmp_path / "home"):
        yield


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer({"w.pth": DATA}) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def at(server: ReleaseServer, **options: Any) -> Checkpoint:
    return record(Url(server.url("w.pth")), **options)


def test_disk_smaller_than_the_file(server: ReleaseServer, cache: Path) -> None:
    line = refused(at(server, size=10**18), cache)
    assert re.search(f"{10**18} bytes are missing and [0-9]+ are free", line)
    assert server.requests == [] and not partials(cache)


def test_disk_full_on_a_small_file_system(server: ReleaseServer, cache: Path) -> None:
    with small_disk(cache, "64k"):
        assert re.search("cannot download w.pth .*No space left", refused(at(server), cache))
        assert not partials(cache)


def test_clock_of_the_file_changed(server: ReleaseServer, cache: Path, monkeypatch: Any) -> None:
    """It is hashed again, and not downloaded."""
    path = fetched(at(server), cache)
    hashed = count_hashes(monkeypatch)
    os.utime(path, (1, 1))
    fetched(at(server), cache)
    fetched(at(server), cache)
    assert (len(server.requests), hashed) == (1, [path])


def count_hashes(monkeypatch: Any) -> list[Path]:
    """The paths of all files that are hashed from now on."""
    hashed: list[Path] = []
    real = checksums.sha256
    monkeypatch.setattr(checksums, "sha256", lambda path: (hashed.append(path), real(path))[1])
    return hashed


def test_second_fetch_hashes_nothing(server: ReleaseServer, cache: Path, monkeypatch: Any) -> None:
    hashed = count_hashes(monkeypatch)
    for _ in range(3):
        fetched(at(server), cache)
    assert hashed == []  # the first one hashed what it downloaded, under another name


def swap(path: Path) -> None:
    """Other bytes of the same length and age in the same inode."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(DATA[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_file_swapped_after_it_was_verified(server: ReleaseServer, cache: Path, caplog: Any) -> None:
    path = fetched(at(server), cache)
    swap(path)
    fetched(at(server), cache)
    assert (cache / "w.pth.damaged").read_bytes() == DATA[::-1]
    assert len(server.requests) == 2
    assert f"it is called {path.name}.damaged now" in caplog.text


def test_file_swapped_at_once_many_times(server: ReleaseServer, cache: Path, tmp_path: Path) -> None:
    """The time of an inode has a grain; a swap within it would be seen as no swap, so stamps come later."""
    for _ in range(20):
        path = weights.fetch(at(server), cache)
        (stamp,) = tmp_path.rglob("stamps/*.json")
        assert stamp.stat().st_mtime_ns - path.stat().st_ctime_ns > 0.01 * 1e9
        swap(path)
    fetched(at(server), cache)
    assert len(server.requests) == 21


def test_stamps_cannot_be_written(server: ReleaseServer, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / "torch").write_text("a file where the folder of the stamps should be")
    fetched(at(server), cache)
    fetched(at(server), cache)
    assert len(server.requests) == 1


def test_damaged_file_and_server_away(server: ReleaseServer, cache: Path) -> None:
    cache.mkdir()
    (cache / "w.pth").write_bytes(b"damaged")
    server.close()
    assert re.search("cannot download w.pth .*refused", refused(at(server), cache))
    assert (cache / "w.pth.damaged").read_bytes() == b"damaged"


def test_damaged_file_of_no_place(cache: Path) -> None:
    damaged = weights.location(record(None), cache)
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"damaged")
    assert f"put {damaged.name}, of sha256 {SHA}" in refused(record(None), cache)
    assert damaged.with_name(f"{damaged.name}.damaged").read_bytes() == b"damaged"


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_offline_with_nothing_good(
    server: ReleaseServer, cache: Path, monkeypatch: Any, content: bytes | None
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if content:
        cache.mkdir()
        (cache / "w.pth").write_bytes(content)
    line = refused(at(server), cache)
    assert re.search(
        f"w.pth is not in the cache and HF_HUB_OFFLINE is set; put the file at {cache}/w.pth", line
    )
    assert server.requests == []


def test_offline_with_the_file(server: ReleaseServer, cache: Path, monkeypatch: Any) -> None:
    fetched(at(server), cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fetched(at(server), cache)
    assert len(server.requests) == 1


def test_cache_folder_is_a_file(server: ReleaseServer, cache: Path) -> None:
    cache.touch()
    line = refused(at(server), cache)
    assert re.search(f"cannot write {cache}/w.pth .*free or name a writable folder", line)
    assert server.requests == []


def test_mirror_folder(server: ReleaseServer, cache: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Without the file, with a wrong one, with the right one; nothing is asked, nothing is copied."""
    monkeypatch.setenv(weights.MIRROR, str(tmp_path))
    file = tmp_path / "w.pth"
    assert f"no file {file} for {fetching.NETWORK}, and BCOS_ZOO_MIRROR allows no" in refused(
        at(server), cache
    )
    file.write_bytes(DATA[::-1])
    assert re.search(
        f"{file} is not the file.*{SHA}, got {INVERTED}; put the right", refused(at(server), cache)
    )
    file.write_bytes(DATA)
    assert fetched(at(server), cache) == file
    assert server.requests == [] and not cache.exists()


def test_mirror_url(server: ReleaseServer, cache: Path, monkeypatch: Any) -> None:
    """Without the file, with a wrong one, with the right one; the place in the manifest is not asked."""
    with ReleaseServer({}) as mirror:
        monkeypatch.setenv(weights.MIRROR, mirror.url("weights/"))
        assert re.search(f"{mirror.url('weights/w.pth')} .*404", refused(at(server), cache))
        mirror.files["weights/w.pth"] = DATA[::-1]
        assert f"expected {SHA}, got {INVERTED}" in refused(at(server), cache)
        mirror.files["weights/w.pth"] = DATA
        fetched(at(server), cache)
    assert server.requests == []
