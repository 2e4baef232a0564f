"""What `bcos-zoo bcosify` does unless told otherwise: convert a network, which then learns from the original.

The numbers are provisional: they have not been compared on several networks yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..conversion.bcos_converted import NAME
from ..conversion.bcosify import check_name
from ..conversion.blurring import has_strides
from ..data import Task
from ..data.unlabelled import class_folders
from ..errors import InputError
from ..files import is_folder
from . import changing, defaults, known_classes, networks, opening, recipe
from .course import Course
from .distillation import Teacher
from .recipe import Model, Optimizer, Recipe, Run

B = 1.5  # between a linear layer and the published B-cos networks
RATE = 1e-2  # by which a step turns a row of weights, at the most
FADING = 0.6  # of all epochs, in which the constants shrink
ESTIMATE = 256  # images


def converting(
    original: str, weights: str | None, *, labels: bool = True, b: float = B, changes: Iterable[str] = ()
) -> Recipe:
    """The recipe, except for what depends on the images; see `for_task`.

    original: a network of timm's with pretrained weights, or one that is trained, by its folder or
    repository. weights: a file of its weights, where they are not to be fetched. labels: whether those of the
    images count; without them all classes of the original are learnt. b: the exponent. changes: as
    `recipe.read`. Raises UnknownModelError for a plain name that timm does not have.
    """
    if ":" not in original and len(Path(original).parts) == 1 and not is_folder(Path(original)):
        check_name(original)
    model = Model(
        name=NAME, pretrained=True, weights=weights, head="fitted" if labels else "kept",
        args={"original": original, "b": b},
    )  # fmt: skip
    wanted = Recipe(
        model=model,
        teacher=Teacher(
            name=original,
            weights=weights,
            features=1.0,
            labels=float(labels),
            classes="task" if labels else "teacher",
        ),  # fmt: skip
        optimizer=Optimizer(name="adam", lr=RATE, relative=True),
        run=Run(epochs=defaults.EPOCHS),  # the last: earlier networks still have constants
    )
    return recipe.with_changes(wanted, changes)


def for_task(wanted: Recipe, task: Task, changes: Iterable[str] = ()) -> Recipe:
    """The recipe with what follows from the images and the original. changes: override these.

    Without batch norms there are no means to fade, nor statistics to estimate; without strides, nothing to
    blur ahead of. Of an original that does not know all classes, each as one of its own, features are learnt
    alone, without answers; of parameters in shards, no features.
    """
    changes = list(changes)
    full = defaults.for_task(wanted, task, changes)
    original = networks.skeleton(full.model.name, _without_classes(full.model))
    model, teacher, course = full.model, full.teacher, Course(constants=0.0)
    if changing.has_statistics(original):
        model = replace(model, args={"centring": "fading"} | model.args)
        course = replace(course, estimate=ESTIMATE)
    if has_strides(original):
        model = replace(model, args={"antialias": "blur"} | model.args)
    if recipe.with_changes(replace(full, conversion=course), changes).conversion.constants < 1:
        course = replace(course, constants_epochs=FADING * full.run.epochs)
    names = known_classes.names_of(original)
    if teacher.classes == "task" and (names is None or not known_classes.all_known(task.class_names, names)):
        teacher = replace(teacher, answers=0.0)
    elif full.run.shard:  # no features can be compared then
        teacher = replace(teacher, features=0.0)
    return recipe.with_changes(replace(full, model=model, teacher=teacher, conversion=course), changes)


def prepared(
    original: str,
    weights: str | None,
    source: str | Path,
    *,
    labels: bool = True,
    b: float = B,
    changes: Iterable[str] = (),
    check: bool = True,
    log: Callable[[str], object] = print,
) -> tuple[Recipe, Task]:
    """The whole recipe, and the images that it is for: what `engine.train` takes.

    original, weights, labels, b, changes: as of `converting`. source: as of `open_task`; without labels also
    any folder of images. Those that are there all the same serve to measure: of whatever is no folder, and of
    a folder all of whose sub-folders are named as classes of the original. check: as of `opening.open_for`.
    """
    changes = list(changes)
    wanted = converting(original, weights, labels=labels, b=b, changes=changes)
    if not labels and not _has_labels(source, wanted):
        changes = ["data.labels=false", *changes]
        wanted = recipe.with_changes(wanted, changes)
    task = opening.open_for(wanted, source, check=check, log=log)
    return for_task(wanted, task, changes), task


def _has_labels(source: str | Path, wanted: Recipe) -> bool:
    if not is_folder(Path(source)):
        return True
    folders = class_folders(source)
    names = known_classes.names_of(networks.skeleton(wanted.model.name, _without_classes(wanted.model)))
    return bool(folders) and names is not None and None not in known_classes.places(folders, names)


def _without_classes(part: Model) -> dict[str, Any]:
    return {key: value for key, value in part.args.items() if key != "num_classes"}


def refuse_another(
    begun: Recipe, original: str, weights: str | None, *, labels: bool | None = None, b: float | None = None
) -> None:
    """Raise InputError unless a run that goes on began with this. labels, b: None where nothing is said."""
    asked = {
        "the original": (begun.model.args.get("original"), original),
        "the file of weights": (begun.model.weights, weights),
        "--labels": (begun.teacher.labels > 0, labels),
        "--b": (begun.model.args.get("b"), b),
    }
    for what, (before, now) in asked.items():
        given = now is not None or what == "the file of weights"
        if given and before != now and not _same_path(before, now):
            raise InputError(
                f"{what} was {before!r} when the run began, and is {now!r} now; resume with the same, or "
                "start anew in another folder"
            )


def _same_path(one: Any, other: Any) -> bool:
    paths = [Path(value) for value in (one, other) if isinstance(value, str)]
    return len(paths) == 2 and all(path.exists() for path in paths) and paths[0].samefile(paths[1])
