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
from fetching import DATA, INVERTED, SHA, W, check_line, fetched, partials, record, refused
from huggingface_hub import constants
from servers import ReleaseServer

from bcos_zoo import weights
from bcos_zoo.errors import WeightsError
from bcos_zoo.weights import checksums
from bcos_zoo.weights.manifest import Checkpoint, Url


@pytest.fixture(autouse=True)
def hurried(monkeypatch: Any, tmp_path: Path) -> Iterator[None]:
    with fetching.surroundings(monkeypatch, tmp_path / "home"):
        yield


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer({W: DATA}) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def at(server: ReleaseServer, **options: Any) -> Checkpoint:
    return record(Url(server.url(W)), **options)


def test_disk_smaller_than_the_file(server: ReleaseServer, cache: Path) -> None:
    line = refused(at(server, size=10**18), cache)
    assert re.search(f"{10**18} bytes are missing and [0-9]+ are free", line)
    assert server.requests == [] and not partials(cache)


def test_disk_full_on_a_small_file_system(server: ReleaseServer, cache: Path) -> None:
    with small_disk(cache, "64k"):
        assert re.search(f"cannot download {W} .*No space left", refused(at(server), cache))
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
    assert (cache / f"{W}.damaged").read_bytes() == DATA[::-1]
    assert len(server.requests) == 2
    assert f"it was renamed to {path.name}.damaged" in caplog.text


@pytest.mark.parametrize("put_right", [False, True])
@pytest.mark.parametrize("nth", range(1, 7))
def test_damaged_file_that_another_process_removes_at_any_moment(
    server: ReleaseServer, cache: Path, monkeypatch: Any, nth: int, put_right: bool
) -> None:
    path = fetched(at(server), cache)
    path.write_bytes(DATA[::-1])
    looks = fetching.interleave(monkeypatch, nth, path, put_right)
    fetched(at(server), cache)
    assert looks


@pytest.mark.parametrize("nth", range(1, 7))
def test_damaged_file_without_a_place_that_another_process_removes(
    cache: Path, monkeypatch: Any, nth: int
) -> None:
    path = weights.location(record(None), cache)
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA[::-1])
    fetching.interleave(monkeypatch, nth, path, put_right=False)
    with pytest.raises(WeightsError) as caught:
        weights.fetch(record(None), cache)
    expected = "was not put there by bcos_zoo" if path.exists() else "no place is known"
    assert expected in check_line(str(caught.value))


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
    fetched(at(server), cache).write_bytes(b"damaged")
    server.close()
    assert re.search(f"cannot download {W} .*refused", refused(at(server), cache))
    assert (cache / f"{W}.damaged").read_bytes() == b"damaged"


def test_damaged_file_of_no_place(cache: Path) -> None:
    """Nobody but a person can have put it there: it stays."""
    damaged = weights.location(record(None), cache)
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"damaged")
    with pytest.raises(WeightsError) as caught:
        weights.fetch(record(None), cache)
    line = check_line(str(caught.value))
    assert f"{damaged} does not have the sha256 {SHA}" in line and "move it away" in line
    assert os.listdir(cache) == [damaged.name] and damaged.read_bytes() == b"damaged"


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_offline_with_nothing_good(
    server: ReleaseServer, cache: Path, monkeypatch: Any, content: bytes | None
) -> None:
    if content:
        fetched(at(server), cache).write_bytes(content)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(server.requests)
    line = refused(at(server), cache)
    assert re.search(f"{W} is not in the cache and HF_HUB_OFFLINE is set; put the file at {cache}/{W}", line)
    assert len(server.requests) == asked


def test_offline_with_the_file(server: ReleaseServer, cache: Path, monkeypatch: Any) -> None:
    fetched(at(server), cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fetched(at(server), cache)
    assert len(server.requests) == 1


def test_cache_folder_is_a_file(server: ReleaseServer, cache: Path) -> None:
    cache.touch()
    line = refused(at(server), cache)
    assert re.search(f"cannot write {cache}/{W} .*free or name a writable folder", line)
    assert server.requests == []


def test_mirror_folder(server: ReleaseServer, cache: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Without the file, with a wrong one, with the right one; nothing is asked, nothing is copied."""
    monkeypatch.setenv(weights.MIRROR, str(tmp_path))
    file = tmp_path / W
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
        assert re.search(f"{mirror.url('weights')}/{W} .*404", refused(at(server), cache))
        mirror.files[f"weights/{W}"] = DATA[::-1]
        assert f"expected {SHA}, got {INVERTED}" in refused(at(server), cache)
        mirror.files[f"weights/{W}"] = DATA
        fetched(at(server), cache)
    assert server.requests == []


def ending_alike(server: ReleaseServer, digest: str) -> Checkpoint:
    """A record whose url ends as that of every other one here."""
    server.files[f"{digest[:4]}/model.pth"] = DATA if digest == SHA else DATA[::-1]
    return record(Url(server.url(f"{digest[:4]}/model.pth")), sha256=digest)


def test_urls_that_end_alike_share_no_place(server: ReleaseServer, cache: Path) -> None:
    one, other = ending_alike(server, SHA), ending_alike(server, INVERTED)
    names = [weights.filename(record).lower() for record in (one, other)]  # as some disks compare names
    assert names[0] != names[1] and weights.location(one, cache) != weights.location(other, cache)
    for _ in range(2):
        assert weights.fetch(one, cache).read_bytes() == DATA
        assert weights.fetch(other, cache).read_bytes() == DATA[::-1]
    assert len(server.requests) == 2
    assert sorted(path.name for path in cache.iterdir() if path.name[0] != ".") == sorted(
        f"model-{digest[:16]}.pth" for digest in (SHA, INVERTED)
    )


def test_records_in_one_mirror_share_no_name(tmp_path: Path, cache: Path, monkeypatch: Any) -> None:
    pair = [
        record(Url(f"https://{host}/model.pth"), sha256=sha) for host, sha in (("a", SHA), ("b", INVERTED))
    ]
    for one, data in zip(pair, (DATA, DATA[::-1]), strict=True):
        (tmp_path / weights.filename(one)).write_bytes(data)
    monkeypatch.setenv(weights.MIRROR, str(tmp_path))
    assert [weights.fetch(one, cache).read_bytes() for one in pair] == [DATA, DATA[::-1]]


@pytest.mark.parametrize("name", ["model.pth", f"model-{SHA[:16]}.pth"])
@pytest.mark.parametrize("content", [b"somebody's", DATA])
def test_what_others_put_into_the_cache_stays(
    server: ReleaseServer, cache: Path, name: str, content: bytes
) -> None:
    """It is used if it is right. If not, and the name is needed, a line says so: nothing is renamed."""
    cache.mkdir()
    (cache / name).write_bytes(content)
    if content == DATA:
        assert weights.fetch(ending_alike(server, SHA), cache) == cache / name
        assert server.requests == []
    elif name == "model.pth":
        assert weights.fetch(ending_alike(server, SHA), cache).read_bytes() == DATA
    else:
        with pytest.raises(
            WeightsError, match="not put there by bcos_zoo, which leaves it alone; move it away"
        ):
            weights.fetch(ending_alike(server, SHA), cache)
    assert (cache / name).read_bytes() == content
    assert not list(cache.glob("*.damaged"))


def test_a_file_put_in_the_place_of_ours_is_somebodys(
    server: ReleaseServer, cache: Path, tmp_path: Path
) -> None:
    path = fetched(at(server), cache)
    (tmp_path / "theirs").write_bytes(b"theirs")
    os.replace(tmp_path / "theirs", path)
    with pytest.raises(WeightsError, match="move it away"):
        weights.fetch(at(server), cache)
    assert path.read_bytes() == b"theirs"


def test_no_damaged_file_takes_the_name_of_another(server: ReleaseServer, cache: Path) -> None:
    for content in (b"first", b"second"):
        fetched(at(server), cache).write_bytes(content)
    fetched(at(server), cache)
    assert sorted(path.read_bytes() for path in cache.glob("*.damaged")) == [b"first", b"second"]
