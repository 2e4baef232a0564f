"""Weights fetched from a url, the Hub, the package or a folder; where they are; and whether they are right.

What happens when something fails is in test_faults*.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fetching
import pytest
from fetching import DATA, FILE, REPO, SHA, W, fetched, record
from huggingface_hub import constants
from servers import HubServer, ReleaseServer, Stall

from bcos_zoo import weights
from bcos_zoo.errors import UnknownModelError, WeightsError
from bcos_zoo.weights import checksums, manifest
from bcos_zoo.weights.manifest import Checkpoint, HubFile, LocalFile, Packaged, Url

SCHEMA = Packaged("schema.json")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: Any, tmp_path: Path) -> Iterator[None]:
    with fetching.surroundings(monkeypatch, tmp_path / "home"):
        yield


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer({W: DATA}) as server:
        yield server


@pytest.fixture
def hub(monkeypatch: Any) -> Iterator[HubServer]:
    with HubServer() as hub:
        fetching.use_hub(monkeypatch, hub.endpoint)
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "new" / "cache"


def at(server: ReleaseServer, path: str = W, **options: Any) -> Checkpoint:
    return record(Url(server.url(path)), **options)


def on_the_hub(hub: HubServer, filename: str = FILE) -> HubFile:
    return HubFile(REPO, hub.create(REPO, {filename: DATA}), filename)


def test_a_download_stands_alone(server: ReleaseServer, cache: Path) -> None:
    """But for its lock, which has a hidden name."""
    path = fetched(at(server), cache)
    assert path == cache / W
    assert {name for name in os.listdir(cache) if not name.startswith(".")} == {W}
    assert set(os.listdir(cache)) <= {W, f".{W}.lock"}


def test_a_partial_file_lies_beside_the_target_under_a_hidden_name_and_nothing_else(
    server: ReleaseServer, cache: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    server.faults, server.always = [Stall(256_000)], Stall(None)
    fetching.refused(at(server), cache)
    left = [name for name in os.listdir(cache) if name != f".{W}.lock"]
    assert left == [f".{W}.{SHA[:16]}.partial"]
    assert (cache / left[0]).read_bytes() == DATA[:256_000]


def test_a_downloaded_file_has_the_permissions_of_any_new_file(server: ReleaseServer, cache: Path) -> None:
    path = fetched(at(server), cache)
    (cache / "other").touch()
    assert path.stat().st_mode == (cache / "other").stat().st_mode


def test_the_prefix_of_a_hash_is_enough(server: ReleaseServer, cache: Path) -> None:
    checkpoint = at(server, f"{W}?download=true", sha256=None, prefix=SHA[:10])
    assert fetched(checkpoint, cache) == cache / W


def test_a_wrong_prefix_is_refused(server: ReleaseServer, cache: Path) -> None:
    line = fetching.refused(at(server, sha256=None, prefix="0123456789"), cache)
    assert f"sha256 expected 0123456789, got {SHA}" in line


def test_a_known_size_is_no_hindrance(server: ReleaseServer, cache: Path) -> None:
    fetched(at(server, size=len(DATA)), cache)


def test_a_cached_file_is_not_downloaded_again(server: ReleaseServer, cache: Path) -> None:
    for _ in range(2):
        fetched(at(server), cache)
    assert [request.path for request in server.requests] == [f"/{W}"]


def test_a_file_put_there_by_hand_is_taken(server: ReleaseServer, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / W).write_bytes(DATA)
    fetched(at(server), cache)
    assert server.requests == []


def test_downloads_go_where_torch_home_says(server: ReleaseServer, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "elsewhere"))
    path = weights.fetch(at(server))
    assert path == weights.location(at(server)) == tmp_path / "elsewhere" / "hub" / "checkpoints" / W


def test_the_cache_may_be_named_with_a_tilde(
    server: ReleaseServer, hub: HubServer, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.fetch(at(server), "~/cache") == tmp_path / "cache" / W
    assert tmp_path / "cache" in weights.fetch(record(on_the_hub(hub)), "~/cache").parents


def test_the_first_place_that_is_known_is_used(server: ReleaseServer, cache: Path) -> None:
    checkpoint = at(server)
    nowhere = dataclasses.replace(checkpoint.files[0], where=None)
    fetched(dataclasses.replace(checkpoint, files=(nowhere, *checkpoint.files)), cache)


def test_without_a_place_the_message_says_how_to_give_a_file(cache: Path) -> None:
    with pytest.raises(WeightsError, match="no place .*bcos_resnet50.v2_in1k; .*B-cos-v2 .*{'file': PATH}"):
        weights.fetch(record(None, sha256=None), cache)


NOWHERE = f"{fetching.NETWORK}-{SHA[:16]}.pth"


def test_a_file_of_no_place_comes_from_a_mirror(tmp_path: Path, cache: Path, monkeypatch: Any) -> None:
    (tmp_path / NOWHERE).write_bytes(DATA)
    monkeypatch.setenv(weights.MIRROR, str(tmp_path))
    assert fetched(record(None), cache) == tmp_path / NOWHERE
    with ReleaseServer({f"weights/{NOWHERE}": DATA}) as mirror:
        monkeypatch.setenv(weights.MIRROR, mirror.url("weights"))
        assert fetched(record(None), cache) == weights.location(record(None), cache) == cache / NOWHERE
    monkeypatch.delenv(weights.MIRROR)
    assert fetched(record(None), cache) == cache / NOWHERE
    assert [v.state for v in weights.verify([record(None)], cache)] == ["ok"]


def test_a_file_of_no_place_that_is_not_here_is_named_with_its_hash(cache: Path) -> None:
    line = fetching.refused(record(None), cache)
    for part in ("no place", fetching.NETWORK, f"put {NOWHERE}", SHA, weights.MIRROR):
        assert part in line
    assert [v.state for v in weights.verify([record(None)], cache)] == ["missing"]


@pytest.mark.parametrize(
    "where", [Url(f"http://127.0.0.1:9/{W}"), HubFile("a/b", "0" * 40, "c"), SCHEMA, LocalFile(Path("c"))]
)
def test_without_a_hash_nothing_is_trusted(where: manifest.Place, cache: Path) -> None:
    with pytest.raises(WeightsError, match="no sha256 of bcos_resnet50.v2_in1k, .* --to bcos_resnet50.v2_"):
        weights.fetch(record(where, sha256=None), cache)
    assert not cache.exists()


def test_an_unknown_name_is_refused() -> None:
    for call in weights.fetch, weights.location:
        with pytest.raises(UnknownModelError, match="no checkpoint named 'bcos_nothing.tag'"):
            call("bcos_nothing.tag")


def test_a_packaged_file_is_verified() -> None:
    digest = checksums.sha256(SCHEMA.path)
    assert weights.fetch(record(SCHEMA, sha256=digest)) == weights.location(record(SCHEMA)) == SCHEMA.path
    with pytest.raises(WeightsError, match=f"is not .* expected {SHA}, got {digest}; reinstall bcos-zoo"):
        weights.fetch(record(SCHEMA))


def test_a_packaged_file_that_is_not_there_is_named() -> None:
    with pytest.raises(WeightsError, match="cannot read .*absent.safetensors .*No such file"):
        weights.fetch(record(Packaged("checkpoints/absent.safetensors")))


def test_a_local_file_is_verified_where_it_is(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(DATA)
    assert weights.fetch(record(LocalFile(path)), cache) == path
    path.write_bytes(DATA[::-1])
    with pytest.raises(WeightsError, match=f"{path} is not .*; put the right file there, or correct the man"):
        weights.fetch(record(LocalFile(path)), cache)
    assert path.exists() and not cache.exists()


@pytest.mark.parametrize("name", [FILE, "a/b/w.safetensors"])
def test_a_file_of_the_hub_is_fetched_once(hub: HubServer, cache: Path, name: str) -> None:
    checkpoint = record(on_the_hub(hub, name))
    for _ in range(2):
        assert fetched(checkpoint, cache) == weights.location(checkpoint, cache)
    assert len(hub.cdn.requests) == 1


def test_a_file_of_the_hub_goes_where_its_client_has_its_cache(hub: HubServer, tmp_path: Path) -> None:
    checkpoint = record(on_the_hub(hub))
    assert weights.fetch(checkpoint) == weights.location(checkpoint)
    assert tmp_path / "home" / "hub" in weights.location(checkpoint).parents


def test_a_hub_cache_without_links_works(hub: HubServer, cache: Path) -> None:
    """As some file systems have it: then the file itself stands where the link would."""
    checkpoint = record(on_the_hub(hub))
    path = weights.location(checkpoint, cache)
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    assert fetched(checkpoint, cache) == path
    path.write_bytes(DATA[::-1])
    assert fetched(checkpoint, cache) == path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"a/resnet_18-{SHA[:10]}.pth", f"resnet_18-{SHA[:10]}.pth"),  # as torch.hub has names
        ("a/resnet_18-68b4160fff.pth", f"resnet_18-68b4160fff-{SHA[:16]}.pth"),  # not of this file
        (
            f"a/resnet_18-{SHA[:4]}.pth",
            f"resnet_18-{SHA[:4]}-{SHA[:16]}.pth",
        ),  # too short
        ("w.safetensors?download=1", f"w-{SHA[:16]}.safetensors"),
        (f"{'w' * 300}.pth", f"{'w' * 100}-{SHA[:16]}.pth"),
        ("s/8qPBoKCEyfPkHAk/download", NOWHERE),
        ("", NOWHERE),
        ("page.html", NOWHERE),
    ],
)
def test_a_file_is_called_as_its_url_or_as_its_checkpoint_and_by_its_bytes(path: str, name: str) -> None:
    assert weights.filename(record(Url(f"https://host/{path}"))) == name


def placed() -> list[Checkpoint]:
    """Those of our own manifest that can be fetched."""
    checkpoints = manifest.load(manifest._own_path()).values()
    return [r for r in checkpoints if r.file and r.file.digest]


def test_names_in_the_cache_are_unique() -> None:
    digests: dict[str, set[str]] = {}
    for checkpoint in placed():
        file = checkpoint.file
        digests.setdefault(weights.filename(checkpoint), set()).add(str(file.digest))
    assert len(digests) > 30
    assert [name for name, found in digests.items() if len(found) > 1] == []
    counts = Counter(weights.location(checkpoint, "cache") for checkpoint in placed())
    assert set(counts.values()) == {1}


def test_urls_that_end_in_download_are_called_by_their_checkpoint() -> None:
    for checkpoint in manifest.load(manifest._own_path()).values():
        for file in checkpoint.files:
            if isinstance(file.where, Url) and re.search("/download$", file.where.url):
                known = dataclasses.replace(file, sha256=SHA, sha256_prefix=None)
                named = dataclasses.replace(checkpoint, files=(known,))
                assert weights.filename(named) == f"{checkpoint.name}-{SHA[:16]}.{file.format}"


def test_verify_says_what_is_right(server: ReleaseServer, hub: HubServer, cache: Path) -> None:
    good, bad = at(server), record(on_the_hub(hub))
    missing, unknown = at(server, "other.pth"), at(server, sha256=None)
    fetched(good, cache)
    fetched(bad, cache).resolve().write_bytes(DATA[::-1])
    asked = len(server.requests), len(hub.requests)
    verdicts = list(weights.verify([good, bad, missing, record(None, sha256=None), unknown], cache))
    assert [v.state for v in verdicts] == ["ok", "bad", "missing", "unverifiable", "unverifiable"]
    assert verdicts[0] == weights.Verdict(fetching.NETWORK, cache / W, "ok", SHA, SHA, len(DATA))
    assert verdicts[1].sha256 == hashlib.sha256(DATA[::-1]).hexdigest()
    assert verdicts[2].path == cache / f"other-{SHA[:16]}.pth"
    assert (len(server.requests), len(hub.requests)) == asked


def test_verify_believes_no_stamp(server: ReleaseServer, cache: Path, monkeypatch: Any) -> None:
    path = fetched(at(server), cache)
    monkeypatch.setattr("bcos_zoo.weights.fetching.stamped_sha256", None)
    assert [v.state for v in weights.verify([at(server)], cache)] == ["ok"]
    path.write_bytes(b"")
    assert [v.state for v in weights.verify([at(server)], cache)] == ["bad"]


def test_cached_lists_what_is_here(cache: Path) -> None:
    packaged = [r for r in placed() if isinstance(r.files[0].where, Packaged)]
    assert weights.cached(cache) == packaged != []
    checkpoint = manifest.get(fetching.NETWORK)
    cache.mkdir(parents=True)
    weights.location(checkpoint, cache).touch()  # whether it is right, `verify` says
    assert checkpoint in weights.cached(cache)
    assert len(weights.cached(cache)) == len(packaged) + 1
