"""Repositories as the Hub has them, in memory: blobs, commits, branches, tags, and their JSON."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

import yaml

LFS_SUFFIXES = (
    *(".safetensors", ".bin", ".pth", ".pt", ".pkl", ".ckpt", ".onnx", ".h5", ".msgpack"),
    *(".npy", ".npz", ".parquet", ".zip", ".gz", ".tar", ".xz"),
)
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
_numbers = itertools.count()


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub wants a file by LFS; sample: its first bytes."""
    return path.endswith(LFS_SUFFIXES) or size > 10_000_000 or b"\0" in sample


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Blob:
    """The content of a file, in git or by LFS."""

    data: bytes = field(repr=False)
    large: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        text = (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        )
        return text.encode()

    @cached_property
    def oid(self) -> str:
        """What git calls it: of a large file, its pointer."""
        return git_hash(self.pointer if self.large else self.data)

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid

    def entry(self, path: str) -> dict[str, Any]:
        """As the Hub lists it in a tree."""
        entry: dict[str, Any] = {"type": "file", "oid": self.oid, "size": len(self.data), "path": path}
        if self.large:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}
        return entry

    def sibling(self, path: str) -> dict[str, Any]:
        """As the Hub lists it in the information on a model."""
        sibling: dict[str, Any] = {"rfilename": path, "blobId": self.oid, "size": len(self.data)}
        if self.large:
            sibling["lfs"] = {
                "sha256": self.sha256,
                "size": len(self.data),
                "pointerSize": len(self.pointer),
            }
        return sibling


@dataclass(frozen=True)
class Commit:
    """All files at one moment."""

    oid: str
    parent: str | None
    title: str
    message: str
    date: str
    blobs: Mapping[str, Blob] = field(repr=False)

    @property
    def files(self) -> dict[str, bytes]:
        return {path: blob.data for path, blob in self.blobs.items()}

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """The files and folders in a folder ("" for all), as the Hub lists them."""
        prefix = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path, blob in sorted(self.blobs.items()):
            if not path.startswith(prefix):
                continue
            *parents, _ = path[len(prefix) :].split("/")
            for i in range(1, len(parents) + 1 if recursive else min(len(parents), 1) + 1):
                name = prefix + "/".join(parents[:i])
                found[name] = {"type": "directory", "oid": git_hash(name.encode()), "size": 0, "path": name}
            if recursive or not parents:
                found[path] = blob.entry(path)
        return list(found.values())


@dataclass
class Repository:
    """One model of the Hub; its `refs` map branches and pull requests to commits, as `tags` does tags.

    gated: only tokens in `allowed` may read the files.
    """

    id: str
    private: bool = False
    gated: bool = False
    allowed: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.commits:
            self.commit({".gitattributes": Blob(GITATTRIBUTES.encode(), False)}, title="initial commit")

    def find(self, revision: str) -> Commit | None:
        """By branch, tag, pull request, or commit, shortened to at least 7 digits."""
        oid = self.refs.get(revision.removeprefix("refs/heads/")) or self.tags.get(revision)
        if oid is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            oid = next((oid for oid in self.commits if oid.startswith(revision)), None)
        return self.commits.get(oid) if oid else None

    def commit(
        self, blobs: Mapping[str, Blob], *, title: str, message: str = "", branch: str = "main"
    ) -> Commit:
        """A new commit on a branch with these files and no others, though nothing may have changed."""
        parent = self.refs.get(branch)
        oid = hashlib.sha1(f"{self.id} {parent} {next(_numbers)}".encode()).hexdigest()
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self.commits[oid] = Commit(oid, parent, title, message, date, dict(blobs))
        self.refs[branch] = oid
        return self.commits[oid]

    def history(self, commit: Commit) -> Iterator[Commit]:
        """Last commit first."""
        at: Commit | None = commit
        while at is not None:
            yield at
            at = self.commits[at.parent] if at.parent else None

    def info(self, commit: Commit, sizes: bool) -> dict[str, Any]:
        """What the Hub tells about a model at a commit; sizes: of the files, and their hashes."""
        readme = commit.files.get("README.md", b"").decode()
        errors, card = card_data(readme)
        tags = [] if errors else [str(tag) for tag in card.get("tags") or []]
        blobs = sorted(commit.blobs.items())
        return {
            "id": self.id,
            "modelId": self.id,
            "author": self.id.split("/")[0],
            "sha": commit.oid,
            "createdAt": min(c.date for c in self.commits.values()),
            "lastModified": commit.date,
            "private": self.private,
            "gated": "auto" if self.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": tags,
            **{key: card[key] for key in ("library_name", "pipeline_tag") if key in card},
            "cardData": card,
            "siblings": [blob.sibling(path) if sizes else {"rfilename": path} for path, blob in blobs],
        }


def card_data(readme: str) -> tuple[list[str], dict[str, Any]]:
    """Errors, and the metadata between the lines of dashes at the head of a model card."""
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)^---[ \t]*$", readme, re.DOTALL | re.MULTILINE)
    if match is None:
        return [], {}
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"YAML metadata: {error}"], {}
    if data is None:
        return [], {}
    if not isinstance(data, dict):
        return ['"metadata" must be of type object'], {}
    texts = [key for key in ("library_name", "pipeline_tag") if not isinstance(data.get(key, ""), str)]
    errors = [f'"{key}" must be a string' for key in texts]
    if not isinstance(data.get("tags", []), list):
        errors.append('"tags" must be an array')
    return errors, data
