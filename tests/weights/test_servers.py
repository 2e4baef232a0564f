"""The servers of other tests: each fault does what it says; the Hub's own client works with the imitation."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from servers import (
    HubServer,
    IgnoreRange,
    Redirect,
    ReleaseServer,
    Reset,
    Server,
    Stall,
    Status,
    Truncate,
    When,
    WrongBytes,
    WrongLength,
    run_python,
)

DATA = bytes(range(256)) * 1000
TOKEN = "hf_valid"


@pytest.fixture
def server() -> Any:
    with ReleaseServer({"w.pth": DATA}) as server:
        yield server


def ask(
    server: Server, path: str = "/w.pth", method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """The answer and its body, by a new connection that no proxy sees."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): v for name, v in headers.items()})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def test_a_file_has_its_bytes_length_and_etag(server: ReleaseServer) -> None:
    answer, body = ask(server)
    head, nothing = ask(server, method="HEAD")
    assert (answer.status, body, nothing) == (200, DATA, b"")
    assert head.getheader("Content-Length") == str(len(DATA))
    assert head.getheader("ETag") == answer.getheader("ETag") is not None


def test_an_unknown_file_is_404(server: ReleaseServer) -> None:
    assert ask(server, "/other")[0].status == 404


@pytest.mark.parametrize(
    ("asked", "part"),
    [("bytes=5-9", slice(5, 10)), ("bytes=9-", slice(9, None)), ("bytes=-3", slice(-3, None))],
)
def test_a_range_is_served(server: ReleaseServer, asked: str, part: slice) -> None:
    answer, body = ask(server, Range=asked)
    start, stop, _ = part.indices(len(DATA))
    assert (answer.status, body) == (206, DATA[part])
    assert answer.getheader("Content-Range") == f"bytes {start}-{stop - 1}/{len(DATA)}"


def test_a_range_beyond_the_end_is_416(server: ReleaseServer) -> None:
    answer, _ = ask(server, Range=f"bytes={len(DATA)}-")
    assert (answer.status, answer.getheader("Content-Range")) == (416, f"bytes */{len(DATA)}")


def test_a_range_of_another_version_is_not_served(server: ReleaseServer) -> None:
    assert ask(server, Range="bytes=5-", If_Range='"other"')[0].status == 200


def test_requests_are_recorded(server: ReleaseServer) -> None:
    ask(server, "/w.pth?a=1", X_Name="value")
    ask(server, method="HEAD")
    first, second = server.requests
    assert (first.method, first.path, first.status, first.sent) == ("GET", "/w.pth?a=1", 200, len(DATA))
    assert first.headers["x-name"] == "value"
    assert (second.method, second.sent) == ("HEAD", 0)


def test_faults_are_a_queue_for_gets(server: ReleaseServer) -> None:
    server.faults = [Status(500), Status(429, {"Retry-After": "1"})]
    answers = [ask(server, method=method)[0] for method in ("GET", "HEAD", "GET", "GET")]
    assert [answer.status for answer in answers] == [500, 200, 429, 200]
    assert answers[2].getheader("Retry-After") == "1"


def test_a_fault_may_be_permanent(server: ReleaseServer) -> None:
    server.always = Status(403)
    server.faults = [Status(500)]
    assert [ask(server)[0].status for _ in range(3)] == [500, 403, 403]


def test_a_fault_may_be_for_one_method_and_path(server: ReleaseServer) -> None:
    server.faults = [When(Status(503), "HEAD", r"^/w\.")]
    assert [ask(server, method=method)[0].status for method in ("GET", "HEAD", "HEAD")] == [200, 503, 200]


def test_a_truncated_body_ends_early(server: ReleaseServer) -> None:
    server.faults = [Truncate(after=1000)]
    with pytest.raises(http.client.IncompleteRead) as error:
        ask(server)
    assert error.value.partial == DATA[:1000]
    assert server.requests[0].sent == 1000


def test_a_reset_is_no_end_of_file(server: ReleaseServer) -> None:
    server.faults = [Reset(after=1000)]
    with pytest.raises(ConnectionResetError):
        ask(server)
    assert server.requests[0].sent == 1000


def test_wrong_bytes_have_the_right_number(server: ReleaseServer) -> None:
    server.faults = [WrongBytes()]
    _, body = ask(server)
    assert body == bytes(255 - byte for byte in DATA)


def test_a_length_may_be_too_large_or_too_small(server: ReleaseServer) -> None:
    server.faults = [WrongLength(by=10), WrongLength(by=-10)]
    with pytest.raises(http.client.IncompleteRead):
        ask(server)
    assert ask(server)[1] == DATA[:-10]


def test_a_redirect_leads_elsewhere(server: ReleaseServer) -> None:
    server.faults = [Redirect(to="/other")]
    answer, _ = ask(server)
    assert (answer.status, answer.getheader("Location")) == (302, "/other")


def test_a_range_may_be_ignored(server: ReleaseServer) -> None:
    server.faults = [IgnoreRange()]
    answer, body = ask(server, Range="bytes=5-9")
    assert (answer.status, body) == (200, DATA)


@pytest.mark.parametrize("after", [None, 0, 1000])
def test_a_stall_goes_on_later(server: ReleaseServer, after: int | None) -> None:
    server.faults = [Stall(after, seconds=0.2)]
    start = time.monotonic()
    assert ask(server)[1] == DATA
    assert time.monotonic() - start >= 0.2
    assert server.stalled.is_set()


def test_a_limited_speed_takes_its_time(server: ReleaseServer) -> None:
    server.bytes_per_second = 4 * len(DATA)
    start = time.monotonic()
    assert ask(server)[1] == DATA
    assert time.monotonic() - start >= 0.25


def test_the_server_stops_at_once_whatever_is_going_on() -> None:
    before = threading.active_count()
    with ReleaseServer({"w.pth": DATA}) as server:
        server.files["large"] = DATA * 100  # more than sockets hold
        server.faults = [When(Stall(after=1000, seconds=600), path="w.pth")]
        address = "127.0.0.1", server.server_port
        stalled, idle, unread = (socket.create_connection(address) for _ in range(3))
        with stalled, idle, unread:
            stalled.sendall(b"GET /w.pth HTTP/1.1\r\n\r\n")
            unread.sendall(b"GET /large HTTP/1.1\r\n\r\n")
            assert server.stalled.wait(10)
            server.wait(lambda requests: sum(request.sent for request in requests) > 1000)
            start = time.monotonic()
            server.close()
            assert time.monotonic() - start < 1
            assert threading.active_count() == before
            assert idle.recv(1) == b""


def test_a_mistake_in_a_server_fails_the_test() -> None:
    with pytest.raises(NotImplementedError), Server() as server, pytest.raises(ConnectionError):
        ask(server)


def test_a_client_may_be_killed_midway(server: ReleaseServer) -> None:
    server.bytes_per_second = len(DATA) / 30
    code = "import sys, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(sys.argv[1]).read()"
    client = subprocess.Popen([sys.executable, "-c", code, server.url("w.pth")])
    try:
        server.wait(lambda requests: bool(requests) and requests[0].sent > 1000)
    finally:
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
    assert server.requests[0].sent < len(DATA)


def test_an_upload_may_be_reset() -> None:
    with HubServer({TOKEN}) as hub:
        sha256 = "0" * 64
        url = urlsplit(hub.cdn.sign("PUT", sha256))
        hub.cdn.faults = [When(Reset(after=100_000), "PUT")]
        with pytest.raises(ConnectionError):
            ask(hub.cdn, f"{url.path}?{url.query}", "PUT", DATA * 40)
        assert 100_000 <= hub.cdn.requests[0].received < len(DATA) * 40
        assert hub.cdn.objects == {}


def hub_client(hub: HubServer, home: Path, code: str, *arguments: object, token: str | None = TOKEN) -> Any:
    """What a program with the Hub's own client prints as JSON; `outcome` names an error's class."""
    prelude = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi, ModelCard, hf_hub_download
def outcome(call, *args, **options):
    try:
        return call(*args, **options)
    except Exception as error:
        return type(error).__name__
api = HfApi()
"""
    return json.loads(run_python(prelude + code, *arguments, env=hub.environment(home, token)))


def test_the_client_creates_uploads_and_downloads(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    weights = DATA * 12
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text('{"architecture": "x"}')
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\n# Card\n")
    code = """
folder, out = sys.argv[1], {}
url = api.create_repo("org/name", private=True)
api.create_repo("org/name", private=True, exist_ok=True)
out["created"] = [url.repo_id, outcome(api.create_repo, "org/name")]
first = api.upload_folder(repo_id="org/name", folder_path=folder).oid
out["again"] = api.upload_folder(repo_id="org/name", folder_path=folder).oid == first
Path(folder, "config.json").write_text('{"architecture": "y"}')
api.create_tag("org/name", tag="v1")
api.create_branch("org/name", branch="dev/a", revision=first)
config = dict(path_or_fileobj=folder + "/config.json", path_in_repo="config.json")
second = api.upload_file(repo_id="org/name", **config).oid
get = lambda revision, name="config.json": outcome(hf_hub_download, "org/name", name, revision=revision)
names = ["main", "v1", "dev/a", first, second, "nothing"]
out["read"] = [path if (path := get(name)).endswith("Error") else Path(path).read_text() for name in names]
out["large"] = Path(get("main", "model.safetensors")).stat().st_size
out["missing"] = get("main", "other.json")
out["files"] = sorted(api.list_repo_files("org/name"))
out["tree"] = sorted(file.path for file in api.list_repo_tree("org/name", recursive=True))
out["paths"] = [(f.size, f.lfs.size) for f in api.get_paths_info("org/name", ["model.safetensors"])]
info = api.model_info("org/name", files_metadata=True)
out["info"] = [info.private, info.sha == second, info.card_data.license, info.tags]
out["commits"] = [commit.title for commit in api.list_repo_commits("org/name")]
refs = api.list_repo_refs("org/name")
out["refs"] = [sorted(ref.name for ref in refs.branches), [ref.name for ref in refs.tags]]
card = ModelCard.load("org/name")
card.text += "more"
card.push_to_hub("org/name")
out["card"] = ModelCard.load("org/name").text.endswith("more")
api.delete_file("config.json", "org/name")
out["exists"] = [api.file_exists("org/name", name) for name in ("config.json", "README.md")]
out["pull request"] = api.upload_file(
    repo_id="org/name", path_or_fileobj=b"x", path_in_repo="x", create_pr=True
).pr_revision
out["user"] = api.whoami()["name"]
print(json.dumps(out))
"""
    with HubServer({TOKEN}) as hub:
        out = hub_client(hub, tmp_path, code, folder)
        assert hub.files("org/name")["model.safetensors"] == weights
        puts = [request for request in hub.cdn.requests if request.method == "PUT"]
        assert [request.received for request in puts] == [len(weights)]
        assert any("authorization" in request.headers for request in hub.requests)
        assert not any("authorization" in request.headers for request in hub.cdn.requests)
    x, y = (json.dumps({"architecture": letter}) for letter in "xy")
    files = [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert out == {
        "created": ["org/name", "HfHubHTTPError"],
        "again": True,
        "read": [y, x, x, x, y, "RevisionNotFoundError"],
        "large": len(weights),
        "missing": "RemoteEntryNotFoundError",
        "files": files,
        "tree": files,
        "paths": [[len(weights), len(weights)]],
        "info": [True, True, "mit", ["x"]],
        "commits": [
            "Upload config.json with huggingface_hub",
            "Upload folder using huggingface_hub",
            "initial commit",
        ],
        "refs": [["dev/a", "main"], ["v1"]],
        "card": True,
        "exists": [False, True],
        "pull request": "refs/pr/1",
        "user": "someone",
    }


def test_the_client_is_refused_as_by_the_hub(tmp_path: Path) -> None:
    code = """
def get(repo, token):
    error = outcome(hf_hub_download, repo, "config.json", token=token, cache_dir=f"{sys.argv[1]}/{token}")
    return error if "/" not in error else "read"
repos = "org/public", "org/private", "org/gated", "org/absent"
tokens = "hf_valid", "hf_reads", "hf_outside", "hf_wrong", False
out = {str(token): [get(repo, token) for repo in repos] for token in tokens}
upload = dict(path_or_fileobj=b"x", path_in_repo="x", repo_id="org/public")
out["upload"] = [outcome(api.upload_file, **upload, token=token) for token in tokens[1:]]
bad = dict(upload, path_in_repo="README.md", path_or_fileobj=b"---\\ntags: x\\n---\\n", token="hf_valid")
out["card"] = outcome(api.upload_file, **bad)
print(json.dumps(out))
"""
    config = {"config.json": b"{}"}
    tokens = {"read_tokens": {"hf_reads"}, "outside_tokens": {"hf_outside"}}
    with HubServer({TOKEN}, **tokens) as hub:
        hub.create("org/public", config)
        hub.create("org/private", config, private=True)
        hub.create("org/gated", config, gated=True)
        hub.repositories["org/gated"].allowed = {TOKEN}
        out = hub_client(hub, tmp_path, code, tmp_path, token=None)
    absent, gated, other = "RepositoryNotFoundError", "GatedRepoError", "HfHubHTTPError"
    assert out == {
        "hf_valid": ["read", "read", "read", absent],
        "hf_reads": ["read", "read", gated, absent],
        "hf_outside": ["read", absent, gated, absent],
        "hf_wrong": [other] * 4,
        "False": ["read", absent, gated, absent],
        "upload": [other, other, other, absent],
        "card": "ValueError",
    }


def test_the_client_resumes_a_truncated_download(tmp_path: Path) -> None:
    data = DATA * 45  # more than the 10 MiB that the client writes at once
    with HubServer() as hub:
        revision = hub.create("org/name", {"model.safetensors": data})
        hub.cdn.faults = [Truncate(after=11_000_000)]
        code = "print(json.dumps(hf_hub_download('org/name', 'model.safetensors')))"
        path = Path(hub_client(hub, tmp_path, code, token=None))
        assert path.read_bytes() == data
        assert path.parent.name == revision
        assert [request.headers.get("range") for request in hub.cdn.requests] == [None, "bytes=10485760-"]
