"""What `bcos-zoo bcosify` does unless told otherwise: convert a network, which then learns from the original.

The numbers come from the trials that docs/howto/bcosify.md tells of.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .._compat import AnyBatchNorm
from ..conversion.bcos_converted import NAME
from ..data import Task
from . import defaults, known_classes, networks, recipe
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
    `recipe.read`.
    """
    model = Model(
        name=NAME, pretrained=True, weights=weights, head="fitted" if labels else "kept",
        args={"original": original, "b": b},
    )  # fmt: skip
    wanted = Recipe(
        model=model,
        teacher=Teacher(
            name=original, weights=weights, labels=float(labels), classes="task" if labels else "teacher"
        ),
        optimizer=Optimizer(name="adam", lr=RATE, relative=True),
        run=Run(epochs=defaults.EPOCHS),  # the last: earlier networks still have constants
    )
    return recipe.with_changes(wanted, changes)


def for_task(wanted: Recipe, task: Task, changes: Iterable[str] = ()) -> Recipe:
    """The recipe with what follows from the images and the original. changes: override these.

    Without batch norms there are no means to fade, nor statistics to estimate. Of an original that does not
    know the classes, features are learnt in place of answers.
    """
    changes = list(changes)
    full = defaults.for_task(wanted, task, changes)
    original = networks.original_of(full.model)
    model, teacher, course = full.model, full.teacher, Course(constants=0.0)
    if any(isinstance(one, AnyBatchNorm) and one.running_mean is not None for one in original.modules()):
        model = replace(model, args={"centring": "fading"} | model.args)
        course = replace(course, estimate=ESTIMATE)
    course = replace(course, constants_epochs=FADING * full.run.epochs)
    names = known_classes.names_of(original)
    if teacher.classes == "task" and (names is None or None in known_classes.places(task.class_names, names)):
        teacher = replace(teacher, answers=0.0, features=1.0)
    return recipe.with_changes(replace(full, model=model, teacher=teacher, conversion=course), changes)
