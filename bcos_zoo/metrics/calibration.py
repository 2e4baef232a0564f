"""Whether predicted probabilities match how often predictions are right: for reports of accuracy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, check_integer
from .checks import check_labels, check_values, wide


def expected_calibration_error(
    probabilities: Tensor, labels: Tensor, *, bins: int = 15, predicted: Tensor | None = None
) -> float:
    """Mean distance between confidence and accuracy over bins of equal width, in [0, 1]; 0 is calibrated.

    The confidence is the probability of the top-1 class. Bins include their lower end; the last, both ends.
    probabilities: (N, C) in [0, 1]. For networks trained with binary cross-entropy, as most B-cos networks
    are, these are sigmoids, whose sum need not be 1.
    labels: (N,) class indices. predicted: (N,) the top-1 classes, where the logits are known: the largest of
    probabilities that all round to 1 cannot be told. By default the first of the largest.

    Computed here in float64: torchmetrics rounds to float32, which puts confidences just below 1 into a
    separate bin beyond the last.
    Raises InputError for other shapes and values.
    Source: Guo et al. 2017.

    ```python
    import torch

    from bcos_zoo.metrics import expected_calibration_error

    sure = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert expected_calibration_error(sure, torch.tensor([0, 1])) == 0.5  # sure of both, right once
    ```
    """
    _check(probabilities, labels)
    check_integer("bins", bins, 1)
    values = probabilities.detach().cpu().double()
    if predicted is None:
        predicted = values.argmax(1)
    else:
        check_labels(predicted, probabilities)
        predicted = predicted.cpu().long()
    confidence = values.gather(1, predicted[:, None])[:, 0]
    right = (predicted == labels.cpu()).double()
    edges = torch.arange(1, bins, dtype=torch.float64) / bins  # between neighbouring bins
    number = torch.bucketize(confidence, edges, right=True)
    excess = torch.zeros(bins, dtype=torch.float64).index_add_(0, number, right - confidence)
    return float(excess.abs().sum() / len(confidence))


def brier_score(probabilities: Tensor, labels: Tensor) -> float:
    """Squared distance to the truth, summed over classes, averaged over images: 0 is perfect.

    At most 2 for probabilities that sum to 1, at most C for sigmoids.
    probabilities: (N, C) in [0, 1]. labels: (N,) class indices.
    Raises InputError for other shapes and values.
    Source: Brier 1950.

    ```python
    import torch

    from bcos_zoo.metrics import brier_score

    assert brier_score(torch.eye(3), torch.tensor([0, 1, 2])) == 0
    ```
    """
    _check(probabilities, labels)
    values = wide(probabilities)
    truth = F.one_hot(labels.to(values.device, torch.long), values.shape[1]).to(values)
    return float(F.mse_loss(values, truth, reduction="sum") / len(values))


def _check(probabilities: Tensor, labels: Tensor) -> None:
    check_values("probabilities", probabilities, "(N, C)")
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise InputError(
            f"probabilities from {float(probabilities.min()):.3g} to {float(probabilities.max()):.3g}; "
            "allowed is [0, 1]: apply sigmoid or softmax to logits"
        )
    check_labels(labels, probabilities)
