"""What the imitated Hub tells: files, and information on models and users."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from .base import Request, Response
from .repositories import card_data
from .wire import Refused, answer

if TYPE_CHECKING:
    from .hub import HubServer


def query(request: Request) -> dict[str, str]:
    """The last value of each parameter."""
    return {name: values[-1] for name, values in parse_qs(urlsplit(request.path).query).items()}


def resolve(hub: HubServer, request: Request, repo: str, revision: str, path: str) -> Response:
    repository = hub.repository(request, repo)
    hub.content(request, repository)
    commit = hub.at(repository, revision)
    blob = commit.blobs.get(path)
    if blob is None:
        raise Refused(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.oid)
    headers = {"X-Repo-Commit": commit.oid}
    if not blob.large:
        headers["Content-Type"] = "text/plain; charset=utf-8"
        return Response(200, blob.data, headers, etag=blob.etag)
    headers |= {"X-Linked-Size": str(len(blob.data)), "X-Linked-Etag": f'"{blob.etag}"'}
    return Response(302, b"Found", headers | {"Location": hub.cdn.sign("GET", blob.sha256)})


def info(hub: HubServer, request: Request, repo: str, revision: str = "main") -> Response:
    repository = hub.repository(request, repo)
    sizes = query(request).get("blobs", "").lower() in ("true", "1")
    return answer(repository.info(hub.at(repository, revision), sizes))


def tree(hub: HubServer, request: Request, repo: str, revision: str, path: str = "") -> Response:
    commit = hub.at(hub.repository(request, repo), revision)
    entries = commit.tree(path.strip("/"), query(request).get("recursive", "").lower() in ("true", "1"))
    if path and not entries:
        raise Refused(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
    return answer(entries)


def paths_info(hub: HubServer, request: Request, repo: str, revision: str) -> Response:
    commit = hub.at(hub.repository(request, repo), revision)
    if "json" in request.headers.get("content-type", ""):
        paths = json.loads(request.body)["paths"]
    else:
        paths = parse_qs(request.body.decode())["paths"]
    return answer([entry for entry in commit.tree("", recursive=True) if entry["path"] in paths])


def refs(hub: HubServer, request: Request, repo: str) -> Response:
    repository = hub.repository(request, repo)
    heads = {name: oid for name, oid in repository.refs.items() if not name.startswith("refs/")}
    pulls = {name: oid for name, oid in repository.refs.items() if name.startswith("refs/")}

    def listed(prefix: str, found: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in found.items()]

    return answer(
        {
            "branches": listed("refs/heads/", heads),
            "converts": [],
            "tags": listed("refs/tags/", repository.tags),
            "pullRequests": listed("", pulls),
        }
    )


def commits(hub: HubServer, request: Request, repo: str, revision: str) -> Response:
    repository = hub.repository(request, repo)
    return answer(
        [
            {
                "id": commit.oid,
                "title": commit.title,
                "message": commit.message,
                "date": commit.date,
                "authors": [{"user": hub.user}],
            }
            for commit in repository.history(hub.at(repository, revision))
        ]
    )


def auth_check(hub: HubServer, request: Request, repo: str) -> Response:
    hub.content(request, hub.repository(request, repo))
    return answer({})


def whoami(hub: HubServer, request: Request) -> Response:
    token = hub.token(request)
    if token is None:
        raise Refused(401, "Invalid username or password.")
    role = "write" if token in hub.tokens else "read"
    return answer(
        {
            "type": "user",
            "id": "0" * 24,
            "name": hub.user,
            "fullname": hub.user,
            "email": f"{hub.user}@example.org",
            "isPro": False,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role}},
        }
    )


def validate_yaml(hub: HubServer, request: Request) -> Response:
    errors, data = card_data(json.loads(request.body)["content"])
    warnings = [] if errors or data else ["empty or missing yaml metadata in repo card"]
    found = {
        "errors": [{"message": message} for message in errors],
        "warnings": [{"message": message} for message in warnings],
    }
    return answer(found, 400 if errors else 200)
