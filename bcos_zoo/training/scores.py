"""How good a network's answers are, over a whole validation set. All scores but the loss are in percent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..extras import required
from ..metrics.checks import check_labels, check_values
from ..outputs import of_two

DIRECTION = {  # which end of each score is the good one
    "loss": "min",
    "top1": "max",
    "top5": "max",
    "balanced_accuracy": "max",
    "f1": "max",
    "map": "max",
    "exact": "max",
}


@dataclass(frozen=True)
class Answers:
    """What a network said about the images of a part, and how good that is."""

    scores: dict[str, float]  # the loss, and scores in percent
    logits: Tensor  # (M, C) of the M images that could be read
    targets: Tensor  # (M,) class indices, or (M, C) zeros and ones
    indices: Tensor  # (M,) which images of the part these are


def to_watch(name: str, outputs: int, multilabel: bool) -> str:
    """The score that says which epoch is best: `name`, or the usual one if that is "".

    Raises InputError for a score that a network with this number of outputs does not have.
    """
    known = ["map", "f1", "exact"] if multilabel else ["top1", "balanced_accuracy", "f1"]
    known += ["top5"] if outputs > 5 and not multilabel else []
    if name and name not in ("loss", *known):
        raise InputError(f"run.monitor={name!r}: no such score here; known: {', '.join(known)}, loss")
    return name or known[0]


def scores(logits: Tensor, targets: Tensor, multilabel: bool) -> dict[str, float]:
    """The scores of M images, in percent.

    logits: (M, C); a single logit predicts class 1 where it is above 0. targets: (M,) class indices; (M, C)
    zeros and ones if `multilabel`, and then each class with a logit above 0 is predicted.
    Returns, for one label per image, top1, top5 (for more than five classes), balanced_accuracy (mean over
    classes of the share that is found) and f1 (mean over classes); for several labels map (mean over classes
    of the average precision), f1 and exact (images with every label right). A mean over classes leaves out
    classes for which the score is not defined: those without an image and, for f1, without a prediction
    either. It is nan if that leaves none.

    Raises InputError if there are no images, for other shapes, for logits that are not finite, and if
    torchmetrics is not installed.
    """
    return _of_several(logits, targets) if multilabel else _of_one(logits, targets)


def confusion(logits: Tensor, targets: Tensor) -> Tensor:
    """(C, C) counts of images with one label each: a row is a true class, a column a predicted one.

    logits: (M, C), or (M, 1) for two classes. targets: (M,) class indices.
    Raises InputError as `scores` does.
    """
    check_values("logits", logits, "(M, C)")
    if logits.shape[1] == 1:
        logits = of_two(logits)
    check_labels(targets, logits)
    counts: Tensor = _torchmetrics().multiclass_confusion_matrix(logits.argmax(1), targets, logits.shape[1])
    return counts


def _of_one(logits: Tensor, targets: Tensor) -> dict[str, float]:
    counts = confusion(logits, targets)
    right, shown, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    found = {"top1": 100 * float(right.sum() / counts.sum())}
    if logits.shape[1] > 5:
        hits = logits.topk(5).indices == targets[:, None]
        found["top5"] = 100 * float(hits.any(1).double().mean())
    found["balanced_accuracy"] = _mean_share(right, shown)
    found["f1"] = _mean_share(2 * right, shown + predicted)
    return found


def _of_several(logits: Tensor, targets: Tensor) -> dict[str, float]:
    check_values("logits", logits, "(M, C)")
    if targets.shape != logits.shape or not ((targets == 0) | (targets == 1)).all():
        raise InputError(
            f"targets of shape {tuple(targets.shape)}; with several labels an image, allowed is "
            f"{tuple(logits.shape)}, of 0 and 1"
        )
    truth, predicted = targets.bool(), logits > 0
    return {
        "map": _mean_average_precision(logits, truth),
        "f1": _mean_share(2 * (truth & predicted).sum(0), truth.sum(0) + predicted.sum(0)),
        "exact": 100 * float((truth == predicted).all(1).double().mean()),
    }


def _mean_average_precision(logits: Tensor, truth: Tensor) -> float:
    present = truth.any(0)
    if not present.any():
        return math.nan
    # torchmetrics takes the sigmoid, which is 1 for all large logits; only their order matters, so give that.
    order = torch.unique(logits[:, present], return_inverse=True)[1].double()
    order = order / order.max().clamp_min(1)
    average_precision = _torchmetrics().binary_average_precision
    each = [average_precision(*of) for of in zip(order.T, truth[:, present].T.long(), strict=True)]
    return 100 * float(torch.stack(each).double().mean())


def _mean_share(part: Tensor, whole: Tensor) -> float:
    """Mean of part / whole in percent, where `whole` is not 0."""
    defined = whole > 0
    return 100 * float((part[defined].double() / whole[defined]).mean())


def _torchmetrics() -> Any:
    return required("torchmetrics.functional.classification", "torchmetrics", "train")
