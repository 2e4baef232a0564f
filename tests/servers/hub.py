"""An imitation of the Hugging Face Hub, close enough for its own client to download from and upload to."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from . import hub_reads, hub_writes
from .base import Request, Response, Server
from .clients import clean_environment
from .repositories import Blob, Commit, Repository, is_large
from .wire import Refused, answer

REPO = "(?P<repo>[^/]+/[^/]+?)"
Route = Callable[..., Response]
TABLE: list[tuple[str, str, Route]] = [
    ("HEAD GET", "REPO/resolve/(?P<revision>[^/]+)/(?P<path>.+)", hub_reads.resolve),
    ("GET", "api/models/REPO", hub_reads.info),
    ("GET", "api/models/REPO/revision/(?P<revision>[^/]+)", hub_reads.info),
    ("GET", "api/models/REPO/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", hub_reads.tree),
    ("POST", "api/models/REPO/paths-info/(?P<revision>[^/]+)", hub_reads.paths_info),
    ("GET", "api/models/REPO/refs", hub_reads.refs),
    ("GET", "api/models/REPO/commits/(?P<revision>[^/]+)", hub_reads.commits),
    ("GET", "api/models/REPO/auth-check", hub_reads.auth_check),
    ("GET", "api/whoami-v2", hub_reads.whoami),
    ("POST", "api/validate-yaml", hub_reads.validate_yaml),
    ("POST", "api/repos/create", hub_writes.create),
    ("DELETE", "api/repos/delete", hub_writes.delete),
    ("PUT", "api/models/REPO/settings", hub_writes.settings),
    ("POST DELETE", "api/models/REPO/branch/(?P<branch>[^/]+)", hub_writes.branch),
    ("POST DELETE", "api/models/REPO/tag/(?P<revision>[^/]+)", hub_writes.tag),
    ("POST", "api/models/REPO/preupload/(?P<revision>[^/]+)", hub_writes.preupload),
    ("POST", "api/models/REPO/commit/(?P<revision>[^/]+)", hub_writes.commit),
    ("POST", r"REPO\.git/info/lfs/objects/batch", hub_writes.lfs_batch),
    ("POST", r"REPO\.git/info/lfs/objects/verify", hub_writes.lfs_verify),
]
ROUTES = [
    (methods.split(), re.compile("/" + pattern.replace("REPO", REPO)), function)
    for methods, pattern, function in TABLE
]


class Cdn(Server):
    """Where large files are: by signed urls only, on a host that is another than the Hub's."""

    def __init__(self) -> None:
        super().__init__(host="localhost")
        self.objects: dict[str, bytes] = {}  # by sha256
        self._signed: dict[str, tuple[str, str]] = {}

    def sign(self, method: str, sha256: str) -> str:
        """A url that lets its holder GET, or PUT, an object."""
        signature = secrets.token_hex(8)
        self._signed[signature] = method, sha256
        return self.url(f"objects/{sha256}?signature={signature}")

    def respond(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        sha256 = urlsplit(request.path).path.rpartition("/")[2]
        signature = request.path.rpartition("=")[2]
        if self._signed.get(signature) != (method, sha256):
            return Response(403, b"<Error><Code>AccessDenied</Code></Error>")
        if method == "PUT":
            if hashlib.sha256(request.body).hexdigest() != sha256:
                return Response(400, b"<Error><Code>BadDigest</Code></Error>")
            self.objects[sha256] = request.body
            return Response(headers={"ETag": f'"{sha256}"'})
        return Response(200, self.objects[sha256], {"Content-Type": "binary/octet-stream"}, etag=sha256)


class HubServer(Server):
    """The Hub, models only, without xet; `cdn` is its second server, with faults and requests of its own.

    tokens: those that may read and write everything; read_tokens may only read; outside_tokens are valid, but
    for them private repositories do not exist.
    user: whose tokens these are.
    """

    def __init__(
        self,
        tokens: Collection[str] = (),
        *,
        read_tokens: Collection[str] = (),
        outside_tokens: Collection[str] = (),
        user: str = "someone",
    ) -> None:
        super().__init__()
        self.tokens = set(tokens)
        self.read_tokens = set(read_tokens)
        self.outside_tokens = set(outside_tokens)
        self.user = user
        self.cdn = Cdn()
        self.repositories: dict[str, Repository] = {}
        self._lock = threading.RLock()

    @property
    def endpoint(self) -> str:
        return self.url().rstrip("/")

    def environment(self, home: Path, token: str | None = None, **extra: str) -> dict[str, str]:
        """For a client process of this Hub, with caches below `home`; extra: more variables."""
        known = {"HF_ENDPOINT": self.endpoint} | ({"HF_TOKEN": token} if token else {})
        return clean_environment(home, **known, **extra)

    def create(
        self, repo: str, files: Mapping[str, bytes], *, private: bool = False, gated: bool = False
    ) -> str:
        """A repository "owner/name" with files in its second commit, whose hash is returned."""
        with self._lock:
            self.repositories[repo] = Repository(repo, private, gated)
            return self.commit(repo, files)

    def commit(self, repo: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add or replace files of a repository; the hash of the commit."""
        with self._lock:
            repository = self.repositories[repo]
            new = {path: Blob(data, is_large(path, len(data), data[:512])) for path, data in files.items()}
            self.cdn.objects.update({blob.sha256: blob.data for blob in new.values() if blob.large})
            before = repository.find(branch)
            blobs = {**(before.blobs if before else {}), **new}
            return repository.commit(blobs, title="commit of a test", branch=branch).oid

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """The content of a repository by path."""
        with self._lock:
            commit = self.repositories[repo].find(revision)
            if commit is None:
                raise KeyError(revision)
            return commit.files

    def __enter__(self) -> HubServer:
        self.cdn.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            self.cdn.__exit__(*error)

    def respond(self, request: Request) -> Response:
        path = urlsplit(request.path).path
        for methods, pattern, function in ROUTES:
            match = pattern.fullmatch(path)
            if match is None or request.method not in methods:
                continue
            parts = {name: unquote(part) for name, part in match.groupdict().items() if part is not None}
            with self._lock:
                try:
                    return function(self, request, **parts)
                except Refused as refused:
                    return refused.response
        return answer({"error": "Sorry, we can't find the page you are looking for."}, 404)

    # Who may do what.

    def token(self, request: Request) -> str | None:
        """The valid token of a request; an invalid one is refused even where none is needed."""
        header = request.headers.get("authorization")
        if header is None:
            return None
        token = header.removeprefix("Bearer ")
        if token not in self.tokens | self.read_tokens | self.outside_tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return token

    def writer(self, request: Request, code: str | None = None) -> str:
        """The token of a request that wants to write; code: for one that has none."""
        token = self.token(request)
        if token is None:
            raise Refused(401, "Invalid username or password.", code)
        if token not in self.tokens:
            raise Refused(403, "You need the write permission; your token has only that to read")
        return token

    def repository(self, request: Request, repo: str, *, write: bool = False) -> Repository:
        """A repository that the request may see, or change; all others do not exist for it."""
        token = self.token(request)
        repository = self.repositories.get(repo)
        if repository is None or (repository.private and token not in self.tokens | self.read_tokens):
            if token is None:
                raise Refused(401, "Invalid username or password.", "RepoNotFound")
            raise Refused(404, "Repository not found", "RepoNotFound")
        if write:
            self.writer(request, "RepoNotFound")
        return repository

    def content(self, request: Request, repository: Repository) -> None:
        """Refuse a request for the files of a gated repository."""
        token = self.token(request)
        if repository.gated and token not in repository.allowed:
            status = 401 if token is None else 403
            message = f"Access to model {repository.id} is restricted and you are not in the authorized list."
            raise Refused(status, message, "GatedRepo")

    def at(self, repository: Repository, revision: str) -> Commit:
        commit = repository.find(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit
