"""Weights fetched from a real server, the package or a cache: verified; after a failure nothing is left."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bcos_zoo import manifest, weights
from bcos_zoo.errors import UnknownModelError, WeightsError
from bcos_zoo.manifest import Checkpoint, HubFile, Packaged, Url

GOOD = bytes(range(256)) * 2000
SHA = hashlib.sha256(GOOD).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers by the first folder of the path: good, wrong, missing, truncated, or interrupt (by Ctrl-C)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.folder = Path()  # where `interrupt` waits for the first bytes
        self.released = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        case = self.path.split("/")[1]
        if case == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(GOOD)))
        self.end_headers()
        if case == "good":
            self.wfile.write(GOOD)
        elif case == "wrong":
            self.wfile.write(GOOD[::-1])
        else:
            self.wfile.write(GOOD[: len(GOOD) // 2])
        if case == "interrupt":
            while not any(path.stat().st_size for path in self.server.folder.rglob("*.partial")):
                time.sleep(0.01)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            self.server.released.wait(10)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def checkpoint(where, *, sha256: str | None = SHA, prefix: str | None = None) -> Checkpoint:
    known = manifest.get("bcos_resnet50.v2_in1k")
    file = dataclasses.replace(known.files[0], where=where, sha256=sha256, sha256_prefix=prefix)
    return dataclasses.replace(known, files=(file,))


def content(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_download_has_the_right_bytes_and_stands_alone(server, tmp_path):
    path = weights.fetch(checkpoint(Url(server.url("/good/w.pth"))), tmp_path / "new" / "cache")
    assert path == tmp_path / "new" / "cache" / "w.pth"
    assert path.read_bytes() == GOOD
    assert content(path.parent) == ["w.pth"]


def test_a_downloaded_file_has_the_permissions_of_any_new_file(server, tmp_path):
    path = weights.fetch(checkpoint(Url(server.url("/good/w.pth"))), tmp_path)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_prefix_of_a_hash_is_enough(server, tmp_path):
    url = Url(server.url("/good/w.pth?download=true"))
    assert weights.fetch(checkpoint(url, sha256=None, prefix=SHA[:10]), tmp_path) == tmp_path / "w.pth"


def test_a_cached_file_is_not_downloaded_again(server, tmp_path):
    for _ in range(2):
        weights.fetch(checkpoint(Url(server.url("/good/w.pth"))), tmp_path)
    assert server.asked == ["/good/w.pth"]


def test_downloads_go_where_torch_home_says(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = weights.fetch(checkpoint(Url(server.url("/good/w.pth"))))
    assert path == tmp_path / "hub" / "checkpoints" / "w.pth"


def test_a_file_url_works(tmp_path):
    source = tmp_path / "source.pth"
    source.write_bytes(GOOD)
    path = weights.fetch(checkpoint(Url(source.as_uri())), tmp_path / "cache")
    assert path.read_bytes() == GOOD and path != source


def test_wrong_bytes_name_both_hashes_and_leave_nothing(server, tmp_path):
    wrong = hashlib.sha256(GOOD[::-1]).hexdigest()
    with pytest.raises(WeightsError, match=f"w.pth from http.* expected {SHA}, got {wrong}; nothing"):
        weights.fetch(checkpoint(Url(server.url("/wrong/w.pth"))), tmp_path)
    assert content(tmp_path) == []


def test_a_wrong_prefix_is_refused_too(server, tmp_path):
    with pytest.raises(WeightsError, match=f"sha256 expected 0123456789, got {SHA}"):
        weights.fetch(checkpoint(Url(server.url("/good/w.pth")), sha256=None, prefix="0123456789"), tmp_path)
    assert content(tmp_path) == []


def test_a_truncated_body_is_refused_and_leaves_nothing(server, tmp_path):
    with pytest.raises(WeightsError, match="w.pth from http.*try again"):
        weights.fetch(checkpoint(Url(server.url("/truncated/w.pth"))), tmp_path)
    assert content(tmp_path) == []


def test_a_missing_file_names_the_url_and_the_place_to_put_it(server, tmp_path):
    url = server.url("/missing/w.pth")
    with pytest.raises(WeightsError, match=f"w.pth from {url} .*404.* put the file at {tmp_path}/w.pth") as e:
        weights.fetch(checkpoint(Url(url)), tmp_path)
    assert "\n" not in str(e.value)
    assert content(tmp_path) == []


def test_no_server_is_one_clear_line(server, tmp_path):
    url = server.url("/good/w.pth")
    server.shutdown()
    server.server_close()  # the port is free again: connections to it are refused
    with pytest.raises(WeightsError, match="cannot download w.pth from http.*refused.*try again") as e:
        weights.fetch(checkpoint(Url(url)), tmp_path)
    assert "\n" not in str(e.value)
    assert content(tmp_path) == []


def test_an_interrupted_download_leaves_nothing(server, tmp_path):
    server.folder = tmp_path
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            weights.fetch(checkpoint(Url(server.url("/interrupt/w.pth"))), tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert content(tmp_path) == []


def test_a_cache_folder_that_is_a_file_is_named(server, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(WeightsError, match="cannot download w.pth .*cache"):
        weights.fetch(checkpoint(Url(server.url("/good/w.pth"))), tmp_path / "cache")
    assert server.asked == []


def test_a_damaged_cached_file_is_named_and_kept(server, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"damaged")
    got = hashlib.sha256(b"damaged").hexdigest()
    with pytest.raises(WeightsError, match=f"{path} is not .* expected {SHA}, got {got}; delete it"):
        weights.fetch(checkpoint(Url(server.url("/good/w.pth"))), tmp_path)
    assert path.read_bytes() == b"damaged"
    assert server.asked == []


def test_the_first_place_that_is_known_is_used(server, tmp_path):
    record = checkpoint(Url(server.url("/good/w.pth")))
    nowhere = dataclasses.replace(record.files[0], where=None)
    record = dataclasses.replace(record, files=(nowhere, *record.files))
    assert weights.fetch(record, tmp_path).read_bytes() == GOOD


def test_without_a_place_the_message_says_how_to_give_a_file(tmp_path):
    with pytest.raises(WeightsError, match="no place .*bcos_resnet50.v2_in1k; .*B-cos-v2 .*{'file': PATH}"):
        weights.fetch(checkpoint(None), tmp_path)


@pytest.mark.parametrize(
    "where",
    [Url("http://127.0.0.1:9/w.pth"), HubFile("a/b", "0" * 40, "c"), Packaged("errors.py")],
)
def test_without_a_hash_nothing_is_trusted(where, tmp_path):
    with pytest.raises(WeightsError, match="no sha256 of bcos_resnet50.v2_in1k, .* --to bcos_resnet50.v2_"):
        weights.fetch(checkpoint(where, sha256=None), tmp_path)
    assert content(tmp_path) == []


def test_an_unknown_name_is_refused():
    with pytest.raises(UnknownModelError, match="no checkpoint named 'bcos_nothing.tag'"):
        weights.fetch("bcos_nothing.tag")


def test_a_packaged_file_is_verified():
    where = Packaged("weights_manifest.schema.json")
    digest = weights.sha256(where.path)
    assert weights.fetch(checkpoint(where, sha256=digest)) == where.path
    with pytest.raises(WeightsError, match=f"is not .* expected {SHA}, got {digest}; reinstall bcos-zoo"):
        weights.fetch(checkpoint(where))


def test_a_packaged_file_that_is_not_there_is_named():
    with pytest.raises(WeightsError, match="cannot read .*absent.safetensors .*No such file"):
        weights.fetch(checkpoint(Packaged("checkpoints/absent.safetensors")))


def hub_cache(folder: Path, where: HubFile, data: bytes) -> Path:
    """A cache as huggingface_hub leaves it after a download of `where`."""
    repo = folder / f"models--{where.repo.replace('/', '--')}"
    (repo / "blobs").mkdir(parents=True)
    (repo / "blobs" / "b10b").write_bytes(data)
    link = repo / "snapshots" / where.revision / where.filename
    link.parent.mkdir(parents=True)
    link.symlink_to(repo / "blobs" / "b10b")
    return link


def test_a_file_of_the_hub_comes_from_its_cache_verified(tmp_path):
    where = HubFile("someone/net", "0123456789" * 4, "model.safetensors")
    link = hub_cache(tmp_path, where, GOOD)
    assert weights.fetch(checkpoint(where), tmp_path) == link


def test_a_damaged_file_of_the_hub_names_the_file_behind_the_link(tmp_path):
    where = HubFile("someone/net", "0123456789" * 4, "model.safetensors")
    hub_cache(tmp_path, where, b"damaged")
    with pytest.raises(WeightsError, match=f"expected {SHA}, got .*; delete .*blobs/b10b, then"):
        weights.fetch(checkpoint(where), tmp_path)


def test_a_hub_out_of_reach_is_one_clear_line(tmp_path):
    code = (
        "import dataclasses, sys\n"
        "from bcos_zoo import manifest, weights\n"
        "known = manifest.get('bcos_resnet50.v2_in1k')\n"
        "where = manifest.HubFile('someone/net', '0' * 40, 'model.safetensors')\n"
        "file = dataclasses.replace(known.files[0], where=where)\n"
        "try:\n"
        "    weights.fetch(dataclasses.replace(known, files=(file,)), sys.argv[1])\n"
        "except weights.WeightsError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},  # read once, at import: hence the process
        cwd=manifest.PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = run.stdout.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"cannot download model.safetensors from someone/net at {'0' * 40} (")
    assert lines[0].endswith("pass pretrained_cfg_overlay={'file': PATH} to timm.create_model")
