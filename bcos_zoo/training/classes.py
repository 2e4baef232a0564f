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
from . import known_classes, networks
from .distillation import Teacher
from .recipe import Recipe
from .teacher import Guide

BATCH = 32


def of_teacher(part: Teacher) -> tuple[str, ...]:
    """The names of a teacher's classes, or their numbers. Raises what `networks.skeleton` does."""
    network = networks.skeleton(part.name, part.args, "teacher")
    names = known_classes.names_of(network)
    return tuple(names if names is not None else map(str, range(network.num_classes)))


def among(task: Task, names: Sequence[str]) -> Task:
    """A task with other classes, among which its own are found by name.

    Raises InputError for a stream, for several labels an image, and what `known_classes.found` does.
    """
    if task.class_names == tuple(names):
        return task
    if isinstance(task.train, Stream) or task.multilabel:
        what = "a stream" if isinstance(task.train, Stream) else "with several labels an image"
        raise InputError(f"teacher.classes='teacher' of images that are {what}; leave it out")
    index = torch.tensor(
        known_classes.found(
            task.class_names,
            names,
            who="teacher.classes='teacher': it",
            remedy="leave it out, or take the images without labels by data.labels=false",
        )
    )

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
