"""Weights as files: fetch a checkpoint's file and verify it, read it, write one.

Nothing is given out before its hash was checked; nothing stands under its final name before it is complete.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import pickle
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import manifest
from .errors import InputError, WeightsError
from .files import replacing
from .manifest import Checkpoint, HubFile, Packaged, Url

Folder = str | os.PathLike[str] | None


def fetch(checkpoint: str | Checkpoint, cache_dir: Folder = None) -> Path:
    """A local file with the weights of a checkpoint, its hash verified; downloaded unless it is there.

    checkpoint: a full name, `architecture.tag`, or a record of the manifest.
    cache_dir: where downloads go. Unless given, `torch.hub.get_dir()/checkpoints` for urls (TORCH_HOME moves
    it) and the cache of huggingface_hub for its repositories.

    Raises UnknownModelError for a name not in the manifest; WeightsError if the record has no place or no
    hash, if the download fails, or if the hash is not the expected one.
    """
    record = manifest.get(checkpoint) if isinstance(checkpoint, str) else checkpoint
    for file in record.files:
        if file.where is None:
            continue
        if file.digest is None:
            raise WeightsError(
                f"the manifest has no sha256 of {record.name}, so its file is not trusted; "
                + _by_hand(record, file.where.url if isinstance(file.where, Url) else record.origin.url)
            )
        return _local(file.where, file.digest, cache_dir)
    raise WeightsError(
        f"no place is known that holds the weights of {record.name}; {_by_hand(record, record.origin.url)}"
    )


def sha256(path: str | os.PathLike[str]) -> str:
    """The file's sha256, 64 hex digits. Raises WeightsError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise WeightsError(f"cannot read {path} ({_reason(error)}); give a file that can be read") from error
    return digest.hexdigest()


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or, with any other ending, one of `torch.save`; on the CPU.

    Of a Lightning checkpoint, those under "state_dict". A pickle is read with `weights_only=True`: it cannot
    run code. Raises WeightsError if the file is missing, is damaged, or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no file at {path}; give a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own text is a page and advises to trust the file
        raise WeightsError(
            f"{path} is damaged, or holds objects that could run code and were not loaded; "
            "give a file of tensors only"
        ) from error
    except Exception as error:  # the readers raise anything from EOFError to KeyError, as the damage has it
        reason = _reason(error)
        raise WeightsError(f"{path} is damaged or of another format ({reason}); get the file anew") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if fault := _not_flat(content):
        raise WeightsError(f"{path} holds {fault}; give a flat dict of tensors, a network's state_dict()")
    return dict(content)


def unwrap(state_dict: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The tensors of a published file under the names of its network, whatever the file wraps them in.

    names: the network's own keys. As long as the file has none of them, "model." is taken off (a Lightning
    module, and the wrapper of the B-cosified networks inside it), then "0." (v1 networks and the v2 ViTs were
    the first element of a Sequential). "clip_model.", the teacher of the B-cosified CLIP, is left out.
    """
    flat = dict(state_dict)
    for prefix in ("model.", "model.", "0."):
        if flat.keys().isdisjoint(names) and any(key.startswith(prefix) for key in flat):
            flat = {k.removeprefix(prefix): v for k, v in flat.items() if not k.startswith("clip_model.")}
    return flat


def check_fit(
    state_dict: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    name: str,
    *,
    spare: Collection[str] = (),
    most: int | None = 10,
) -> None:
    """Raise WeightsError unless the tensors are those of a network, by name and shape.

    own: the network's state dict. name: what the error calls the network.
    spare: names that may be missing, and of any shape. most: how many names of each fault it lists, or all.
    """
    missing = sorted(own.keys() - state_dict.keys() - set(spare))
    surplus = sorted(state_dict.keys() - own.keys() - set(spare))
    shapes = [
        f"{key} {tuple(state_dict[key].shape)} for {tuple(value.shape)}"
        for key, value in own.items()
        if key in state_dict and key not in spare and state_dict[key].shape != value.shape
    ]
    faults = []
    if missing or surplus:
        faults += [_count(missing, "missing", most), _count(surplus, "surplus", most)]
    if shapes:
        faults += [_count(shapes, "of another shape", most)]
    if faults:
        raise WeightsError(f"the file is not of {name}: {', '.join(faults)}; give a file of this network")


def save_state_dict(
    state_dict: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a .safetensors file, which gets its name only when complete and replaces an older one.

    Tensors are written contiguous and each by itself, those that share memory too.
    metadata: texts for the file's header.

    Raises InputError for another ending or no flat dict of tensors, WeightsError if it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: weights are written as .safetensors only; give a name that ends so")
    if fault := _not_flat(state_dict):
        raise InputError(f"{path} would hold {fault}; give a flat dict of tensors, a network's state_dict()")
    dense = torch.contiguous_format
    tensors = {name: value.detach().cpu().clone(memory_format=dense) for name, value in state_dict.items()}
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, {"format": "pt", **(metadata or {})})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot write {path} ({_reason(error)}); give a writable folder") from error


def _by_hand(record: Checkpoint, url: str | None) -> str:
    """What to do where a file cannot be fetched."""
    return (
        f"get the file of {record.origin.project} from {url or 'its authors'}, then "
        f"`bcos-zoo weights convert FILE --to {record.name}` and pass "
        "pretrained_cfg_overlay={'file': PATH} to create_model"
    )


def _local(where: Url | HubFile | Packaged, digest: str, cache_dir: Folder) -> Path:
    """The verified file of one place."""
    if isinstance(where, Url):
        return _from_url(where.url, digest, cache_dir)
    if isinstance(where, HubFile):
        return _from_hub(where, digest, cache_dir)
    return _verified(where.path, digest, "reinstall bcos-zoo")


def _from_url(url: str, digest: str, cache_dir: Folder) -> Path:
    """The file of that url in the cache, downloaded if it is not there."""
    folder = Path(torch.hub.get_dir(), "checkpoints") if cache_dir is None else Path(cache_dir).expanduser()
    target = folder / PurePosixPath(urlsplit(url).path).name
    if target.exists():
        return _verified(target, digest, "delete it, then it is downloaded again")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A folder of our own beside the target: whatever stops us, it goes with all that is in it.
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=folder) as private:
            partial = Path(private, target.name)
            torch.hub.download_url_to_file(url, str(partial))
            got = sha256(partial)
            if not got.startswith(digest):
                raise WeightsError(
                    f"{target.name} from {url} is not the file expected: sha256 expected {digest}, "
                    f"got {got}; nothing was kept, try again"
                )
            os.replace(partial, target)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection, and our own error holds it
        raise WeightsError(
            f"cannot download {target.name} from {url} ({_reason(error)}); "
            f"try again, or put the file at {target} by hand"
        ) from error
    return target


def _from_hub(where: HubFile, digest: str, cache_dir: Folder) -> Path:
    """The file of that repository in the cache of huggingface_hub, downloaded if it is not there."""
    from huggingface_hub import hf_hub_download

    folder = None if cache_dir is None else Path(cache_dir).expanduser()
    try:
        path = Path(hf_hub_download(where.repo, where.filename, revision=where.revision, cache_dir=folder))
    except Exception as error:  # its errors, and those of the client beneath it, have no common base
        raise WeightsError(
            f"cannot download {where.filename} from {where.repo} at {where.revision} ({_reason(error)}); try "
            "again, or get it by hand and pass pretrained_cfg_overlay={'file': PATH} to timm.create_model"
        ) from error
    # The cache holds links to files: deleting the link alone would bring the same damaged file back.
    return _verified(path, digest, f"delete {path.resolve()}, then it is downloaded again")


def _verified(path: Path, digest: str, remedy: str) -> Path:
    got = sha256(path)
    if not got.startswith(digest):
        raise WeightsError(f"{path} is not the file expected: sha256 expected {digest}, got {got}; {remedy}")
    return path


def _not_flat(content: object) -> str | None:
    """What is wrong with something that should be a flat dict of tensors; None if nothing is."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    if not content:
        return "an empty dict"
    others = [repr(k) for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if not others:
        return None
    return f"entries that are not named tensors ({', '.join(others[:3])}{', ...' if others[3:] else ''})"


def _count(keys: list[str], fault: str, most: int | None) -> str:
    more = ", ..." if most is not None and keys[most:] else ""
    return f"{len(keys)} {fault}" + (f" ({', '.join(keys[:most])}{more})" if keys else "")


def _reason(error: BaseException) -> str:
    """The error's text in one line of at most 200 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
