"""What changes the imitated Hub: repositories, branches and tags, uploads and commits."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from .base import Request, Response
from .hub_reads import query
from .repositories import Blob, Repository, is_large
from .wire import Refused, answer

if TYPE_CHECKING:
    from .hub import HubServer

LFS_HEADERS = {"Content-Type": "application/vnd.git-lfs+json"}


def _named(hub: HubServer, data: dict[str, Any]) -> str:
    if data.get("type") not in (None, "model"):
        raise Refused(400, f"only models are here, not {data['type']}")
    return f"{data.get('organization') or hub.user}/{data['name']}"


def _private(data: dict[str, Any]) -> bool:
    return bool(data.get("private")) or data.get("visibility") == "private"


def create(hub: HubServer, request: Request) -> Response:
    hub.writer(request)
    data = json.loads(request.body)
    repo = _named(hub, data)
    url = {"url": f"{hub.endpoint}/{repo}", "name": repo}
    if repo in hub.repositories:
        return answer({"error": "You already created this model repo", **url}, 409)
    hub.repositories[repo] = Repository(repo, _private(data))
    return answer(url)


def delete(hub: HubServer, request: Request) -> Response:
    repo = _named(hub, json.loads(request.body))
    hub.repository(request, repo, write=True)
    del hub.repositories[repo]
    return answer({})


def settings(hub: HubServer, request: Request, repo: str) -> Response:
    repository = hub.repository(request, repo, write=True)
    data = json.loads(request.body)
    if "private" in data or "visibility" in data:
        repository.private = _private(data)
    repository.gated = bool(data.get("gated", repository.gated))
    return answer({"private": repository.private, "gated": repository.gated})


def branch(hub: HubServer, request: Request, repo: str, branch: str) -> Response:
    repository = hub.repository(request, repo, write=True)
    if request.method == "DELETE":
        if branch == "main" or branch not in repository.refs:
            raise Refused(403 if branch == "main" else 404, f"cannot delete branch {branch}")
        del repository.refs[branch]
        return answer({})
    if branch in repository.refs:
        raise Refused(409, f"Reference already exists: {branch}")
    start = json.loads(request.body or b"{}").get("startingPoint", "main")
    repository.refs[branch] = hub.at(repository, start).oid
    return answer({})


def tag(hub: HubServer, request: Request, repo: str, revision: str) -> Response:
    repository = hub.repository(request, repo, write=True)
    if request.method == "DELETE":
        if repository.tags.pop(revision, None) is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return answer({})
    name = json.loads(request.body)["tag"]
    if name in repository.tags:
        raise Refused(409, f"Tag reference exists already: {name}")
    repository.tags[name] = hub.at(repository, revision).oid
    return answer({})


def preupload(hub: HubServer, request: Request, repo: str, revision: str) -> Response:
    commit = hub.at(hub.repository(request, repo, write=True), revision)

    def about(file: dict[str, Any]) -> dict[str, Any]:
        large = is_large(file["path"], file["size"], base64.b64decode(file["sample"]))
        known = {"oid": commit.blobs[file["path"]].etag} if file["path"] in commit.blobs else {}
        mode = "lfs" if large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **known}

    files = [about(file) for file in json.loads(request.body)["files"]]
    return answer({"files": files, "commitOid": commit.oid})


def lfs_batch(hub: HubServer, request: Request, repo: str) -> Response:
    hub.repository(request, repo, write=True)
    verify = f"{hub.endpoint}/{repo}.git/info/lfs/objects/verify"
    objects: list[dict[str, Any]] = []
    for wanted in json.loads(request.body)["objects"]:
        about = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in hub.cdn.objects:
            upload = {"href": hub.cdn.sign("PUT", wanted["oid"]), "header": {}}
            about["actions"] = {"upload": upload, "verify": {"href": verify, "header": {}}}
        objects.append(about)
    return answer({"transfer": "basic", "objects": objects}, headers=LFS_HEADERS)


def lfs_verify(hub: HubServer, request: Request, repo: str) -> Response:
    hub.repository(request, repo, write=True)
    wanted = json.loads(request.body)
    stored = hub.cdn.objects.get(wanted["oid"])
    if stored is None or len(stored) != wanted["size"]:
        raise Refused(404, f"LFS object {wanted['oid']} was not uploaded")
    return answer({}, headers=LFS_HEADERS)


def commit(hub: HubServer, request: Request, repo: str, revision: str) -> Response:
    repository = hub.repository(request, repo, write=True)
    before = hub.at(repository, revision)
    pull = query(request).get("create_pr") == "1"
    branch = revision.removeprefix("refs/heads/")
    if not pull and branch not in repository.refs:
        raise Refused(404, f"{revision} is no branch", "RevisionNotFound")
    header: dict[str, Any] = {}
    blobs = dict(before.blobs)
    for line in request.body.splitlines():
        operation = json.loads(line)
        if operation["key"] == "header":
            header = operation["value"]
        else:
            _apply(hub, blobs, operation["key"], operation["value"])
    if header.get("parentCommit", before.oid) != before.oid:
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    if pull:
        number = 1 + sum(name.startswith("refs/pr/") for name in repository.refs)
        branch = f"refs/pr/{number}"
        repository.refs[branch] = before.oid
    done = repository.commit(
        blobs, title=header["summary"], message=header.get("description", ""), branch=branch
    )
    url = f"{hub.endpoint}/{repo}"
    result = {"success": True, "commitOid": done.oid, "commitUrl": f"{url}/commit/{done.oid}"}
    if pull:
        result["pullRequestUrl"] = f"{url}/discussions/{number}"
    return answer(result | {"hookOutput": ""})


def _apply(hub: HubServer, blobs: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
    """One line of a commit, on the files as they are so far."""
    path = value["path"]
    if key == "file":
        blobs[path] = Blob(base64.b64decode(value["content"]), large=False)
    elif key == "lfsFile":
        if value["oid"] not in hub.cdn.objects:
            raise Refused(400, f"{path} points to an LFS object that was not uploaded: {value['oid']}")
        blobs[path] = Blob(hub.cdn.objects[value["oid"]], large=True)
    elif key == "deletedFile":
        if blobs.pop(path, None) is None:
            raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    elif key == "deletedFolder":
        gone = [name for name in blobs if name.startswith(path.rstrip("/") + "/")]
        if not gone:
            raise Refused(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
        for name in gone:
            del blobs[name]
    else:
        raise Refused(400, f"unknown operation {key}")
