"""State dicts as files: read whatever the published files hold, check that it fits, write our own.

A file that is read cannot run code: pickles are read with `weights_only=True`. Written is safetensors only.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import InputError, WeightsError, reason
from .files import replacing


def read(path: str | os.PathLike[str]) -> dict[str, Tensor]:
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
        raise WeightsError(
            f"{path} is damaged or of another format ({reason(error)}); get it anew"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if fault := _not_flat(content):
        raise WeightsError(f"{path} holds {fault}; give a flat dict of tensors, a network's state_dict()")
    return dict(content)


def sha256(state_dict: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors: of each name, in alphabetical order, its type, its shape and its bytes.

    The same numbers give the same sha256, whichever file, device or memory layout they came from.
    """
    digest = hashlib.sha256()
    for name, value in sorted(state_dict.items()):
        tensor = value.detach().cpu().contiguous()
        head = f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n"
        digest.update(head.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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


def save(
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
        raise WeightsError(f"cannot write {path} ({reason(error)}); give a writable folder") from error


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
