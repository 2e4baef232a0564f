"""What a network is trained to lower: binary or softmax cross-entropy, against hard, mixed or several labels.

B-cos networks are trained with binary cross-entropy: a logit then speaks for its class alone, and so does its
explanation. The targets of the published ImageNet networks are 1/C, not 0, for classes that are not shown.
Source: Boehle et al. 2024, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Task, bounds
from ..errors import InputError
from ..layers.functional import at_least_float32

KINDS = ("bce", "ce")
UNIFORM = "uniform"  # also a word of data.bounds
CLASS_WEIGHTS = ("none", "balanced")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How logits are compared with labels.

    kind: "bce", each class for itself, or "ce", the softmax over classes.
    off_label: the least target of any class, for "bce" and one label per image: a number, or "uniform" for
    1/C. Mixed targets are raised only where they are below it. Several labels or a single logit have none.
    smoothing: share of the target spread evenly over all classes (with several labels: moved to 1/2 each).
    class_weights: "balanced" weighs an image by n / (C * images of its class), or with several labels the
    part of the loss that speaks for a class; "none" weighs all alike.

    Raises InputError for other values, and for an off_label with "ce".
    """

    kind: str = "bce"
    off_label: float | str = 0.0
    smoothing: float = 0.0
    class_weights: str = "none"
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    def __post_init__(self) -> None:
        faults = bounds.faults("loss", vars(self))
        faults += [
            f"loss.{name}={value!r}: allowed are {', '.join(map(repr, known))}"
            for name, value, known in (
                ("kind", self.kind, KINDS),
                ("class_weights", self.class_weights, CLASS_WEIGHTS),
            )
            if value not in known
        ]
        if self.kind == "ce" and self.off_label != 0:
            faults.append(
                f"loss.off_label={self.off_label!r} with loss.kind='ce': a softmax has no such target; "
                "set off_label to 0, or kind to 'bce'"
            )
        if faults:
            raise InputError("; ".join(faults))


def balanced_weights(class_counts: Tensor) -> Tensor:
    """(C,) weights n / (C * count), whose mean over all n samples is 1. class_counts: (C,).

    Raises InputError for a class without a sample: no weight makes up for that.
    """
    if empty := (class_counts == 0).nonzero().flatten().tolist():
        raise InputError(
            f"class_weights='balanced', but class {empty[0]} (of {len(class_counts)}) has no sample to learn "
            "from; add some, or drop the class"
        )
    counts = class_counts.double()
    return counts.sum() / (len(counts) * counts)


def for_task(loss: Loss, task: Task, classes: int) -> LabelLoss:
    """The loss of a network with `classes` logits on the images of a task. Raises as `make_loss`."""
    counts = task.class_counts() if loss.class_weights != "none" else None
    return make_loss(loss, classes, task.multilabel, counts)


def make_loss(loss: Loss, classes: int, multilabel: bool, class_counts: Tensor | None) -> LabelLoss:
    """The loss of a network with `classes` logits: a single one tells two classes apart unless `multilabel`.

    class_counts: (C,) training images of each class, (2,) for a single logit; None where class weights are
    not asked for.
    Raises InputError for "ce" with several labels, and as `balanced_weights`.
    """
    if multilabel and loss.kind == "ce":
        raise InputError(
            "loss.kind='ce' needs exactly one label for each image, and these images have several; use 'bce'"
        )
    weights = None
    if loss.class_weights == "balanced":
        expected = 2 if classes == 1 and not multilabel else classes
        given = 0 if class_counts is None else len(class_counts)
        if class_counts is None or given != expected:
            raise InputError(f"{given} class counts for {expected} classes; give one for each")
        weights = balanced_weights(class_counts)
    return LabelLoss(loss, classes, multilabel, weights)


class LabelLoss(nn.Module):
    """A batch's loss: ((N, C) logits, targets) -> (). For a tuple of logits, from auxiliary heads, the sum.

    targets: (N,) class indices; (N, C) shares of each class that sum to 1, as mixup makes them; or (N, C)
    zeros and ones for several labels. A single logit takes (N,) of 0 and 1, (N, 2) shares, or (N, 1).
    The mean is over images (and classes, for "bce"), never divided by the sum of weights: so the mean over
    equal parts of a batch is that of the batch. Computed at least in float32.

    This smooths labels, so mixup must not do it again: give it label_smoothing=0.

    weights: (C,) or None.
    Raises InputError for logits or targets of other shapes.
    """

    weights: Tensor | None

    def __init__(self, loss: Loss, classes: int, multilabel: bool, weights: Tensor | None) -> None:
        super().__init__()
        self.loss, self.classes, self.multilabel = loss, classes, multilabel
        self.single = classes == 1 and not multilabel
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor | tuple[Tensor, ...], targets: Tensor) -> Tensor:
        if isinstance(logits, tuple):
            return torch.stack([self(one, targets) for one in logits]).sum()
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise InputError(
                f"got logits of shape {tuple(logits.shape)}; this loss takes (N, {self.classes})"
            )
        logits = at_least_float32(logits)
        targets = self._shares(targets, len(logits)).to(logits.dtype)
        weights = None if self.weights is None else self.weights.to(logits.dtype)
        if self.multilabel:
            # A class's weight multiplies what speaks for it: the loss is linear in the target.
            smooth = targets.lerp(torch.full_like(targets, 0.5), self.loss.smoothing)
            return F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights)
        smooth = targets.lerp(torch.full_like(targets, 1 / targets.shape[1]), self.loss.smoothing)
        each = self._of_images(logits, smooth)
        return each.mean() if weights is None else (each * (targets * weights).sum(1)).mean()

    def _of_images(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N,) each image's loss, before weighting."""
        if self.single:
            return F.binary_cross_entropy_with_logits(logits[:, 0], targets[:, 1], reduction="none")
        if self.loss.kind == "ce":
            return F.cross_entropy(logits, targets, reduction="none")
        off = 1 / self.classes if self.loss.off_label == UNIFORM else float(self.loss.off_label)
        targets = targets.clamp_min(off)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)

    def _shares(self, targets: Tensor, images: int) -> Tensor:
        """(N, C) targets of either kind; (N, 2) for a single logit."""
        width = 2 if self.single else self.classes
        if targets.ndim == 1 and len(targets) == images and not self.multilabel:
            return F.one_hot(targets.long(), width)
        if self.single and targets.shape == (images, 1):
            return torch.cat([1 - targets, targets], 1)
        if targets.shape != (images, width):
            dense = f"({images}, {width})"
            allowed = (
                f"{dense} zeros and ones" if self.multilabel else f"({images},) indices or {dense} shares"
            )
            raise InputError(f"got targets of shape {tuple(targets.shape)}; allowed are {allowed}")
        return targets

    def extra_repr(self) -> str:
        return f"{self.loss}, classes={self.classes}, multilabel={self.multilabel}"
