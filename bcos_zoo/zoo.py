"""From names to networks: which exist, and how to get one."""

from __future__ import annotations

import fnmatch
import math
import os
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
from timm.models import split_model_name_tag
from torch import nn

from . import weights
from ._version import __version__
from .errors import BcosZooError, InputError, UnknownModelError, WeightsError, closest
from .files import is_file, is_folder, writing
from .models._build import SOURCES, own_names
from .models.interface import Network
from .weights import checksums, config_json, manifest, state_dicts

PREFIX = "bcos_"


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names of all architectures, or of all checkpoints (`architecture.tag`) if `pretrained`; natural order.

    pattern: shell wildcards, as in timm: without a dot it is matched against the architecture alone. A
    pattern that matches nothing that way is matched against full names of checkpoints, with their tags.

    ```python
    import bcos_zoo

    assert "bcos_resnet50" in bcos_zoo.list_models("bcos_res*")
    assert "bcos_resnet20.cifar10" in bcos_zoo.list_models(pretrained=True)
    ```
    """
    if not isinstance(pattern, (str, list, tuple)):
        raise InputError(f"the pattern is a {type(pattern).__name__}; allowed are texts such as 'bcos_res*'")
    names = [name for name in timm.list_models(pattern, pretrained=pretrained) if name.startswith(PREFIX)]
    if names or not isinstance(pattern, str):
        return names
    return [] if pretrained else checkpoint_names(pattern)


def check_name(name: str) -> None:
    """Raise UnknownModelError unless `name` is an architecture or a checkpoint of this zoo."""
    architecture, tag = split_model_name_tag(name)
    architectures = list_models()
    if architecture not in architectures:
        near = closest(architecture, architectures)
        raise UnknownModelError(f"no model named {name!r}; closest: {near}. `bcos-zoo list` shows all")
    tags = [checkpoint.tag for checkpoint in manifest.checkpoints(architecture)]
    if tag and tag not in tags:
        known = ", ".join(f"{architecture}.{known}" for known in tags)
        raise UnknownModelError(
            f"no checkpoint named {name!r}; known: {known or f'none; {architecture} has no weights yet'}"
        )


def resolve(name: str | os.PathLike[str]) -> str:
    """A name as timm takes it: a folder that holds config.json becomes `local-dir:PATH`, other names stay.

    A known network wins over a folder of the same name. Raises UnknownModelError for a path that does not
    exist, WeightsError for a folder without config.json and for a file, InputError for an invalid name.
    """
    if not isinstance(name, (str, os.PathLike)):
        hint = ": a network of your own becomes a classifier by bcos_zoo.Classifier(model, class_names)"
        raise InputError(
            f"the name is a {type(name).__name__}; allowed are names and folders"
            + (hint if isinstance(name, nn.Module) else "")
        )
    name = os.fspath(name)
    path = Path(name)
    if not name or name.startswith(config_json.ELSEWHERE) or _is_known(name):
        return name
    if is_file(path / config_json.NAME):
        return f"local-dir:{path}"
    if is_folder(path):
        raise WeightsError(
            f"{name} is a folder without config.json; give one that `bcos-zoo finetune`, `train` or `export` "
            "wrote"
        )
    if is_file(path):
        raise WeightsError(_of_file(path))
    if len(path.parts) > 1:
        raise UnknownModelError(
            f"no folder at {name}; give one that holds config.json, or hf-hub:{name} if it is a repository"
        )
    return name


def _of_file(path: Path) -> str:
    """What to do about a file given in place of a name."""
    if is_file(path.parent / config_json.NAME):
        return f"{path} is a file; give its folder, which holds config.json: {path.parent}"
    return (
        f"{path} is a file, which does not say of which network it is: bcos_zoo.create_model(NAME, "
        f"pretrained=True, pretrained_cfg_overlay={{'file': {str(path)!r}}}) loads it, and bcos_zoo.export("
        "bcos_zoo.Classifier(model, class_names), FOLDER) makes a folder that all verbs take"
    )


def _is_known(name: str) -> bool:
    try:
        check_name(name)
    except UnknownModelError:
        return False
    return True


def find_checkpoint(name: str) -> manifest.Checkpoint:
    """The manifest's record of a checkpoint, or of an architecture's default. Raises UnknownModelError."""
    check_name(name)
    architecture, tag = split_model_name_tag(name)
    if tag:
        return manifest.get(name)
    if default := manifest.default(architecture):
        return default
    others = ", ".join(checkpoint.name for checkpoint in manifest.checkpoints(architecture))
    hint = (
        f"name one of its other forms: {others}" if others else "`bcos-zoo list --pretrained` shows what has"
    )
    raise UnknownModelError(f"{name} has no pretrained weights; {hint}")


def checkpoint_names(pattern: str = "*") -> list[str]:
    """Names of all checkpoints of the manifest, in its order, including those to be got by hand.

    pattern: shell wildcards for the name or, without a dot, the architecture; case does not matter.
    """
    wanted = pattern.lower()
    return [
        one.name
        for one in manifest.checkpoints()
        if fnmatch.fnmatchcase(one.name.lower(), wanted) or fnmatch.fnmatchcase(one.architecture, wanted)
    ]


def overview(names: Iterable[str]) -> list[dict[str, Any]]:
    """For each checkpoint: name, params, its first score in percent, licence of the weights, and where it is.

    where: "here" (part of the package, or in a cache), "download" or "by hand" (address or sha256 unknown).
    Nothing is looked up online.
    """
    found = []
    here = {record.name for record in weights.cached()}
    for name in names:
        record = manifest.get(name)
        score = next((metric for metric in record.metrics if metric.name == "top1"), None)
        file = record.file
        fetchable = file is not None and file.digest is not None and file.where is not None
        found.append(
            {
                "name": name,
                "params": record.params,
                "top1": score and score.value,
                "dataset": score and score.dataset,
                "licence": record.licence.weights,
                "where": "here" if name in here else "download" if fetchable else "by hand",
            }
        )
    return found


def best_embedded() -> str:
    """The checkpoint that is used when none is named: it comes with bcos_zoo and needs no download.

    Among those with classes and an exact explanation, the one with the largest input, then the most accurate.
    Raises UnknownModelError if none comes with this bcos_zoo.
    """
    ours = [
        one
        for one in manifest.checkpoints()
        if one.file and isinstance(one.file.where, manifest.Packaged) and one.file.where.path.is_file()
        if one.classes.labels and one.explanation
    ]
    if not ours:
        raise UnknownModelError("no checkpoint comes with this bcos_zoo; name one with --model")

    def rank(one: manifest.Checkpoint) -> tuple[int, float]:
        top1 = [metric.value for metric in one.metrics if metric.name == "top1"]
        return math.prod(one.preprocessing.input_size[1:]), max(top1, default=0.0)

    return max(ours, key=rank).name


def describe(name: str) -> dict[str, Any]:
    """What is known about an architecture or checkpoint, as plain data. Raises UnknownModelError."""
    check_name(name)
    architecture, tag = split_model_name_tag(name)
    model = timm.create_model(name, device="meta")
    document: dict[str, Any] = {
        "name": name,
        "architecture": architecture,
        "description": (timm.model_entrypoint(architecture).__doc__ or "").strip(),
        "params": sum(p.numel() for p in model.parameters()),
        "input_size": list(model.pretrained_cfg["input_size"]),
    }
    if tag:
        (where,) = overview([name])
        return document | {"checkpoint": asdict(manifest.get(name)), "where": where["where"]}
    return document | {"checkpoints": [checkpoint.name for checkpoint in manifest.checkpoints(architecture)]}


def create_model(name: str | os.PathLike[str], *, pretrained: bool = False, **kwargs: Any) -> Network:
    """`timm.create_model` for the networks of this zoo: the same object, in eval mode.

    name: `architecture`, `architecture.tag`, timm's `hf-hub:org/name` and `local-dir:PATH`, or just PATH.
    kwargs: whatever timm.create_model and the network take (num_classes, in_chans, drop_path_rate, ...).
    Raises UnknownModelError, and WeightsError if the checkpoint cannot be had or does not fit.

    ```python
    import bcos_zoo

    model = bcos_zoo.create_model("bcos_resnet20.cifar10", pretrained=True)
    assert not model.training and model.num_classes == 10
    ```
    """
    name = resolve(name)
    if name.startswith(config_json.ELSEWHERE):
        return _create_from_elsewhere(name, pretrained, kwargs)
    check_name(name)
    own_source = SOURCES & (kwargs.get("pretrained_cfg_overlay") or {}).keys()
    if pretrained and not own_source:
        name = find_checkpoint(name).name
    model: Network = timm.create_model(name, pretrained=pretrained, **kwargs)
    return model.eval()


def _create_from_elsewhere(name: str, pretrained: bool, kwargs: dict[str, Any]) -> Network:
    source = config_json.read(name, kwargs.get("cache_dir"))
    if source.architecture not in list_models():
        raise WeightsError(
            f"{name} is of {source.architecture!r}, no network of this zoo: `bcos-zoo list` shows all; "
            "timm.create_model loads those of timm"
        )
    try:
        model: Network = timm.create_model(source.name, pretrained=pretrained, **kwargs)
    except BcosZooError:
        raise
    except Exception as error:  # exceptions of timm, the Hub's client and the readers have no common base
        unknown = re.search(r"argument '(\w+)'", str(error)) if isinstance(error, TypeError) else None
        if unknown and unknown[1] in kwargs:
            raise  # the caller's
        raise config_json.unloadable(name, error) from None
    return model.eval()


def convert(
    source: str | os.PathLike[str],
    name: str,
    target: str | os.PathLike[str] = ".",
    *,
    take: str | None = None,
    force: bool = False,
) -> Path:
    """Write the weights of a published file, in whatever layout, as a .safetensors file of our own.

    source: a file that `state_dicts.read` reads. name: the checkpoint, or the architecture, whose
    weights it holds. target: the file to write, or a folder for a file `<name>.safetensors`.
    take: which of several sets of weights, as in `state_dicts.read`. force: replace an existing file.

    Returns the path written. Its tensors are those of the source, under the names of the network; its header
    says which network, the sha256 of the source, and the version of bcos_zoo.
    Raises UnknownModelError; InputError for a target that exists, does not end in .safetensors, or has a name
    that the disk does not allow;
    WeightsError if the file belongs to another network, naming all tensors that are missing, surplus or of
    another shape, and as `state_dicts.read` and `state_dicts.save` do.
    """
    check_name(name)
    path = Path(target)
    if is_folder(path):
        path /= f"{name}.safetensors"
    with writing(path, "give another name"):
        if path.exists() and not force:
            raise InputError(f"{path} is there already; give another name, or --force to replace it")
    model = timm.create_model(name, device="meta")
    own, state_dict = model.state_dict(), own_names(state_dicts.read(source, take), model)
    state_dicts.check_fit(state_dict, own, name, most=None)
    header = {"name": name, "source_sha256": checksums.sha256(source), "bcos_zoo": __version__}
    state_dicts.save({key: state_dict[key] for key in own}, path, header)
    return path
