"""Which keys of a recipe work only where others are set, or only on some images: none is silently ignored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any

from ..data import Task
from ..data.stream import Stream
from ..errors import InputError
from .recipe import Recipe

STEPPED = ("step", "wsd", "rsqrt")  # schedules with decay_epochs
RATED = ("step", "multistep", "poly")  # with decay_rate
FALLING = ("cosine", "tanh", "poly", "wsd", "rsqrt")  # with an end at min_lr


@dataclass(frozen=True)
class Needs:
    """When a key has an effect. said: the condition in words."""

    key: str  # "table.key"
    works: Callable[[Recipe], bool]
    said: str


@dataclass(frozen=True)
class NeedsOfTask:
    """The same for keys that depend on the images."""

    key: str
    works: Callable[[Recipe, Task], bool]
    said: str


def _mixes(r: Recipe) -> bool:
    return bool(r.augment.mixup or r.augment.cutmix)


def _taught(r: Recipe) -> bool:
    return bool(r.teacher.name)


def _labelled(r: Recipe) -> bool:
    return not _taught(r) or r.teacher.labels > 0


TEACHERS = ("weights", "args", "answers", "temperature", "features", "hints", "labels", "classes")
RULES = (
    *(Needs(f"teacher.{key}", _taught, "with teacher.name") for key in TEACHERS),
    Needs("teacher.temperature", lambda r: r.teacher.answers > 0, "with teacher.answers"),
    Needs("loss.off_label", _labelled, "with teacher.labels"),
    Needs("loss.smoothing", _labelled, "with teacher.labels"),
    Needs("model.head", lambda r: r.model.pretrained, "with model.pretrained"),
    Needs("model.weights", lambda r: r.model.pretrained, "with model.pretrained"),
    Needs("conversion.constants_epochs", lambda r: r.conversion.constants < 1, "with conversion.constants"),
    Needs("conversion.b_epochs", lambda r: r.conversion.b_from is not None, "with conversion.b_from"),
    Needs(
        "data.labels",
        lambda r: _taught(r) and r.teacher.labels == 0 and r.teacher.classes == "teacher",
        "with teacher.name, teacher.labels=0 and teacher.classes='teacher'",
    ),
    Needs("data.fold", lambda r: r.data.folds is not None, "with data.folds"),
    Needs("data.val_share", lambda r: r.data.folds is None, "without data.folds"),
    Needs("augment.scale", lambda r: r.augment.crop == "resized", "with augment.crop='resized'"),
    Needs("augment.ratio", lambda r: r.augment.crop == "resized", "with augment.crop='resized'"),
    Needs("augment.shift", lambda r: r.augment.crop == "shift", "with augment.crop='shift'"),
    Needs("augment.mixup_prob", _mixes, "with augment.mixup or augment.cutmix"),
    Needs(
        "augment.mixup_switch_prob",
        lambda r: bool(r.augment.mixup and r.augment.cutmix),
        "with augment.mixup and augment.cutmix",
    ),
    Needs("optimizer.clip_mode", lambda r: r.optimizer.clip is not None, "with optimizer.clip"),
    Needs("optimizer.warmup_factor", lambda r: r.optimizer.warmup_epochs > 0, "with optimizer.warmup_epochs"),
    Needs(
        "optimizer.warmup_epochs",
        lambda r: r.optimizer.schedule != "none",
        "with a schedule ('constant' keeps rates)",
    ),
    Needs(
        "optimizer.by_epoch",
        lambda r: r.optimizer.schedule != "none",
        "with a schedule ('constant' keeps rates)",
    ),
    Needs("optimizer.layer_decay", lambda r: r.model.train != "head", "where more than the head learns"),
    Needs(
        "optimizer.min_lr",
        lambda r: r.optimizer.schedule in FALLING,
        f"with optimizer.schedule of {', '.join(FALLING)}",
    ),
    Needs(
        "optimizer.milestones",
        lambda r: r.optimizer.schedule == "multistep",
        "with optimizer.schedule='multistep'",
    ),
    Needs(
        "optimizer.decay_epochs",
        lambda r: r.optimizer.schedule in STEPPED,
        f"with optimizer.schedule of {', '.join(STEPPED)}",
    ),
    Needs(
        "optimizer.decay_rate",
        lambda r: r.optimizer.schedule in RATED,
        f"with optimizer.schedule of {', '.join(RATED)}",
    ),
    Needs("optimizer.ema_every", lambda r: bool(r.optimizer.ema_decay), "with optimizer.ema_decay"),
    Needs(
        "run.monitor",
        lambda r: r.run.keep_best or r.run.patience is not None,
        "with run.keep_best or run.patience",
    ),
    Needs("run.snapshot_every", lambda r: r.run.snapshots > 0, "with run.snapshots"),
)

TASK_RULES = (
    NeedsOfTask("data.val_share", lambda r, t: t.drawn, "where the set has no validation part"),
    NeedsOfTask("data.seed", lambda r, t: t.drawn, "where the set has no validation part"),
    NeedsOfTask("loss.off_label", lambda r, t: not t.multilabel, "with one label an image"),
    NeedsOfTask(
        "loss.off_label",
        lambda r, t: t.multilabel or r.model.args.get("num_classes", len(t.class_names)) > 1,
        "with an output for each class",
    ),
    NeedsOfTask(
        "augment.repeats", lambda r, t: not isinstance(t.train, Stream), "on sets that are no streams"
    ),
    NeedsOfTask("data.check", lambda r, t: not isinstance(t.train, Stream), "on sets that are no streams"),
)

ALWAYS = frozenset(  # keys that always have an effect, or that are refused elsewhere when they have none
    {
        *("model.name", "model.pretrained", "model.train", "model.args", "teacher.name"),
        *("conversion.constants", "conversion.b_from", "conversion.estimate"),
        *(
            "data.input_size",
            "data.val_size",
            "data.crop_pct",
            "data.folds",
            "data.group",
            "data.train_split",
        ),
        *(
            "data.val_split",
            "data.image_key",
            "data.label_key",
            "data.root",
            "data.download",
            "data.balanced",
        ),
        *("data.bad_share", "data.workers", "data.cache"),
        *("augment.crop", "augment.hflip", "augment.vflip", "augment.color_jitter", "augment.auto"),
        *("augment.erase", "augment.mixup", "augment.cutmix"),
        *("loss.kind", "loss.class_weights"),
        *("optimizer.name", "optimizer.lr", "optimizer.weight_decay", "optimizer.clip", "optimizer.schedule"),
        *("optimizer.head_lr", "optimizer.relative", "optimizer.ema_decay", "optimizer.args"),
        *(
            "run.epochs",
            "run.minutes",
            "run.batch_size",
            "run.accumulate",
            "run.seed",
            "run.precision",
            "run.device",
        ),
        *("run.compile", "run.channels_last", "run.synchronise", "run.shard", "run.validate_every"),
        *("run.save_minutes", "run.save_steps", "run.keep", "run.patience", "run.keep_best", "run.trackers"),
        "run.snapshots",
    }
)


# What reads the labels of the training images: a run without labels must not.
READING = {"model.head": "fitted", "loss.class_weights": "balanced", "data.balanced": True}


def check(recipe: Recipe, task: Task | None = None) -> None:
    """Raise InputError for keys that differ from their defaults and would have no effect, all at once.

    So it does for keys that would read labels where the recipe says to learn without them. task: the images,
    if they are known.
    """
    if not _labelled(recipe):
        reading = [f"{key}={value!r}" for key, value in READING.items() if value_of(recipe, key) == value]
        if reading:
            raise InputError(
                f"teacher.labels=0.0 learns without labels, and {', '.join(reading)} would read them: leave "
                "one of them out"
            )
    _check_course(recipe)
    idle = [(rule.key, rule.said) for rule in RULES if not rule.works(recipe)]
    if task is not None:
        idle += [(rule.key, rule.said) for rule in TASK_RULES if not rule.works(recipe, task)]
    said = [
        f"{key}={value_of(recipe, key)!r} has an effect only {why}"
        for key, why in idle
        if value_of(recipe, key) != default_of(recipe, key)
    ]
    if said:
        raise InputError(f"{'; '.join(dict.fromkeys(said))}: leave it out, or change the other")


def _check_course(recipe: Recipe) -> None:
    """Raise InputError for a conversion that would not come to its end, or whose scores would mislead."""
    course, run = recipe.conversion, recipe.run
    faults = []
    if course.constants_epochs is not None and course.constants_epochs > run.epochs:
        faults.append(
            f"conversion.constants_epochs={course.constants_epochs!r} of run.epochs={run.epochs}: constants "
            "would be left; give no more epochs than the run has"
        )
    if course.b_from is not None and course.b_epochs >= run.epochs:
        faults.append(
            f"conversion.b_epochs={course.b_epochs} of run.epochs={run.epochs}: nothing would learn with the "
            "network's own exponent; give fewer"
        )
    judging = {"run.keep_best=True": run.keep_best, f"run.patience={run.patience}": run.patience is not None}
    if course.b_from is not None and (named := [key for key, given in judging.items() if given]):
        faults.append(
            f"conversion.b_from={course.b_from!r} with {' and '.join(named)}: scores of early epochs are of "
            "another function than the one that learns then; leave one of them out"
        )
    if faults:
        raise InputError("; ".join(faults))


def value_of(recipe: Recipe, key: str) -> Any:
    """The value of "table.key" in a recipe."""
    table, name = key.split(".")
    return getattr(getattr(recipe, table), name)


def default_of(recipe: Recipe, key: str) -> Any:
    """The default of "table.key"."""
    table, name = key.split(".")
    found = next(one for one in fields(getattr(recipe, table)) if one.name == name)
    return found.default if found.default_factory is MISSING else found.default_factory()
