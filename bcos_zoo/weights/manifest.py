"""weights_manifest.json as records: each checkpoint's files, preprocessing, classes, scores, licence, origin.

Only this file reads the manifest; timm's cards, the downloads and the tables are made from its records. The
schema beside this file says what a record may hold. An unknown fact is None.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .. import _startup
from ..errors import InputError, UnknownModelError, WeightsError, closest, reason
from .class_lists import class_list

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent
FILENAME = "weights_manifest.json"
SCHEMA = "schema.json"
MORE = "BCOS_ZOO_MANIFEST"
CROSS_ENTROPY = "CrossEntropy"  # how recipes call the loss of networks whose outputs are a softmax


@dataclass(frozen=True)
class Url:
    """A file on the web."""

    url: str


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository at one commit."""

    repo: str  # organisation/name
    revision: str  # the full commit hash, as a branch could change
    filename: str


@dataclass(frozen=True)
class Packaged:
    """A file that comes with bcos_zoo."""

    packaged: str  # path relative to bcos_zoo/weights

    @property
    def path(self) -> Path:
        return HERE / self.packaged


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine."""

    path: Path  # absolute, or relative to the manifest


Place = Url | HubFile | Packaged | LocalFile


@dataclass(frozen=True)
class WeightsFile:
    """One file that holds the weights of a checkpoint."""

    where: Place | None
    format: str  # "pth", "ckpt" or "safetensors"
    layout: str  # of the keys: "flat", "sequential" or "lightning"
    sha256: str | None  # 64 hex digits
    sha256_prefix: str | None  # the first hex digits, where no more is published
    bytes: int | None

    @property
    def digest(self) -> str | None:
        """What the file's sha256 must start with: the whole, or the published prefix; None if unknown."""
        return self.sha256 or self.sha256_prefix


@dataclass(frozen=True)
class Preprocessing:
    """From an RGB image to the network's input in [0, 1]; sizes in pixels."""

    input_size: tuple[int, int, int]  # (3, H, W)
    resize: int  # shorter side before the crop
    crop: str
    interpolation: str
    encoding: str  # "rgb+inverse" or "rgb"; done by the network itself, not by the transform


@dataclass(frozen=True)
class Classes:
    """What the outputs stand for, in order."""

    count: int
    labels: str | tuple[str, ...] | None  # a list such as "imagenet-1k", or the names; None: embedding


@dataclass(frozen=True)
class Metric:
    """One score."""

    name: str  # "top1" or "top5"
    value: float  # percent
    dataset: str
    kind: str  # "published" or "measured"
    command: str | None  # the command that measured it


@dataclass(frozen=True)
class ExplanationDefaults:
    """The settings with which pictures of this network's explanations look best."""

    smooth: int  # window, pixels
    percentile: float  # in (0, 100], of the lengths: where opacity saturates


@dataclass(frozen=True)
class Licence:
    """Of the code that made the weights, and of the weights: SPDX identifiers, or the terms in words."""

    code: str | None
    weights: str | None


@dataclass(frozen=True)
class TrainingImages:
    """The images that the weights learnt from, whose terms no licence of the weights can widen."""

    name: str | None
    terms: str | None  # what they ask of users


@dataclass(frozen=True)
class Origin:
    """Who made the weights."""

    project: str
    url: str | None
    paper: str | None  # arXiv identifier


@dataclass(frozen=True)
class Checkpoint:
    """One record of the manifest."""

    name: str  # architecture.tag
    architecture: str
    arguments: Mapping[str, Any] = field(hash=False)  # where they differ from the architecture's defaults
    files: tuple[WeightsFile, ...]  # all with the same weights, in different places
    preprocessing: Preprocessing
    classes: Classes
    params: int | None
    metrics: tuple[Metric, ...]
    explanation: ExplanationDefaults | None  # None for conventional networks, which have no exact one
    licence: Licence
    training_images: TrainingImages
    origin: Origin
    recipe: Mapping[str, Any] | str | None = field(hash=False)  # published facts, or the path of our config

    @property
    def tag(self) -> str:
        return self.name.partition(".")[2]

    @property
    def outputs(self) -> str:
        """What turns logits into probabilities, "sigmoid" or "softmax", according to the loss in training.

        Our own recipes and unknown ones are assumed to use binary cross-entropy.
        """
        loss = self.recipe.get("loss") if isinstance(self.recipe, Mapping) else None
        return "softmax" if loss == CROSS_ENTROPY else "sigmoid"

    @property
    def file(self) -> WeightsFile | None:
        """The file to use: the first that has a place, else the first that has a hash."""
        placed = (file for file in self.files if file.where is not None)
        return next(placed, None) or next((file for file in self.files if file.digest), None)


def load(path: str | os.PathLike[str] | None = None) -> Mapping[str, Checkpoint]:
    """All records by name, in the order of the file, which is read once.

    path: a manifest to read instead of bcos_zoo's own. By default, the records of the file that
    BCOS_ZOO_MANIFEST names are added to bcos_zoo's own, and replace those of the same name. So do the records
    of the file that it named when the networks were registered, even if it names another one now.
    Raises InputError if a file is no manifest or does not fit the schema, WeightsError if bcos_zoo's own is
    missing.
    """
    if path is not None:
        return _read(Path(path))
    named = os.environ.get(MORE)
    paths = [*_registered, *([_absolute(named)] if named else [])]
    return _merged(_own_path(), *dict.fromkeys(paths))


def registered() -> Mapping[str, Checkpoint]:
    """`load()`, or only bcos_zoo's own records if the file that BCOS_ZOO_MANIFEST names is no manifest.

    For the import of bcos_zoo, where an error would be a traceback; asking for a checkpoint raises it later.
    """
    named = [name for name in (_startup.MANIFEST, os.environ.get(MORE)) if name]
    try:
        records = _merged(_own_path(), *dict.fromkeys(map(_absolute, named)))
    except InputError:
        return _read(_own_path())
    _registered[:] = dict.fromkeys(map(_absolute, named))
    return records


def checkpoints(architecture: str | None = None) -> tuple[Checkpoint, ...]:
    """All checkpoints, or those of one architecture, in the order of the manifest."""
    return tuple(c for c in load().values() if architecture in (None, c.architecture))


def default(architecture: str) -> Checkpoint | None:
    """The checkpoint that the bare name of an architecture stands for: the first without arguments.

    With arguments, it would be a different network from the architecture's own; only a full name means that.
    """
    return next((c for c in checkpoints(architecture) if not c.arguments), None)


def get(name: str) -> Checkpoint:
    """The checkpoint with the full name `architecture.tag`. Raises UnknownModelError, naming similar ones."""
    known = load()
    if name not in known:
        own = [c for c in known if c.startswith(f"{name}.")]
        raise UnknownModelError(
            f"no checkpoint named {name!r}; closest: {', '.join(own) or closest(name, known)}. "
            "`bcos-zoo list --pretrained` shows all"
        )
    return known[name]


def class_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Names of the classes, in the order of the logits.

    For ImageNet-1k, the first synonym of each synset; "crane" and a few others therefore name two classes.
    Raises InputError if the outputs are not classes.
    """
    labels = checkpoint.classes.labels
    if labels is None:
        raise InputError(
            f"the outputs of {checkpoint.name} are an embedding, without names; "
            "for a classifier on its features create the network with num_classes and train it"
        )
    return class_list(labels) if isinstance(labels, str) else labels


def timm_card(checkpoint: Checkpoint) -> dict[str, Any]:
    """timm's `PretrainedCfg` of a checkpoint, as a dict.

    Mean is 0 and std 1, as the network takes values in [0, 1] and encodes them itself. `classifier` and
    `first_conv` come from the family's file.
    """
    pre, labels = checkpoint.preprocessing, checkpoint.classes.labels
    licence, paper = checkpoint.licence.weights, checkpoint.origin.paper
    card = dict(
        input_size=pre.input_size,
        crop_pct=_crop_pct(min(pre.input_size[1:]), pre.resize),
        crop_mode=pre.crop,
        interpolation=pre.interpolation,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        fixed_input_size=False,
        num_classes=checkpoint.classes.count,
        label_names=None if isinstance(labels, str) else labels,
        license=licence and licence.lower(),  # as timm and the hub write them
        origin_url=checkpoint.origin.url,
        paper_ids=paper and f"arXiv:{paper}",
    )
    where = checkpoint.file.where if checkpoint.file else None
    if isinstance(where, Url):
        card["url"] = where.url
    elif isinstance(where, HubFile):
        card |= dict(hf_hub_id=f"{where.repo}@{where.revision}", hf_hub_filename=where.filename)
    elif isinstance(where, (Packaged, LocalFile)):
        card["file"] = str(where.path)
    return {key: value for key, value in card.items() if value is not None}


def _crop_pct(side: int, resize: int) -> float:
    """A short number p for which timm's floor(side / p) is exactly `resize`.

    That holds for resize <= side / p < resize + 1, so for side / (resize + 1) < p <= side / resize. The
    largest p of d decimals up to side / resize is less than 10^-d below it. So it lies in the interval if
    10^-d is at most the interval's width, side / (resize (resize + 1)): 0.0034 for 224 / 256.
    """
    for digits in range(4, 16):
        unit: int = 10**digits
        below = side * unit // resize
        for steps in (below, below - 1):  # the float nearest to the decimal may be too large
            pct = steps / unit
            if pct > 0 and math.floor(side / pct) == resize:
                return pct
    raise InputError(f"no crop_pct resizes to {resize} pixels for an input of {side}; give sizes of images")


def _own_path() -> Path:
    for folder in (PACKAGE, PACKAGE.parent):  # installed package; checkout
        if (folder / FILENAME).is_file():
            return folder / FILENAME
    raise WeightsError(f"no {FILENAME} in {PACKAGE} or above it; reinstall bcos-zoo")


_registered: list[Path] = []  # what BCOS_ZOO_MANIFEST named when the networks were registered


def _absolute(named: str) -> Path:
    """The path made absolute, as the working directory of the process may change."""
    return Path(named).expanduser().absolute()


@functools.cache
def _merged(*paths: Path) -> Mapping[str, Checkpoint]:
    return MappingProxyType({name: record for path in paths for name, record in _read(path).items()})


@functools.cache
def _read(path: Path) -> Mapping[str, Checkpoint]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a manifest ({reason(error)}); give JSON that fits {HERE / SCHEMA}"
        ) from error
    if path != _own_path():  # our own is checked by the tests
        _check(document, path)
    records = document["checkpoints"].items()
    return MappingProxyType({name: _checkpoint(name, record, path) for name, record in records})


def _check(document: Any, path: Path) -> None:
    """Raise InputError unless a manifest from elsewhere fits the schema."""
    import jsonschema  # here, as it is rarely needed

    schema = json.loads((HERE / SCHEMA).read_text(encoding="utf-8"))
    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(document))
    if fault is not None:
        at = "/".join(map(str, fault.absolute_path)) or "the top"
        raise InputError(f"{path} is not a manifest (at {at}: {fault.message[:200]}); see {HERE / SCHEMA}")
    for name, record in document["checkpoints"].items():
        if record["architecture"] != name.partition(".")[0]:
            raise InputError(
                f"{path}: {name} is a record of {record['architecture']}; its name must begin with its "
                "architecture's"
            )


def _checkpoint(name: str, record: dict[str, Any], path: Path) -> Checkpoint:
    def file(raw: dict[str, Any]) -> WeightsFile:
        return WeightsFile(**raw | {"where": _where(raw["where"], path)})

    pre, classes = record["preprocessing"], record["classes"]
    labels, explanation = classes["labels"], record["explanation"]
    parsed = dict(
        arguments={key: as_tuple(value) for key, value in record["arguments"].items()},
        files=tuple(map(file, record["files"])),
        preprocessing=Preprocessing(**pre | {"input_size": tuple(pre["input_size"])}),
        classes=Classes(**classes | {"labels": as_tuple(labels)}),
        metrics=tuple(Metric(**metric) for metric in record["metrics"]),
        explanation=None if explanation is None else ExplanationDefaults(**explanation),
        licence=Licence(**record["licence"]),
        training_images=TrainingImages(**record["training_images"]),
        origin=Origin(**record["origin"]),
    )
    return Checkpoint(**{"name": name} | record | parsed)


def as_tuple(value: Any) -> Any:
    """A list, as JSON writes a tuple, becomes a tuple; anything else is unchanged."""
    return tuple(value) if isinstance(value, list) else value


def _where(raw: dict[str, str] | None, manifest: Path) -> Place | None:
    if raw is None:
        return None
    if "url" in raw:
        return Url(**raw)
    if "path" in raw:
        return LocalFile(manifest.parent / Path(raw["path"]).expanduser())
    return Packaged(**raw) if "packaged" in raw else HubFile(**raw)
