"""How well scores separate the images of a class from the others, at all thresholds."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..extras import required
from .checks import check_values


def ranks(scores: Tensor) -> Tensor:
    """(M,) float64 in [0, 1], ordered and tied as the scores are. The metrics here depend on nothing else.

    Given other values, torchmetrics would take them for logits, and its sigmoid makes large ones equal.

    ```python
    import torch

    from bcos_zoo.metrics import ranks

    a, b, c = ranks(torch.tensor([5.0, -3.0, 5.0]))
    assert a == c > b
    ```
    """
    check_values("scores", scores, "(M,)")
    order = torch.unique(scores.detach().cpu().double(), return_inverse=True)[1].double()
    return order / order.max().clamp_min(1)


def auroc(scores: Tensor, truth: Tensor) -> float:
    """Area under the ROC curve, in [0, 1]: how often an image of the class outscores another; ties half.

    scores: (M,), of any scale. truth: (M,), whether an image shows the class.
    Returns nan if all images show it, or none does. Raises InputError for other shapes and values, and if
    torchmetrics is not installed.

    ```python
    import torch

    from bcos_zoo.metrics import auroc

    scores, truth = torch.tensor([0.9, 0.4, 0.6, 0.1]), torch.tensor([True, True, False, False])
    assert auroc(scores, truth) == 0.75  # three of four pairs are in order
    ```
    """
    if not _both(scores, truth):
        return math.nan
    return float(_functional().binary_auroc(ranks(scores), truth.cpu().long()))


def sensitivity_at_specificity(scores: Tensor, truth: Tensor, specificity: float) -> float:
    """The largest share of a class's images that a threshold finds, in [0, 1], at the given specificity.

    Thresholds count if at least the share `specificity` of the other images is below them. The best one is
    chosen on these very images, so the sensitivity is optimistic.
    scores, truth: as in `auroc`. specificity: in [0, 1].
    Returns nan, and raises errors, as `auroc` does.

    ```python
    import torch

    from bcos_zoo.metrics import sensitivity_at_specificity

    scores, truth = torch.tensor([0.9, 0.4, 0.6, 0.1]), torch.tensor([True, True, False, False])
    assert sensitivity_at_specificity(scores, truth, 1.0) == 0.5
    ```
    """
    if not 0 <= specificity <= 1:
        raise InputError(f"specificity={specificity}: allowed are shares from 0 to 1, such as 0.95")
    if not _both(scores, truth):
        return math.nan
    # torchmetrics compares shares of float32, in which 1 - 0.3 is below 0.7.
    least = max(specificity - 1e-6, 0.0)
    found, _ = _functional().binary_sensitivity_at_specificity(ranks(scores), truth.cpu().long(), least)
    return float(found)


def _both(scores: Tensor, truth: Tensor) -> bool:
    """Whether there are images of the class, and others."""
    check_values("scores", scores, "(M,)")
    if not isinstance(truth, Tensor):
        raise InputError(
            f"got truth as {type(truth).__name__}; allowed are tensors: torch.as_tensor(truth) makes one"
        )
    if truth.shape != scores.shape or not ((truth == 0) | (truth == 1)).all():
        raise InputError(
            f"truth of shape {tuple(truth.shape)} for scores of {tuple(scores.shape)}; allowed is the same, "
            "of 0 and 1"
        )
    return bool(truth.any()) and not bool(truth.all())


def _functional() -> Any:
    return required("torchmetrics.functional.classification", "torchmetrics")
