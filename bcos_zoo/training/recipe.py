"""What a run is made of: TOML tables of the same names as the dataclasses here, and no other keys."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, get_args, get_type_hints

from ..data import Augment, bounds
from ..errors import InputError, closest
from ..extras import required
from ..files import as_text, is_text
from .course import Course
from .distillation import Teacher
from .losses import Loss

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRECISIONS = ("float32", "bfloat16", "float16")
HEADS = ("random", "kept", "fitted")
CLIPS = ("agc", "norm", "value")  # timm's
STRICT = {"extra": "forbid", "strict": True}  # pydantic's settings for reading a recipe


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network.

    name: an architecture or a checkpoint, as `--model` takes it, or any architecture of timm's.
    pretrained: begin with the weights of the checkpoint, or the architecture's default one.
    weights: a file to take them from instead.
    head: how the classifier begins: "random"; "kept", with the checkpoint's rows of the classes, all of which
    it must know by name; or "fitted": if there are classes that it does not know, fitted to its features
    before the first step. With the latter two the network is measured as epoch 0, too.
    train: "full"; "head", only the classifier (linear probe); or "from:LAYER", that layer and all after it.
    args: arguments of the architecture, such as drop_path_rate.
    """

    name: str
    pretrained: bool = False
    weights: str | None = None
    head: str = "random"
    train: str = "full"
    args: dict[str, Any] = field(default_factory=dict)
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise InputError(f"model.head={self.head!r}: allowed are {', '.join(HEADS)}")
        outputs = self.args.get("num_classes", 1)
        if not isinstance(outputs, int) or outputs < 1:
            raise InputError(f"model.args.num_classes={outputs!r}: allowed are whole numbers, 1 and more")


@dataclass(frozen=True, kw_only=True)
class Data:
    """The images.

    input_size: pixels a side of a training crop; that of the network's card unless given.
    val_size: pixels a side of a validation image, and of the finished network; input_size unless given.
    crop_pct: the share of the resized validation image, a side, that the crop keeps; the card's unless given.
    val_share: the share that is held out for validation of a set that comes without a split.
    folds, fold: hold out one of so many equal parts instead; fold says which, from 0.
    seed: of what is held out, whatever the seed of the run.
    group: images of one group stay on one side of the split: a column of a CSV or of Hugging Face's, or a
    pattern on paths, such as 'patient(\\d+)'.
    train_split, val_split, image_key, label_key: names of the parts and columns of a Hugging Face data set.
    root, download: where torchvision's sets are, and whether to fetch them there.
    balanced: draw all classes equally often.
    labels: whether the images have labels; without them, every image below a folder counts, and is measured
    by what the teacher answers.
    check: decode every image once before the first step.
    bad_share: the largest share of unreadable images to go on with.
    workers: how many processes load images.
    cache: keep decoded images in memory.
    """

    input_size: int | None = None
    val_size: int | None = None
    crop_pct: float | None = None
    val_share: float = 0.2
    folds: int | None = None
    fold: int = 0
    seed: int = 42
    group: str | None = None
    train_split: str = "train"
    val_split: str | None = None
    image_key: str = "image"
    label_key: str = "label"
    root: str | None = None
    download: bool = False
    balanced: bool = False
    labels: bool = True
    check: bool = True
    bad_share: float = 0.01
    workers: int = 1
    cache: bool = False
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        faults = bounds.faults("data", vars(self))
        if self.folds is not None and not faults and self.fold >= self.folds:
            faults.append(f"data.fold={self.fold} of {self.folds} folds: it counts from 0")
        _refuse(faults)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How weights change: timm's optimisers, schedules and clippings.

    name: one of timm's optimisers.
    lr: the learning rate at its highest, after the warm-up.
    head_lr: the rate of the classifier; lr unless given.
    relative: rates are shares of a weight's size, its root mean square before the first step: with Adam and
    its kind, long rows and short ones, of few elements or many, turn equally fast. Optimisers whose steps
    depend on size or shape by themselves, such as lamb with weight decay, are refused.
    weight_decay: of the weights of linear maps; gains of norms and layer scales have none.
    layer_decay: factor on the rate from each level of the network to the one before it.
    clip, clip_mode: the limit of gradients (none unless given), and how it is meant: "agc" (adaptive), "norm"
    or "value".
    schedule: one of timm's, but "plateau".
    warmup_epochs, warmup_factor: the rate rises over so many epochs, from warmup_factor * lr.
    min_lr: the rate at the end of the schedule.
    by_epoch: rates change after epochs, not steps.
    milestones, decay_epochs, decay_rate: of the schedules that have such: epochs, epochs, a factor.
    ema_decay: of a moving average of the weights, which is validated and kept in their place.
    ema_every: how many steps lie between two updates of that average.
    args: more arguments of the optimiser, such as momentum.
    """

    name: str = "adam"
    lr: float = 1e-3
    head_lr: float | None = None
    relative: bool = False
    weight_decay: float = 0.0
    layer_decay: float | None = None
    clip: float | None = None
    clip_mode: str = "agc"
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    warmup_factor: float = 0.01
    min_lr: float = 0.0
    by_epoch: bool = False
    milestones: tuple[int, ...] = ()
    decay_epochs: float = 30.0
    decay_rate: float = 0.1
    ema_decay: float | None = None
    ema_every: int = 1
    args: dict[str, Any] = field(default_factory=dict)
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        faults = bounds.faults("optimizer", vars(self))
        if self.clip_mode not in CLIPS:
            faults.append(f"optimizer.clip_mode={self.clip_mode!r}: allowed are {', '.join(CLIPS)}")
        if self.schedule == "plateau":
            faults.append("optimizer.schedule='plateau' follows scores, not steps; take another of timm's")
        _refuse(faults)


@dataclass(frozen=True, kw_only=True)
class Run:
    """How it runs.

    epochs: passes over the training images.
    minutes: a budget of time: the run ends within so many minutes of its start, the last validation and the
    page included, with fewer epochs if need be, and the schedule of the rates is shortened to them. How far
    it gets depends on the machine.
    batch_size: images of an optimiser step, over all processes and accumulated parts.
    accumulate: into how many parts a step is split, to use less memory.
    seed: of the order of the images, their augmentation, and weights that begin at random.
    device: "auto", "cpu", "cuda", "cuda:1", "mps"; a resumed run may take another.
    precision: of the products in the network: "float32", "bfloat16" or "float16".
    compile: run the network through torch.compile while it trains.
    channels_last: keep images and weights in that memory format, with which some machines are faster.
    synchronise: batch norms learn from the batch of all processes together.
    shard: weights, gradients and the optimiser's state are shared out over the processes (FSDP), for networks
    that do not fit otherwise.
    validate_every: epochs from one validation to the next.
    save_minutes, save_steps: between two states (0: no such limit); one more follows each epoch.
    keep: how many states are kept.
    monitor: the score that says which epoch is best; top1 unless given, or map for several labels.
    patience: how many epochs without a better one end the run; no limit unless given.
    keep_best: the finished network is that of the best epoch, not of the last.
    trackers: accelerate's, such as "tensorboard", "wandb".
    snapshots, snapshot_every: how many validation images are explained, and every how many epochs.
    """

    epochs: int
    minutes: float | None = None
    batch_size: int = 128
    accumulate: int = 1
    seed: int = 42
    device: str = "auto"
    precision: str = "float32"
    compile: bool = False
    channels_last: bool = False
    synchronise: bool = True
    shard: bool = False
    validate_every: int = 1
    save_minutes: float = 5.0
    save_steps: int = 0
    keep: int = 2
    monitor: str = ""  # "": top1, or map for several labels
    patience: int | None = None
    keep_best: bool = False
    trackers: tuple[str, ...] = ("tensorboard",)
    snapshots: int = 8
    snapshot_every: int = 1
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        faults = bounds.faults("run", vars(self))
        if self.precision not in PRECISIONS:
            faults.append(f"run.precision={self.precision!r}: allowed are {', '.join(PRECISIONS)}")
        if self.shard and self.precision == "float16":
            faults.append("run.shard=true with run.precision='float16'; take 'bfloat16' or 'float32'")
        _refuse(faults)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about a run except the images and the folder."""

    model: Model
    run: Run
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    teacher: Teacher = field(default_factory=Teacher)
    conversion: Course = field(default_factory=Course)
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT


def _refuse(faults: list[str]) -> None:
    if faults:
        raise InputError("; ".join(faults))


def read(path: str | Path, changes: Iterable[str] = ()) -> Recipe:
    """The recipe of a TOML file. changes: texts such as "optimizer.lr=1e-3", which win over the file.

    Raises InputError if the file is missing or broken, for unknown or missing keys, and for values that do
    not fit, all of them at once.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(f"{path}: {why}; give a TOML file such as those in configs/") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:  # the latter from brackets without end
        raise InputError(f"{path}: not TOML: {error}") from error
    return parse(changed(raw, changes), where=str(path))


def changed(raw: Mapping[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """Tables with some values replaced; those given stay as they are.

    changes: "table.key=value", the value as TOML has it, or plain text. "none" takes a value away from a key
    that may be without one, such as optimizer.clip.
    Raises InputError for a text of another form, and for a key inside something that is no table.
    """
    tables: dict[str, Any] = copy.deepcopy(dict(raw))
    for text in changes:
        name, equals, value = text.partition("=")
        *outer, last = keys = name.strip().split(".")
        if not equals or not outer or not all(keys):
            raise InputError(f"--set {text}: give table.key=value, such as optimizer.lr=1e-3")
        place: Any = tables
        for depth, key in enumerate(outer, 1):
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise InputError(
                    f"--set {text}: {'.'.join(keys[:depth])} is {place!r:.40}, which has no keys; set "
                    "it as a whole, or leave this out"
                )
        place[last] = _value(value.strip(), keys)
    return tables


def _value(text: str, keys: list[str]) -> Any:
    """What a text of --set stands for: a value of TOML's, nothing at all, or the text itself."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (tomllib.TOMLDecodeError, RecursionError):  # text without its quotes
        return None if text == "none" and ".".join(keys) in optional() else text


def optional() -> frozenset[str]:
    """The keys, as "table.key", that may have no value: then they are left out of a file."""
    return frozenset(
        f"{table}.{key}"
        for table, part in TABLES.items()
        for key, kind in get_type_hints(part).items()
        if NoneType in get_args(kind)
    )


def parse(raw: Mapping[str, Any], *, where: str) -> Recipe:
    """A recipe from plain tables. where: what to call them in errors. Raises InputError, as `read` does."""
    pydantic = required("pydantic", "pydantic", "train")
    text = json.dumps(raw, default=str, ensure_ascii=False)
    if not is_text(text):
        value = next(one for one in text.split('"') if not is_text(one))
        raise InputError(
            f"{where}: {as_text(value)!r} is not UTF-8, which no recipe can hold; rename what it names"
        )
    try:
        recipe: Recipe = pydantic.TypeAdapter(Recipe).validate_json(text)
    except pydantic.ValidationError as error:
        faults = [_fault(one) for one in error.errors()]
        named = {one["loc"][:2] for one in error.errors()}
        for table, values in raw.items():  # a table with a fault of another kind was not checked by its class
            if isinstance(values, Mapping) and (table,) not in named:
                unnamed = {key: value for key, value in values.items() if (table, key) not in named}
                faults += bounds.faults(table, unnamed)
        raise InputError(f"{where}: {'; '.join(faults)}") from error
    return recipe


def _fault(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors in our words."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{name} is not given, and has no default"
    if error["type"] == "dataclass_type":
        return f"{name}={error['input']!r:.40} is no table; write [{name}] and its keys below it"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        parts = {one.name: one for one in fields(Recipe)}
        table = error["loc"][0]
        known = list(parts)
        if len(error["loc"]) > 1:
            known = [one.name for one in fields(TABLES[table])]
        close = closest(str(error["loc"][-1]), known, n=1)
        hint = f"known: {', '.join(known)}" if close == "none" else f"did you mean {close}?"
        return f"unknown key {name}; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    return message if error["type"] == "value_error" else f"{name}={error['input']!r:.60}: {message}"


TABLES: dict[str, Any] = {
    "model": Model, "data": Data, "augment": Augment, "loss": Loss, "optimizer": Optimizer,
    "teacher": Teacher, "conversion": Course, "run": Run,
}  # fmt: skip


def to_toml(recipe: Recipe, *, public: bool = False) -> str:
    """A recipe as TOML, every key written; `read` gives it back. What is None is left out.

    public: for others to see: of an absolute path only its last part is written.
    """
    tomli_w = required("tomli_w", "tomli-w", "train")
    tables = {
        name: {key: _public(value) if public else value for key, value in table.items() if value is not None}
        for name, table in asdict(recipe).items()
    }
    text: str = tomli_w.dumps(tables)
    return text


def _public(value: Any) -> Any:
    """A value without the folders of this machine, also inside tables and lists."""
    if isinstance(value, Mapping):
        return {key: _public(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_public(one) for one in value]
    if not isinstance(value, str):
        return value
    scheme, colon, place = value.partition(":") if value.startswith("local-dir:") else ("", "", value)
    path = Path(place)
    return f"{scheme}{colon}…/{path.name}" if path.is_absolute() else value


def with_changes(recipe: Recipe, changes: Iterable[str]) -> Recipe:
    """A recipe with some values replaced, as in `read`."""
    raw = tomllib.loads(to_toml(recipe))
    return parse(changed(raw, changes), where="--set")
