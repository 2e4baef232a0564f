"""Hostile manifests and files: nothing leaves the cache, runs, or takes memory that it does not hold."""

from __future__ import annotations

import copy
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fetching
import pytest
import timm
import torch
from fetching import DATA, FILE, REPO, SHA, check_line, fetched, record
from servers import HubServer, ReleaseServer

import bcos_zoo
from bcos_zoo import weights
from bcos_zoo.errors import InputError, WeightsError
from bcos_zoo.weights import checksums, manifest, state_dicts
from bcos_zoo.weights.manifest import HubFile, Url

MUCH = 64 * 2**20  # bytes
NAME = "bcos_simple_vit_ti_patch16_224.v2_in1k"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: Any, tmp_path: Path) -> Iterator[None]:
    with fetching.surroundings(monkeypatch, tmp_path / "home"):
        yield


@pytest.mark.parametrize(
    "path",
    [
        *("..%2fw.pth", "a/..%2f..%2f..%2fw.pth", "a/..", "..", "/", "", "%2e%2e", "a/%2e%2e%2fw.pth"),
        *("..\\w.pth", "a\\..\\..\\w.pth", "C:\\w.pth", "C:w.pth", "~", "~root/.ssh/..w.pth", ".w.pth.lock"),
        *(".bashrc", "-rf.pth", "w.pth%00", "w.pth/..", "w.pth;../../w", "?/../../w.pth", "#/../w.pth"),
        *("a b.pth", "w.pth\n", "..%252fw.pth", "download", "w.sh", "%77.pth"),
    ],
)
def test_names_of_urls_stay_in_the_cache(path: str, tmp_path: Path) -> None:
    checkpoint = record(Url(f"http://host/{path}"))
    place = weights.location(checkpoint, tmp_path)
    assert place.parent == tmp_path
    assert place.name in (f"{fetching.NETWORK}-{SHA[:16]}.pth", f"w-{SHA[:16]}.pth")
    assert place.resolve().parent == tmp_path.resolve()


def test_escaping_url_is_fetched_into_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with ReleaseServer({"../w.pth": DATA}) as server:
        fetched(record(Url(server.url("..%2fw.pth"))), cache)
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["cache"]


def own_manifest(folder: Path, **file: Any) -> Path:
    """A manifest whose only record is NAME, with another place of its file."""
    document = json.loads(manifest._own_path().read_text())
    entry = copy.deepcopy(document["checkpoints"][NAME])
    entry["files"] = [entry["files"][0] | file]
    document["checkpoints"] = {NAME: entry}
    path = folder / "manifest.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    "where",
    [
        *(
            dict(repo=REPO, revision="0" * 40, filename=name)
            for name in (
                "../w.pth",
                "a/../../w.pth",
                "/etc/w.pth",
                "a\\..\\w.pth",
                ".w",
                "a/.git/w",
                "..",
                "",
            )
        ),
        *(
            dict(repo=repo, revision="0" * 40, filename="w.pth")
            for repo in ("../..", "a/..", "a/b/c", "a", "/etc/x")
        ),
        *(
            dict(repo=REPO, revision=revision, filename="w.pth")
            for revision in ("main", "../" * 13 + "a", "0" * 39)
        ),
        *(dict(packaged=name) for name in ("../w.pth", "checkpoints/../../w.pth", "/etc/passwd")),
        *(dict(url=url) for url in ("file:///etc/passwd", "ftp://host/w.pth", "/etc/passwd")),
    ],
)
def test_escaping_places_are_refused_by_the_schema(where: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a manifest.*files/0/where") as error:
        manifest.load(own_manifest(tmp_path, where=where))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../../../../w.pth", "a/../../../../../w.pth"])
def test_escaping_hub_file_is_refused_by_the_client_too(name: str, tmp_path: Path) -> None:
    """A record that no schema has seen. What it points to is not touched."""
    cache, victim = tmp_path / "cache", tmp_path / "w.pth"
    victim.write_bytes(DATA[::-1])
    checkpoint = record(HubFile(REPO, "0" * 40, name))
    (weights.location(checkpoint, cache).parents[name.count("/")] / "a").mkdir(parents=True)
    assert weights.location(checkpoint, cache).resolve() == victim
    with pytest.raises(WeightsError):
        weights.fetch(checkpoint, cache)
    assert victim.read_bytes() == DATA[::-1]


def test_file_behind_a_link_out_of_the_cache_is_left(tmp_path: Path, monkeypatch: Any) -> None:
    cache, victim = tmp_path / "cache", tmp_path / "w.pth"
    victim.write_bytes(DATA[::-1])
    with HubServer() as hub:
        fetching.use_hub(monkeypatch, hub.endpoint)
        checkpoint = record(HubFile(REPO, hub.create(REPO, {FILE: DATA}), FILE))
        link = weights.location(checkpoint, cache)
        link.parent.mkdir(parents=True)
        link.symlink_to(victim)
        fetched(checkpoint, cache)
    assert victim.read_bytes() == DATA[::-1]


class Payload:
    """A pickle that would create a file when loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickle_does_not_run(tmp_path: Path, monkeypatch: Any) -> None:
    """Though its hash is right: by the reader, by `create_model`, and by timm's own."""
    evil, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save({"weight": Payload(trace)}, evil)
    pickle.loads(pickle.dumps(Payload(tmp_path / "proof")))
    assert (tmp_path / "proof").exists()  # it would
    place = dict(where={"path": "evil.pth"}, sha256=checksums.sha256(evil), sha256_prefix=None)
    monkeypatch.setenv(manifest.MORE, str(own_manifest(tmp_path, **place)))
    path = weights.fetch(NAME)
    assert path == evil
    with pytest.raises(WeightsError, match="could run code and were not loaded") as error:
        state_dicts.read(path)
    check_line(str(error.value))
    for create in bcos_zoo.create_model, timm.create_model:
        with pytest.raises(Exception):  # noqa: B017  # whatever timm makes of it
            create(NAME, pretrained=True)
    assert not trace.exists()


def peak() -> int:
    """Bytes of memory at the highest since `forget_peak`."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def forget_peak() -> int:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        pytest.skip(f"this kernel does not forget peaks of memory: {error}")
    return peak()


def refused_cheaply(path: Path) -> str:
    before = forget_peak()
    with pytest.raises(WeightsError) as error:
        state_dicts.read(path)
    assert peak() - before < MUCH
    return check_line(str(error.value))


def tensor(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS: dict[str, tuple[int | None, Any]] = {  # length as it says, if not its own; the header
    "length 2**40": (2**40, {}),
    "length 2**63": (2**63, {}),
    "length 2**64 - 1": (2**64 - 1, {}),
    "length over the file": (1000, {"w": tensor([2], 0, 8)}),
    "length 0": (0, {"w": tensor([2], 0, 8)}),
    "huge shape, few bytes": (None, {"w": tensor([2**40], 0, 8)}),
    "huge shape and offsets": (None, {"w": tensor([2**40], 0, 2**42)}),
    "product overflows": (None, {"w": tensor([2**33, 2**33], 0, 8)}),
    "product overflows to the right one": (None, {"w": tensor([2**32, 2**32, 2], 0, 8)}),
    "overlapping": (None, {"w": tensor([2], 0, 8), "x": tensor([2], 4, 12)}),
    "the same bytes twice": (None, {"w": tensor([2], 0, 8), "x": tensor([2], 0, 8)}),
    "a hole": (None, {"w": tensor([1], 0, 4), "x": tensor([1], 8, 12)}),
    "backwards": (None, {"w": tensor([2], 8, 0)}),
    "negative": (None, {"w": tensor([-2], 0, 8)}),
    "bytes too many": (None, {"w": tensor([1], 0, 4)}),
    "unknown type": (None, {"w": tensor([2], 0, 8, "F31")}),
    "no JSON": (None, "{"),
    "a list": (None, "[]"),
    "deep": (None, "[" * 100_000),
}


@pytest.mark.parametrize("name", HEADERS)
def test_forged_safetensors_header(name: str, tmp_path: Path) -> None:
    length, header = HEADERS[name]
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(8))
    assert "w.safetensors is damaged or of another format" in refused_cheaply(path)


class Storage:
    """Stands for the record data/0 of a file."""


class Forged:
    """A tensor of `count` elements in a `Storage`."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, (Storage(), 0, (self.count,), (1,), False, OrderedDict())


@pytest.mark.parametrize(("shape", "storage"), [(2**40, 2**40), (2**40, 2), (4, 2**28), (2**62, 2**62)])
def test_forged_sizes_in_a_pickle(shape: int, storage: int, tmp_path: Path) -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: object) -> Any:
            return (
                ("storage", torch.FloatStorage, "0", "cpu", storage) if isinstance(thing, Storage) else None
            )

    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as file:
        with file.open("archive/data.pkl", "w") as stream:
            Pickler(stream, 2).dump({"w": Forged(shape)})
        file.writestr("archive/version", b"3\n")
        file.writestr("archive/byteorder", b"little")
        file.writestr("archive/data/0", bytes(8))
    assert "w.pth is damaged or of another format" in refused_cheaply(path)
