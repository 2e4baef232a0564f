"""Learning from another network: the table `[teacher]` of a recipe, and how far two networks differ.

None of the distances has weights of its own, so networks of other widths can teach, and nothing but the
student is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import bounds
from ..errors import InputError
from ..layers.functional import at_least_float32

CLASSES = ("task", "teacher")


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A network to learn from, beside the labels or without them.

    It sees the images that the student sees, augmented and mixed alike (Beyer et al. 2022). What is learnt is
    the weighted sum of what the following keys weigh; 0 leaves one out.

    name: as model.name; none unless given.
    weights: a file of its weights, where they cannot be fetched by name.
    args: arguments of its architecture.
    answers: the loss of the recipe against its probabilities for the classes, in place of labels (Hinton et
    al. 2015), without off_label and smoothing, which would cover what it says. It must know all classes by
    name.
    temperature: softens both networks' answers.
    features: its pooled features; their directions, or between networks of different widths how alike the
    images of a batch are (Tung & Mori 2019).
    hints: its maps on the way, wherever both networks have one of the same stride (Romero et al. 2015): their
    directions, or between different widths where in the image they are strong (Zagoruyko & Komodakis 2017).
    labels: the loss against the labels; 0 trains without them, by answers, and only validation uses them.
    classes: whose classes are learnt: the "task"'s, or all of the "teacher"'s, the labels counted among them.
    """

    name: str = ""
    weights: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    answers: float = 1.0
    temperature: float = 1.0
    features: float = 0.0
    hints: float = 0.0
    labels: float = 1.0
    classes: str = "task"
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    def __post_init__(self) -> None:
        faults = bounds.faults("teacher", vars(self))
        if self.classes not in CLASSES:
            faults.append(f"teacher.classes={self.classes!r}: allowed are {', '.join(map(repr, CLASSES))}")
        if self.name and not (self.answers or self.features or self.hints):
            faults.append(
                "teacher.answers, features and hints are 0, so there is nothing to learn from it; give one"
            )
        elif self.name and not (self.answers or self.labels):
            faults.append(
                "teacher.labels and teacher.answers are 0, so nothing would teach the classifier; give one"
            )
        if faults:
            raise InputError("; ".join(faults))


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """How far pooled features are apart: a scalar, 0 for features of the same directions.

    student, teacher: (N, D) and (N, E). Of the same width: the mean of 1 - cosine. Else the mean squared
    difference of all cosines within the batch, (N, N) of each network (Tung & Mori 2019, with cosines).
    """
    ours, theirs = (F.normalize(at_least_float32(values), dim=1) for values in (student, teacher))
    if ours.shape == theirs.shape:
        return 1 - (ours * theirs).sum(1).mean()
    return (ours @ ours.T - theirs @ theirs.T).square().mean()


def map_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """How far maps are apart: a scalar, 0 for maps of the same directions.

    student, teacher: (N, K, H, W) and (N, L, H', W'); the teacher's is resized where sizes differ by a pixel
    or so. Of the same width: the mean of 1 - cosine over all positions. Else the mean squared difference of
    the maps of energy, each of norm 1 (Zagoruyko & Komodakis 2017, equation 2 with p = 2).
    """
    ours, theirs = at_least_float32(student), at_least_float32(teacher)
    if ours.shape[-2:] != theirs.shape[-2:]:
        theirs = F.interpolate(theirs, ours.shape[-2:], mode="bilinear", antialias=True)
    if ours.shape[1] == theirs.shape[1]:
        return 1 - F.cosine_similarity(ours, theirs, dim=1).mean()
    energies = (F.normalize(values.square().mean(1).flatten(1), dim=1) for values in (ours, theirs))
    return (next(energies) - next(energies)).square().sum(1).mean()


def pairs(student: Sequence[int], teacher: Sequence[int]) -> list[tuple[int, int]]:
    """Which levels are compared: (index, index) of the last level of each stride that both have.

    student, teacher: the stride of each level in the image.
    """
    ours = {stride: index for index, stride in enumerate(student)}
    theirs = {stride: index for index, stride in enumerate(teacher)}
    return [(ours[stride], theirs[stride]) for stride in sorted(ours.keys() & theirs.keys())]


def probabilities(logits: Tensor, temperature: float, *, multilabel: bool) -> Tensor:
    """(N, C) what a teacher says of each class: a softmax, or with several labels a sigmoid for each."""
    softened = at_least_float32(logits) / temperature
    return softened.sigmoid() if multilabel else torch.softmax(softened, 1)
