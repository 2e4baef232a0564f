"""A converted network while it learns: its statistics before the first step, its changes between steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .._compat import AnyBatchNorm
from ..conversion import Converted, reestimate
from ..data import Samples, Task, val_loader
from ..errors import InputError
from ..extras import required
from ..models.interface import Network
from . import networks
from .course import Course
from .recipe import Recipe

BATCH = 64  # images of which statistics are averaged at once


class Changing:
    """A converted network that is changed after each step, as a `Course` says.

    The course is that of a run with all its epochs: in a shorter one it is shortened, as the rates are, and
    the steps that the methods take are those of the whole run.

    epochs: of the run. steps: of an epoch. average: a moving average of the network, whose constants shrink
    as its own do. Raises InputError for a network that was not converted.
    """

    def __init__(
        self, course: Course, network: nn.Module, *, epochs: int, steps: int, average: Any = None
    ) -> None:
        _check(network)
        self.course, self.steps = course, steps
        self.networks: list[Any] = [network] if average is None else [network, average]
        self.last = (epochs if course.constants_epochs is None else course.constants_epochs) * steps
        every: list[Any] = list(self.networks[0].bcos_layers().values())
        self.exponents = [(layer, layer.b) for layer in every]

    def left(self, done: float) -> float:
        """The share of the constants that is left after so many steps."""
        part = min(done / self.last, 1.0) if self.last else 1.0
        return 1 - (1 - self.course.constants) * part

    def before(self, done: float) -> None:
        """Set the exponents for the step after `done` steps."""
        start = self.course.b_from
        if start is None:
            return
        part = min(done // self.steps / self.course.b_epochs, 1.0)
        for layer, b in self.exponents:
            layer.b = start + part * (b - start)

    def after(self, done: float, reached: float) -> float:
        """Shrink the constants after step number `done`, from 1; returns the share of them that is left.

        reached: the share that was left before. They never grow: where a run turns out longer than planned,
        they wait.
        """
        if self.course.constants == 1:
            return reached
        now = min(self.left(done), reached)
        for network in self.networks:  # also where none is left: the step has moved them
            network.scale_constants(now / reached if reached else 0.0)
        return now


def has_statistics(network: nn.Module) -> bool:
    """Whether there are batch norms whose statistics can be estimated."""
    return any(isinstance(one, AnyBatchNorm) and one.running_mean is not None for one in network.modules())


def check(network: nn.Module, recipe: Recipe, task: Task) -> None:
    """Raise InputError for a conversion that the network, or its images, cannot have."""
    course = recipe.conversion
    if course.changes or course.estimate:
        _check(network)
    if course.estimate and not has_statistics(network):
        raise InputError(
            f"conversion.estimate={course.estimate} is of batch norms, and the network has none; leave it out"
        )
    if course.estimate and not isinstance(task.train, Samples):
        raise InputError("conversion.estimate needs images that are no stream; leave it out")


def estimate(network: Network, recipe: Recipe, task: Task, accelerator: Any) -> None:
    """Estimate the statistics of batch norms anew, with the first training images in the order of a draw.

    Each process sees the same images, and none waits for others meanwhile: norms that meet over processes
    come later. Raises what `check` does, and InputError if there are no images.
    """
    check(network, recipe, task)
    count, samples = recipe.conversion.estimate, task.train
    assert isinstance(samples, Samples)  # `check` has refused streams
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(recipe.run.seed))
    some = samples.select(order[:count])
    batches = val_loader(some, networks.val_transform(network), BATCH, workers=recipe.data.workers)
    device = accelerator.device
    reestimate(network, (batch.images.to(device) for batch in batches if len(batch.images)))
    if accelerator.num_processes > 1:  # of machines that add in different orders, the first decides
        broadcast = required("accelerate.utils", "accelerate", "train").broadcast
        for buffer in network.buffers():
            buffer.copy_(broadcast(buffer))


def _check(network: nn.Module) -> None:
    if not isinstance(network, Converted):
        raise InputError(
            f"[conversion] is for networks that bcosify made, and this is a {type(network).__name__}; leave "
            "the table out, or give model.name='bcos_converted'"
        )
