"""The network that a run learns from, and what a student is told of each batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data import Task
from ..errors import InputError
from ..models.interface import Network
from ..weights import config_json
from . import distillation, known_classes, networks, runtime
from .distillation import Teacher
from .losses import LabelLoss, for_task
from .recipe import Recipe

INSTEAD = "learn its features beside the labels, with teacher.answers=0 and teacher.features=1"


class Seen(NamedTuple):
    """What is compared of a network."""

    logits: Tensor  # (N, C)
    features: Tensor | None  # (N, D)
    maps: list[Tensor]  # (N, K, H, W) each


class Watched(nn.Module):
    """A network whose forward also gives its pooled features, and its maps at some levels, if asked for.

    The network is run by timm's parts of a forward pass, which leaves out heads beside the classifier: a
    student that has such heads is refused.
    """

    def __init__(self, network: Network, *, features: bool, levels: list[int]) -> None:
        super().__init__()
        self.network: Any = network
        self.features, self.levels = features, levels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        if self.levels:
            last, maps = self.network.forward_intermediates(x, indices=self.levels)
        else:
            last, maps = self.network.forward_features(x), []
        pooled = self.network.forward_head(last, pre_logits=True) if self.features else None
        return self.network.forward_head(last), pooled, maps


@dataclass(frozen=True)
class Guide:
    """A teacher, and what a student learns from it.

    student: the learning network, to be called in the place of the bare one; the same if nothing but its
    answers is compared.
    """

    settings: Teacher
    student: nn.Module
    teacher: Watched
    columns: Tensor | None  # of its logits: the classes of the task
    multilabel: bool
    answered: LabelLoss  # of its answers: the run's own, without what it adds to labels
    to_teacher: Callable[[Tensor], Tensor]  # images as the student sees them -> as the teacher does
    autocast: Callable[[], AbstractContextManager[Any]]  # of the run's precision

    def loss(self, given: Any, x: Tensor, labels: Tensor, criterion: nn.Module) -> Tensor:
        """The weighted sum of what is learnt from a batch.

        given: what `student` gives for x. labels: as `criterion` takes them. The gradient reaches the student
        alone.
        """
        part = self.settings
        ours = Seen(*given) if self.student_is_watched else Seen(given, None, [])
        with torch.no_grad(), self.autocast():
            theirs = Seen(*self.teacher(self.to_teacher(x)))
        total = part.labels * criterion(ours.logits, labels) if part.labels else x.new_zeros(())
        if part.answers:
            warmth = part.temperature
            told = distillation.probabilities(
                theirs.logits[:, self.columns], warmth, multilabel=self.multilabel
            )
            total = total + part.answers * warmth**2 * self.answered(_softened(ours.logits, warmth), told)
        if part.features and ours.features is not None and theirs.features is not None:
            total = total + part.features * distillation.feature_distance(ours.features, theirs.features)
        if part.hints:
            each = [distillation.map_distance(a, b) for a, b in zip(ours.maps, theirs.maps, strict=True)]
            total = total + part.hints * torch.stack(each).mean()
        return total

    def told(self, x: Tensor) -> Tensor:
        """(N, C) the teacher's logits for the classes of the task. x: as the student sees it."""
        logits: Tensor = self.teacher(self.to_teacher(x))[0][:, self.columns]
        return logits

    @property
    def student_is_watched(self) -> bool:
        return isinstance(self.student, Watched)


def _softened(logits: Any, warmth: float) -> Any:
    """Also where auxiliary heads make them a tuple."""
    return tuple(one / warmth for one in logits) if isinstance(logits, tuple) else logits / warmth


def load(part: Teacher) -> Network:
    """The teacher of a recipe. Raises what `networks.create` does, and InputError for unknown arguments."""
    try:
        return networks.create(part.name, True, part.args, part.weights)
    except TypeError as error:
        raise InputError(f"teacher.args: {part.name} does not take them ({error})") from error


def make_guide(
    recipe: Recipe, task: Task, student: Network, criterion: nn.Module, accelerator: Any
) -> Guide | None:
    """The guide of a recipe; None without a teacher. student: the network that learns. criterion: its loss.

    Raises what `networks.create` does; InputError for a teacher that does not know the classes, has no level
    of the student's strides where hints are asked for, or does not take the student's images, and for two
    networks that cannot be compared; WeightsError for a file that does not fit it.
    """
    part = recipe.teacher
    if not part.name:
        return None
    if recipe.run.shard and (part.features or part.hints):
        raise InputError(
            "teacher.features and teacher.hints do not work with run.shard=true; leave out one of them"
        )
    network = load(part)
    device = accelerator.device
    columns = _columns(network, part, task) if part.answers else None
    ours, theirs = _levels(student, network, part) if part.hints else ([], [])
    watches = bool(part.features or part.hints)
    teacher = Watched(network, features=bool(part.features), levels=theirs).eval().requires_grad_(False)
    # What softens labels would level what the teacher says of the classes that are not shown.
    loss = replace(recipe.loss, off_label=0.0, smoothing=0.0)
    guide = Guide(
        settings=part,
        student=Watched(student, features=bool(part.features), levels=ours) if watches else student,
        teacher=teacher.to(device).to(memory_format=runtime.memory_format(recipe)),
        columns=None if columns is None else torch.tensor(columns, device=device),
        multilabel=task.multilabel,
        answered=for_task(loss, task, student.num_classes).to(device),
        to_teacher=_between(networks.data_config(student), networks.data_config(network), device),
        autocast=accelerator.autocast,
    )
    _try(guide, recipe, student, criterion)
    return guide


def _columns(network: Network, part: Teacher, task: Task) -> list[int]:
    if network.num_classes == 1:
        raise InputError(
            f"teacher.name={part.name!r} has a single logit, which is no answer for each class; {INSTEAD}"
        )
    names = known_classes.names_of(network)
    if names is None:
        raise InputError(
            f"teacher.name={part.name!r} does not say what its {network.num_classes} classes are; {INSTEAD}"
        )
    who = f"teacher.name={part.name!r}"
    return known_classes.found(task.class_names, names, who=who, remedy=INSTEAD)


def _levels(student: Network, teacher: Network, part: Teacher) -> tuple[list[int], list[int]]:
    strides = []
    for network, name in ((student, "the student"), (teacher, f"teacher.name={part.name!r}")):
        known = getattr(network, "feature_info", None)
        if not known or not hasattr(network, "forward_intermediates"):
            raise InputError(f"{name} does not give its maps; leave out teacher.hints")
        strides.append([int(level["reduction"]) for level in known])
    shared = distillation.pairs(*strides)
    if not shared:
        raise InputError(
            f"maps of the student have strides of {strides[0]}, those of teacher.name={part.name!r} of "
            f"{strides[1]}: none in common; leave out teacher.hints"
        )
    return [ours for ours, _ in shared], [theirs for _, theirs in shared]


def _between(
    student: dict[str, Any], teacher: dict[str, Any], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """From images normalised for the one to images normalised for the other."""
    if all(tuple(student[key]) == tuple(teacher[key]) for key in ("mean", "std")):
        return lambda x: x
    mean, std, their_mean, their_std = (
        torch.tensor(card[key], device=device)[:, None, None]
        for card in (student, teacher)
        for key in ("mean", "std")
    )
    return lambda x: (x * std + mean - their_mean) / their_std


def _try(guide: Guide, recipe: Recipe, student: Network, criterion: nn.Module) -> None:
    """Raise InputError unless both networks take the images of training, and can be compared on them."""
    name, size = recipe.teacher.name, networks.data_config(student, recipe.data.input_size)["input_size"]
    x = next(student.parameters()).new_zeros(2, *size)
    try:
        with torch.no_grad():
            guide.teacher(guide.to_teacher(x))
    except Exception as error:  # a network of timm's may raise anything
        raise InputError(
            f"teacher.name={name!r} takes no images of {size[1]}x{size[2]} pixels "
            f"({config_json.why(error)}); change data.input_size, or give teacher.args"
        ) from error
    shape = (2, student.num_classes) if guide.multilabel else (2,)
    training = student.training
    student.eval()
    try:
        with torch.enable_grad():
            with guide.autocast():
                given = guide.student(x)
            loss = guide.loss(given, x, x.new_zeros(shape, dtype=torch.long), criterion)
        if guide.student_is_watched:
            _check_all_learn(student, loss)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{recipe.model.name} cannot be compared with teacher.name={name!r} ({config_json.why(error)}); "
            "leave out teacher.features and teacher.hints"
        ) from error
    finally:
        student.train(training)


def _check_all_learn(student: Network, loss: Tensor) -> None:
    """Raise InputError for weights that should learn, and that the loss does not reach.

    They would stay as they are, and several processes would wait for their gradients.
    """
    learning = {name: p for name, p in student.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(learning.values()), allow_unused=True)
    if missed := [name for name, one in zip(learning, found, strict=True) if one is None]:
        parts = dict.fromkeys(name.partition(".")[0] for name in missed)
        raise InputError(
            f"teacher.features and teacher.hints do not reach {', '.join(parts)} of the student; leave them "
            "out, or build it without (model.args)"
        )
