"""Whose classes a run learns: those of its images, or those of its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..data import Samples, Task, val_loader
from ..data.stream import Stream
from ..errors import InputError
from ..models.interface import Network
from . import known_classes, networks, teacher
from .distillation import Teacher
from .recipe import Recipe
from .teacher import Guide

BATCH = 32


def of_teacher(part: Teacher) -> tuple[str, ...]:
    """The names of a teacher's classes, or their numbers. Raises what `teacher.load` does."""
    network = teacher.load(part)
    names = known_classes.names_of(network)
    return tuple(names if names is not None else map(str, range(network.num_classes)))


def among(task: Task, names: Sequence[str]) -> Task:
    """A task with other classes, among which its own are found by name.

    Raises InputError for a stream, for several labels an image, and for classes that are not among the names.
    """
    if task.class_names == tuple(names):
        return task
    if isinstance(task.train, Stream) or task.multilabel:
        what = "a stream" if isinstance(task.train, Stream) else "with several labels an image"
        raise InputError(f"teacher.classes='teacher' of images that are {what}; leave it out")
    places = known_classes.places(task.class_names, names)
    if unknown := [name for name, place in zip(task.class_names, places, strict=True) if place is None]:
        raise InputError(
            f"teacher.classes='teacher': it knows {len(names)} classes, but not {', '.join(unknown[:5])}"
            f"{' …' if len(unknown) > 5 else ''}; leave it out"
        )
    index = torch.tensor([-1 if place is None else place for place in places])

    def moved(samples: Samples) -> Samples:
        return replace(samples, labels=index[samples.labels])

    found = {part: moved(one) if isinstance(one, Samples) else one for part, one in task.found.items()}
    test = None if task.test is None else moved(task.test)
    return replace(
        task, train=moved(task.train), val=moved(task.val), test=test, found=found, class_names=tuple(names)
    )


@torch.no_grad()
def answered(task: Task, recipe: Recipe, guide: Guide, student: Network) -> Task:
    """The task whose validation images have the labels that the teacher gives them."""
    transform = networks.val_transform(student)
    labels: list[Tensor] = []
    device = next(guide.teacher.parameters()).device
    for batch in val_loader(task.val, transform, BATCH, workers=recipe.data.workers):
        said = torch.zeros(len(batch.read), dtype=torch.int64)
        if len(batch.images):
            said[torch.as_tensor(batch.read)] = guide.told(batch.images.to(device)).argmax(1).cpu()
        labels.append(said)
    return replace(task, val=replace(task.val, labels=torch.cat(labels)))
