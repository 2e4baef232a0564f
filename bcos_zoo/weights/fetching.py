"""The file of a checkpoint: fetched from wherever it is available, and verified.

No file is returned before its hash has been checked, and none gets its final name before it is complete.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError

from .._compat import repo_folder_name
from ..errors import WeightsError, reason
from ..files import locked
from . import manifest
from .checksums import sha256, stamped_sha256, was_fetched
from .download import download, offline, patiently, shown
from .manifest import Checkpoint, HubFile, LocalFile, Packaged, Place, Url

MIRROR = "BCOS_ZOO_MIRROR"
MOVE_AWAY = "move it away, or name another folder: TORCH_HOME moves the cache"
LONGEST = 100  # characters of a name, before the sha256
CacheDir = str | os.PathLike[str] | None
_log = logging.getLogger(__name__)
_REMEDY = {Packaged: "reinstall bcos-zoo", LocalFile: "put the right file there, or correct the manifest"}


class _Known(NamedTuple):
    """A `WeightsFile` with a hash. Without a place, only a mirror or the cache can have it."""

    where: Place | None
    digest: str
    format: str
    bytes: int | None


def fetch(checkpoint: str | Checkpoint, cache_dir: CacheDir = None) -> Path:
    """A local file with the weights of a checkpoint, with a verified hash; downloaded if necessary.

    checkpoint: a full name, `architecture.tag`, or a record of the manifest.
    cache_dir: where downloads go. By default, `torch.hub.get_dir()/checkpoints` for urls (TORCH_HOME moves
    it) and the cache of huggingface_hub for its repositories (HF_HOME moves it).

    A file that was verified and has not changed since is not hashed again. A file that `fetch` downloaded and
    that was damaged since is renamed to end in ".damaged", and downloaded again if a place is known. Files
    that others put into a cache are used if their hash is right, and never renamed or deleted.
    BCOS_ZOO_MIRROR, a folder or a base url, replaces all places on the network; `filename` gives the names of
    its files. With HF_HUB_OFFLINE, nothing is downloaded.

    Raises UnknownModelError for a name not in the manifest; WeightsError if the record has no hash, if it has
    no place and neither mirror nor cache has the file, if the download fails, or if the hash is wrong.
    """
    record = manifest.get(checkpoint) if isinstance(checkpoint, str) else checkpoint
    file = _file(record)
    where, digest = file.where, file.digest
    if isinstance(where, (Packaged, LocalFile)):
        return _verified(where.path, digest, _REMEDY[type(where)])
    cached = location(record, cache_dir)
    mirror = os.environ.get(MIRROR)
    if mirror and "://" not in mirror:
        return _from_folder(Path(mirror).expanduser(), record, cached, digest)
    if mirror:
        url = f"{mirror.rstrip('/')}/{quote(filename(record))}"
        return _from_url(url, _url_cache(cache_dir), record, file)
    if isinstance(where, Url):
        return _from_url(where.url, _url_cache(cache_dir), record, file)
    if isinstance(where, HubFile):
        return _from_hub(where, record, digest, cache_dir)
    return _from_cache(cached, record, digest)


def location(checkpoint: str | Checkpoint, cache_dir: CacheDir = None) -> Path:
    """Where `fetch` has, or would put, the file of a checkpoint. Does not use the network.

    Raises UnknownModelError, and WeightsError if the record has no hash.
    """
    record = manifest.get(checkpoint) if isinstance(checkpoint, str) else checkpoint
    where = _file(record).where
    if isinstance(where, (Packaged, LocalFile)):
        return where.path
    if not isinstance(where, HubFile):
        own, *others = _names(_url_cache(cache_dir), record)
        return own if own.exists() else next((path for path in others if _of_others(path, record)), own)
    folder = Path(constants.HF_HUB_CACHE if cache_dir is None else cache_dir).expanduser()
    repo = repo_folder_name(repo_id=where.repo, repo_type="model")
    return folder / repo / "snapshots" / where.revision / where.filename


def filename(checkpoint: Checkpoint) -> str:
    """The name of a checkpoint's file in the cache and in a mirror; files with different bytes differ in it.

    It is the last part of the url if that names a file of weights, else the name of the checkpoint; then the
    beginning of the sha256, unless the name already ends with it, as torch.hub expects.
    """
    digest = _file(checkpoint).digest
    plain = PurePosixPath(_plain(checkpoint))
    hashed = plain.stem.rpartition("-")[2]
    if len(hashed) >= 8 and digest.startswith(hashed):
        return plain.name
    return f"{plain.stem[:LONGEST]}-{digest[:16]}{plain.suffix}"


def _plain(checkpoint: Checkpoint) -> str:
    """The name without the sha256, under which others may have stored the file."""
    file = _file(checkpoint)
    if isinstance(file.where, Url):
        name = PurePosixPath(urlsplit(file.where.url).path).name
        if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.(pth|pt|pkl|ckpt|safetensors)", name):
            return name
    return f"{checkpoint.name}.{file.format}"


@dataclass(frozen=True)
class Verdict:
    """What `verify` found for one checkpoint."""

    name: str
    path: Path | None
    state: str  # "ok", "bad", "missing" (not in the cache) or "unverifiable" (no hash is known)
    expected: str | None  # what the sha256 begins with
    sha256: str | None  # of the file
    bytes: int | None
    advice: str | None = None  # what to do, unless the state is "ok"


def verify(checkpoints: Iterable[Checkpoint], cache_dir: CacheDir = None) -> Iterator[Verdict]:
    """Hash the whole cached file of each checkpoint. Does not use the network."""
    for record in checkpoints:
        if (file := record.file) is None or file.digest is None:
            url = file.where.url if file and isinstance(file.where, Url) else record.origin.url
            yield Verdict(record.name, None, "unverifiable", None, None, None, _by_hand(record, url))
            continue
        path, where = location(record, cache_dir), file.where
        advice = _REMEDY.get(type(where), f"`bcos-zoo weights fetch {record.name}` downloads it")
        if where is None and not os.environ.get(MIRROR):
            advice = _from_a_mirror(filename(record), file.digest)
        if not path.exists():
            yield Verdict(record.name, path, "missing", file.digest, None, None, advice)
            continue
        got, size = sha256(path), path.stat().st_size
        if got.startswith(file.digest):
            yield Verdict(record.name, path, "ok", file.digest, got, size)
            continue
        of_others = isinstance(where, Url) and not was_fetched(path)
        yield Verdict(record.name, path, "bad", file.digest, got, size, MOVE_AWAY if of_others else advice)


def cached(cache_dir: CacheDir = None) -> list[Checkpoint]:
    """The checkpoints whose files are on this machine: in the package or in a cache."""
    known = [record for record in manifest.checkpoints() if record.file and record.file.digest]
    return [record for record in known if location(record, cache_dir).exists()]


def _file(record: Checkpoint) -> _Known:
    """The file to use for a checkpoint. Raises WeightsError if it has no hash."""
    file = record.file
    if file is None:
        raise WeightsError(
            f"no place is known for the weights of {record.name}; " + _by_hand(record, record.origin.url)
        )
    if file.digest is None:
        raise WeightsError(
            f"the manifest has no sha256 of {record.name}, so its file is not trusted; "
            + _by_hand(record, file.where.url if isinstance(file.where, Url) else record.origin.url)
        )
    return _Known(file.where, file.digest, file.format, file.bytes)


def _by_hand(record: Checkpoint, url: str | None) -> str:
    """What to do if a file cannot be fetched."""
    return (
        f"get the file of {record.origin.project} from {url or 'its authors'}, then "
        f"`bcos-zoo weights convert FILE --to {record.name}` and pass "
        "pretrained_cfg_overlay={'file': PATH} to create_model"
    )


def _names(folder: Path, record: Checkpoint) -> list[Path]:
    """Where a checkpoint's file may be in a folder: under the name from `fetch`, or under that of others."""
    return list(dict.fromkeys([folder / filename(record), folder / _plain(record)]))


def _of_others(path: Path, record: Checkpoint) -> bool:
    """Whether somebody else put the right file there; false if there is no file, or we may not read it."""
    return path.is_file() and os.access(path, os.R_OK) and _holds(path, _file(record).digest)


def _url_cache(cache_dir: CacheDir) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints") if cache_dir is None else Path(cache_dir).expanduser()


def _from_folder(folder: Path, record: Checkpoint, cached: Path, digest: str) -> Path:
    """The cached file, or the one in a mirror that is a folder."""
    if _holds(cached, digest):
        return cached
    own, *others = _names(folder, record)
    path = own if own.is_file() else next((path for path in others if _of_others(path, record)), own)
    if not path.is_file():
        raise WeightsError(
            f"no file {path} for {record.name}, and {MIRROR} allows no other place; put it there, "
            f"with the sha256 {digest}"
        )
    return _verified(path, digest, f"put the right file there, or unset {MIRROR}")


def _from_cache(path: Path, record: Checkpoint, digest: str) -> Path:
    """The cached file of a checkpoint for which no place is known."""
    if _holds(path, digest):
        return path
    if path.exists():
        try:
            _make_room(path, digest)
        except OSError as error:
            raise WeightsError(
                f"{path} does not have the sha256 {digest} and cannot be renamed ({reason(error)}); remove it"
            ) from error
    raise WeightsError(
        f"no place is known for the weights of {record.name} ({record.origin.project}); "
        + _from_a_mirror(path.name, digest)
    )


def _from_a_mirror(name: str, digest: str) -> str:
    return f"put {name}, of sha256 {digest}, into a folder and name the folder in {MIRROR}"


def _from_url(url: str, folder: Path, record: Checkpoint, file: _Known) -> Path:
    """The file of a url in the cache, downloaded if it is not there."""
    (target, *others), digest, size = _names(folder, record), file.digest, file.bytes
    if _holds(target, digest):
        return target
    for path in others:
        if _of_others(path, record):
            return path
    try:
        if not target.exists():
            _check_online(target, shown(url))
        with locked(target):
            if _holds(target, digest):  # another process was faster
                return target
            if target.exists():
                _make_room(target, digest)
            _check_online(target, shown(url))
            download(url, target, digest, size)
    except OSError as error:
        raise WeightsError(
            f"cannot write {target} ({reason(error)}); free or name a writable folder: TORCH_HOME moves the "
            "cache"
        ) from error
    return target


def _make_room(path: Path, digest: str) -> None:
    """Rename a damaged file that `fetch` downloaded. Raises WeightsError if others put it there."""
    if not was_fetched(path):
        if (got := _hash(path)) is None or got.startswith(digest):
            return  # another process has just removed it, or put the right one there
        raise WeightsError(
            f"{path} does not have the sha256 {digest}, and was not put there by bcos_zoo, which leaves it "
            f"alone; {MOVE_AWAY}"
        )
    names = (path.with_name(f"{path.name}{f'.{i}' if i else ''}.damaged") for i in count())
    aside = next(name for name in names if not os.path.lexists(name))
    try:
        os.replace(path, aside)
    except FileNotFoundError:
        return  # another process has just removed it
    _log.warning("%s does not have the sha256 %s: it was renamed to %s", path, digest, aside.name)


def _from_hub(where: HubFile, record: Checkpoint, digest: str, cache_dir: CacheDir) -> Path:
    """The file of a repository in the cache of huggingface_hub, downloaded if it is not there."""
    target = location(record, cache_dir)
    if _holds(target, digest):
        return target
    source = f"{where.repo} at {where.revision}"
    if not target.exists():
        _check_online(target, source)
    elif (got := _whole(target)) and not got.startswith(digest):
        raise _another(where, source, digest, got, "it stays in the cache of the Hub")
    folder = target.parents[where.filename.count("/") + 3]  # it holds repository/snapshots/revision
    lock = folder / ".locks" / target.relative_to(folder).parts[0] / f"{where.revision}.{target.name}"
    ask = partial(hf_hub_download, where.repo, where.filename, revision=where.revision, cache_dir=folder)
    try:
        with locked(lock):
            for again in (False, True):
                if _holds(target, digest):  # another process was faster, or the first try succeeded
                    return target
                _remove(target, folder)
                _check_online(target, source)
                patiently(partial(ask, force_download=again))
            got = stamped_sha256(target)
            if got.startswith(digest):
                return target
            _remove(target, folder)
    except WeightsError:
        raise
    except Exception as error:  # errors of the client and of its layers have no common base
        cause = error.__cause__ if isinstance(error, (LocalEntryNotFoundError, ValueError)) else None
        raise WeightsError(
            f"cannot download {where.filename} from {source} ({reason(cause or error)}); try again, "
            f"or put it into a folder as {filename(record)} and name the folder in {MIRROR}"
        ) from error
    raise _another(where, source, digest, got, "nothing was kept")


def _another(where: HubFile, source: str, digest: str, got: str, kept: str) -> WeightsError:
    return WeightsError(
        f"{where.filename} from {source} is not the file expected: sha256 expected {digest}, got {got}; "
        f"{kept}, tell its authors"
    )


def _whole(link: Path) -> str | None:
    """The sha256 of a file that has the bytes which the Hub's client wanted, else None.

    The client names files by their sha256, or by the sha1 that git gives them.
    """
    blob = link.resolve()
    got = _hash(blob)
    if len(blob.name) == 64:
        return got if got == blob.name else None
    if len(blob.name) != 40:
        return None
    try:
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
        with blob.open("rb") as stream:
            for chunk in iter(partial(stream.read, 1 << 20), b""):
                digest.update(chunk)
    except FileNotFoundError:
        return None  # another process has just removed it
    return got if digest.hexdigest() == blob.name else None


def _remove(link: Path, folder: Path) -> None:
    """Delete a link and the file it points to, which would return the same bytes; only within the cache."""
    for path in (link.resolve(), link):
        if folder.resolve() in path.parent.resolve().parents:
            path.unlink(missing_ok=True)


def _check_online(target: Path, source: str) -> None:
    if offline():
        raise WeightsError(
            f"{target.name} is not in the cache and HF_HUB_OFFLINE is set; put the file at {target}, "
            f"or unset HF_HUB_OFFLINE to download it from {source}"
        )


def _holds(path: Path, digest: str) -> bool:
    """Whether the file exists and has that sha256. Raises WeightsError if it cannot be read."""
    got = _hash(path)
    return got is not None and got.startswith(digest)


def _hash(path: Path) -> str | None:
    """The file's sha256; None if there is no file, which another process may have removed at any moment.

    Raises WeightsError if it cannot be read.
    """
    try:
        return stamped_sha256(path)
    except WeightsError as error:
        if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
            return None
        raise


def _verified(path: Path, digest: str, remedy: str) -> Path:
    got = stamped_sha256(path)
    if not got.startswith(digest):
        raise WeightsError(f"{path} is not the file expected: sha256 expected {digest}, got {got}; {remedy}")
    return path
