"""Faults that need processes of their own: several at once, killed ones, limits, environments."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fetching
import pytest
from fetching import DATA, FILE, REPO, SHA, W, check_cache, check_line, fetched, partials, record
from servers import HubServer, ReleaseServer, Stall, clean_environment, run_python

from bcos_zoo.weights.manifest import PACKAGE, HubFile, Url

HALF = len(DATA) // 2
PATHS = os.pathsep.join((str(PACKAGE.parent), str(Path(__file__).parents[1])))
PRELUDE = """
import json, os, resource, sys
from pathlib import Path
from fetching import *
from bcos_zoo.weights.manifest import HubFile, Url
def place(text):
    return record(Url(text) if "/" in text else HubFile(REPO, text, FILE))
"""


@pytest.fixture(autouse=True)
def hurried(monkeypatch: Any, tmp_path: Path) -> Iterator[None]:
    with fetching.surroundings(monkeypatch, tmp_path / "home"):
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer(
        {W: DATA} | {f"{name}.pth": DATA for name in ("two", "eight", "threads", "killed")}
    ) as server:
        yield server


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as hub:
        hub.create(REPO, {FILE: DATA})
        yield hub


def revision(hub: HubServer) -> str:
    return hub.repositories[REPO].refs["main"]


def environment(home: Path, hub: HubServer | None = None, **extra: str) -> dict[str, str]:
    extra |= {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}
    return hub.environment(home, **extra) if hub else clean_environment(home, **extra)


def test_two_and_eight_processes_at_once(server: ReleaseServer, tmp_path: Path, request: Any) -> None:
    """One downloads, the others wait for it."""
    server.bytes_per_second = 2 * len(DATA)
    request.addfinalizer(lambda: setattr(server, "bytes_per_second", None))
    code = (
        PRELUDE
        + """
base, cache = sys.argv[1:]
print(json.dumps([at_once(n, place(f"{base}{name}.pth"), cache) for n, name in ((2, "two"), (8, "eight"))]))
"""
    )
    out = run_python(code, server.url(), tmp_path / "cache", env=environment(tmp_path))
    assert json.loads(out) == [["right"] * 2, ["right"] * 8]
    paths = [request.path for request in server.requests]
    assert paths.count("/two.pth") == paths.count("/eight.pth") == 1
    assert check_cache(tmp_path / "cache") == [f"{name}-{SHA[:16]}.pth" for name in ("eight", "two")]


def test_two_and_eight_processes_at_the_hub(hub: HubServer, tmp_path: Path, request: Any) -> None:
    hub.cdn.bytes_per_second = 2 * len(DATA)
    request.addfinalizer(lambda: setattr(hub.cdn, "bytes_per_second", None))
    code = (
        PRELUDE
        + """
commit, cache = sys.argv[1:]
print(json.dumps([at_once(n, place(commit), f"{cache}/{n}") for n in (2, 8)]))
"""
    )
    before = len(hub.cdn.requests)
    out = run_python(code, revision(hub), tmp_path / "cache", env=environment(tmp_path, hub))
    assert json.loads(out) == [["right"] * 2, ["right"] * 8]
    assert len(hub.cdn.requests) - before == 2
    check_cache(tmp_path / "cache")


def test_eight_processes_find_a_damaged_file(hub: HubServer, server: ReleaseServer, tmp_path: Path) -> None:
    """At both doors: it is replaced once, and nobody gets it, or an error."""
    cache, env = tmp_path / "cache", environment(tmp_path, hub)
    run_python(PRELUDE + "weights.fetch(place(sys.argv[1]), sys.argv[2])", server.url(W), cache, env=env)
    (cache / W).write_bytes(DATA[::-1])
    blob = cache / f"models--{REPO.replace('/', '--')}" / "blobs" / SHA
    link = blob.parent.parent / "snapshots" / revision(hub) / FILE
    for path in (blob, link):
        path.parent.mkdir(parents=True)
    blob.write_bytes(DATA[::-1])
    link.symlink_to(blob)
    code = PRELUDE + "print(json.dumps([at_once(8, place(where), sys.argv[1]) for where in sys.argv[2:]]))"
    before = len(server.requests), len(hub.cdn.requests)
    out = run_python(code, cache, server.url(W), revision(hub), env=env)
    assert json.loads(out) == [["right"] * 8] * 2
    assert (len(server.requests), len(hub.cdn.requests)) == (before[0] + 1, before[1] + 1)
    assert check_cache(cache) == sorted([SHA, FILE, W])


def test_eight_threads_at_once(server: ReleaseServer, tmp_path: Path) -> None:
    checkpoint = record(Url(server.url("threads.pth")))
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: fetched(checkpoint, tmp_path / "cache"), range(8)))
    assert set(paths) == {tmp_path / "cache" / f"threads-{SHA[:16]}.pth"}
    assert [request.path for request in server.requests].count("/threads.pth") == 1


def killed(env: dict[str, str], where: str, cache: Path, begun: Callable[[], bool]) -> None:
    """A process that fetches, and is killed as soon as something has begun."""
    code = PRELUDE + "print(attempt(place(sys.argv[1]), sys.argv[2]))"
    client = subprocess.Popen([sys.executable, "-c", code, where, str(cache)], env=env)
    try:
        deadline = time.monotonic() + 60
        while not begun():
            assert client.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        client.kill()
        client.wait()


def test_killed_midway(server: ReleaseServer, tmp_path: Path) -> None:
    """The next try continues."""
    cache = tmp_path / "cache"
    server.faults = [Stall(HALF)]
    killed(
        environment(tmp_path), server.url("killed.pth"), cache, lambda: max(partials(cache), default=0) > 9999
    )
    assert check_cache(cache) == []
    (size,) = partials(cache)
    fetched(record(Url(server.url("killed.pth"))), cache)
    assert server.requests[-1].headers["range"] == f"bytes={size}-"
    assert partials(cache) == []


def test_killed_midway_at_the_hub(hub: HubServer, tmp_path: Path, monkeypatch: Any) -> None:
    """The next try begins anew, as huggingface_hub has it."""
    cache = tmp_path / "cache"
    hub.cdn.faults = [Stall(HALF)]

    def begun() -> bool:
        return any(path.stat().st_size > 9999 for path in cache.rglob("*.incomplete"))

    killed(environment(tmp_path, hub), revision(hub), cache, begun)
    assert check_cache(cache) == []
    fetching.use_hub(monkeypatch, hub.endpoint)
    fetched(record(HubFile(REPO, revision(hub), FILE)), cache)


@pytest.fixture(scope="module")
def limited(server: ReleaseServer, hub: HubServer) -> Iterator[tuple[Path, dict[str, str]]]:
    """What a process says whose files may not grow, then one that may not write, at both doors."""
    code = (
        PRELUDE
        + """
url, commit, folder = sys.argv[1:]
doors = {"url": place(url), "hub": place(commit)}
out = {}
def attempts(name, cache):
    for door, checkpoint in doors.items():
        out[f"{name} {door}"] = attempt(checkpoint, f"{folder}/{cache}")
attempts("warm", "good")  # imports what may not be read later
attempts("warm", "damaged")
for path in Path(folder, "damaged").rglob("*"):
    if path.suffix in (".pth", ".safetensors"):
        path.resolve().write_bytes(DATA[::-1])
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
attempts("quota", "quota")
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
Path(folder, "empty").mkdir()
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)  # root would be let through
else:
    for path in [Path(folder), *Path(folder).rglob("*")]:
        path.is_dir() and path.chmod(0o555)
for name in ("good", "damaged", "empty"):
    attempts(name, name)
if os.getuid() != 65534:
    for path in [Path(folder), *Path(folder).rglob("*")]:
        path.is_dir() and path.chmod(0o755)
print(json.dumps(out))
"""
    )
    with tempfile.TemporaryDirectory() as name:  # not pytest's, which only its owner may enter
        folder = Path(name)
        folder.chmod(0o755)
        env = environment(folder / "home", hub)
        out = json.loads(run_python(code, server.url(W), revision(hub), folder, env=env))
        assert {out["warm url"], out["warm hub"]} == {"right"}
        yield folder, out


def test_disk_full(limited: Any) -> None:
    """By a quota; nothing is kept, for it would fill the disk."""
    folder, out = limited
    for door, name in ("url", W), ("hub", FILE):
        assert re.search(f"^cannot download {name} from .*File too large", check_line(out[f"quota {door}"]))
    assert check_cache(folder / "quota") == [] and not partials(folder / "quota")
    assert not list((folder / "quota").rglob("*.incomplete"))


def test_read_only_cache_with_the_file(limited: Any) -> None:
    assert (limited[1]["good url"], limited[1]["good hub"]) == ("right", "right")


@pytest.mark.parametrize("cache", ["empty", "damaged"])
def test_read_only_cache_without_the_file(limited: Any, cache: str) -> None:
    folder, out = limited
    line = check_line(out[f"{cache} url"])
    assert re.search(f"^cannot write {folder}/{cache}/{W} .*Permission denied.*TORCH_HOME moves", line)
    line = check_line(out[f"{cache} hub"])
    assert re.search(f"^cannot download {FILE} .*Permission denied.*name the folder in BCOS_ZOO_MIRROR", line)


def test_offline_by_the_environment(server: ReleaseServer, hub: HubServer, tmp_path: Path) -> None:
    code = PRELUDE + "print(json.dumps([attempt(place(where), sys.argv[1]) for where in sys.argv[2:]]))"
    env = environment(tmp_path, hub, HF_HUB_OFFLINE="1")
    before = len(server.requests), len(hub.requests)
    out = run_python(code, tmp_path / "cache", server.url(W), revision(hub), env=env)
    for line in json.loads(out):
        assert re.search("is not in the cache and HF_HUB_OFFLINE is set; put the file at", check_line(line))
    assert (len(server.requests), len(hub.requests)) == before
