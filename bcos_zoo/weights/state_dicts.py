"""State dicts as files: read whatever published files hold, check that it fits, and write our own.

No file can run code when it is read: pickles are read with `weights_only=True`. Only safetensors are written.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError, WeightsError, reason
from ..files import is_file, replacing

AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")  # of weights over training
SETS = ("state_dict", "model_state_dict", "model", "module", "net", "network")
AVERAGED = ("model_ema.", "ema_model.", "ema.")  # the same, as prefixes in Lightning modules
COUNTS = frozenset({"n_averaged"})  # stored by torch's AveragedModel beside the weights
HOLDERS = (*AVERAGED, "model.", "net.", "network.", "backbone.")
DEEPEST = 4  # keys on the way to a set of weights: as "model.ema.module.state_dict"
_log = logging.getLogger(__name__)


def read(path: str | os.PathLike[str], take: str | None = None) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or, with any other suffix, of a `torch.save` file; on the CPU.

    A training checkpoint may hold several sets, such as "state_dict" and "state_dict_ema", or nested ones
    ("ema.module"). A moving average is preferred, as in timm; the log says which set was read.
    take: the name of the set to read instead. A pickle is read with `weights_only=True`: it cannot run code.
    Raises WeightsError if the file is missing or damaged, holds anything else, has no set of that name, or
    has several of which none is preferred.
    """
    path = Path(path)
    if not is_file(path):
        raise WeightsError(f"no file at {path}; give a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message is a page, and advises to trust the file
        raise WeightsError(
            f"{path} is damaged, or holds objects that could run code and were not loaded; "
            "give a file of tensors only"
        ) from error
    except Exception as error:  # depending on the damage, anything from EOFError to KeyError
        raise WeightsError(
            f"{path} is damaged or of another format ({reason(error)}); get it again"
        ) from error
    name, found = _chosen(dict(_sets(content, path)), path, take, content)
    if name:
        _log.info("%s: the weights are those of %r", path, name)
    return found


def _sets(content: object, path: Path, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The flat dicts of tensors in a checkpoint, each with the keys that lead to it, joined by dots."""
    if not isinstance(content, Mapping):
        return
    if not _not_flat(content):
        yield ".".join(keys), dict(content)
        return
    if len(keys) == DEEPEST:  # a pickle may even hold a dict that is inside itself
        raise WeightsError(
            f"{path} holds dicts inside {'.'.join(keys)}, and sets of weights are looked for {DEEPEST} deep "
            "at most; give a flat dict of tensors, a network's state_dict()"
        )
    for key in (*AVERAGES, *SETS):
        yield from _sets(content.get(key), path, (*keys, key))


def _chosen(
    found: dict[str, dict[str, Tensor]], path: Path, take: str | None, content: object
) -> tuple[str, dict[str, Tensor]]:
    """The set of a checkpoint to read, and its name. Raises WeightsError as `read` does."""
    names = ", ".join(found) or "none"
    if take is not None:
        if take not in found:
            raise WeightsError(f"{path} holds no set of weights named {take!r}; it holds: {names}")
        return take, found[take]
    if not found:
        raise WeightsError(
            f"{path} holds {_not_flat(content)}; give a flat dict of tensors, a network's state_dict()"
        )
    averages = [name for name in found if not set(AVERAGES).isdisjoint(name.split("."))]
    preferred = averages or list(found)
    if len(preferred) > 1:
        raise WeightsError(
            f"{path} holds several sets of weights: {names}; choose one, with --take NAME of `bcos-zoo "
            "weights convert`, or as pretrained_cfg_overlay={'state_dict': state_dicts.read(FILE, take=NAME)}"
        )
    return preferred[0], found[preferred[0]]


def sha256(state_dict: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors: over name, dtype, shape and bytes of each, in alphabetical order of names.

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
    """The tensors of a published file under the network's own names, whatever wrappers the file names.

    names: the network's own keys. What torch.compile, DDP and FSDP put into names is removed. As long as no
    key is one of the network's, the prefix of a holder is removed too: "model." and the like (a Lightning
    module, and in it the wrapper of the B-cosified networks), then "0." (v1 networks and the v2 ViTs were the
    first element of a Sequential). Moving averages are preferred to the weights beside them. "clip_model.",
    the teacher of the B-cosified CLIP, is left out.
    """
    state_dict = {key: value for key, value in state_dict.items() if key not in COUNTS - set(names)}
    flat = {_bare(key): value for key, value in state_dict.items()}
    if len(flat) < len(state_dict):
        raise WeightsError("the file has two tensors for one name, with and without 'module.'; give one set")
    while flat.keys().isdisjoint(names):
        held = [prefix for prefix in (*HOLDERS, "0.") if any(key.startswith(prefix) for key in flat)]
        if not held:
            return flat
        prefix, *others = held
        others = [other for other in others if other in AVERAGED] if prefix in AVERAGED else []
        if others:
            raise WeightsError(f"the file has several sets of weights: {', '.join(held)}; give one of them")
        average = prefix in AVERAGED
        flat = {
            _bare(key.removeprefix(prefix)): value
            for key, value in flat.items()
            if not key.startswith("clip_model.") and (not average or key.startswith(prefix))
        }
    return {_own_name(key, names, flat): value for key, value in flat.items()}


def _own_name(key: str, names: Collection[str], beside: Collection[str]) -> str:
    """The network's own name for a key that still has a holder's prefix, though others have none."""
    bare = key
    while bare not in names:
        prefix = next((one for one in HOLDERS if bare.startswith(one)), None)
        if prefix is None:
            return key
        bare = _bare(bare.removeprefix(prefix))
    return key if bare in beside else bare


def _bare(key: str) -> str:
    """A key without the parts that wrappers add to it."""
    key = re.sub(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.", "", key)
    while key.startswith("module."):
        key = key.removeprefix("module.")
    return key


def check_fit(
    state_dict: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    name: str,
    *,
    spare: Collection[str] = (),
    most: int | None = 10,
) -> None:
    """Raise WeightsError unless the tensors fit a network, by name, shape and kind of number.

    own: the network's state dict. name: of the network, for the error.
    spare: names that may be missing or have any shape. most: how many names to list per fault; None for all.
    """
    missing = sorted(own.keys() - state_dict.keys() - set(spare))
    surplus = sorted(state_dict.keys() - own.keys() - set(spare))
    shapes = [
        f"{key} {tuple(state_dict[key].shape)} for {tuple(value.shape)}"
        for key, value in own.items()
        if key in state_dict and key not in spare and state_dict[key].shape != value.shape
    ]
    kinds = [
        f"{key} {_kind(state_dict[key])} for {_kind(value)}"
        for key, value in own.items()
        if key in state_dict and key not in spare and _other_kind(state_dict[key], value)
    ]
    faults = []
    if missing or surplus:
        faults += [_count(missing, "missing", most), _count(surplus, "surplus", most)]
    if shapes:
        faults += [_count(shapes, "of another shape", most)]
    if kinds:
        faults += [_count(kinds, "of another kind of number", most)]
    if faults:
        raise WeightsError(f"the file is not of {name}: {', '.join(faults)}; give a file of this network")


def _other_kind(given: Tensor, own: Tensor) -> bool:
    """Whether loading would drop imaginary parts, or put integers into weights. Counts may be of any kind."""
    return given.is_complex() or (own.is_floating_point() and not given.is_floating_point())


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def save(
    state_dict: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a .safetensors file, which gets its name only when complete and replaces an older one.

    Tensors are written contiguously and separately, even if they share memory.
    metadata: texts for the file's header.

    Raises InputError for another suffix or anything but a flat dict of tensors, WeightsError if the file
    cannot be written.
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
    """What is wrong with an object that should be a flat dict of tensors; None if nothing is."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    if not content:
        return "an empty dict"
    others = [repr(k) for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if not others:
        odd = [f"{key} is {kind}" for key, value in content.items() if (kind := _no_numbers(value))]
        return f"no numbers to take as they are: {', '.join(odd[:3])}" if odd else None
    return f"entries that are not named tensors ({', '.join(others[:3])}{', ...' if others[3:] else ''})"


def _no_numbers(value: Tensor) -> str | None:
    if value.is_meta:
        return "on the meta device"
    if value.is_quantized:
        return "quantised"
    return None if value.layout is torch.strided else "sparse"


def _count(keys: list[str], fault: str, most: int | None) -> str:
    more = ", ..." if most is not None and keys[most:] else ""
    return f"{len(keys)} {fault}" + (f" ({', '.join(keys[:most])}{more})" if keys else "")
