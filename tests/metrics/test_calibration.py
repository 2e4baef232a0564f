"""Calibration error and Brier score of predicted probabilities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bcos_zoo import InputError
from bcos_zoo.metrics import brier_score, expected_calibration_error


@pytest.fixture
def torchmetrics() -> None:
    pytest.importorskip("torchmetrics", reason="the extra bcos-zoo[eval] is not installed")


def drawn(n: int = 300, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (2 * torch.randn(n, classes, generator=generator)).softmax(1)
    return probabilities, torch.randint(classes, (n,), generator=generator)


def slow_error(probabilities: Tensor, labels: Tensor, bins: int) -> float:
    confidence, predicted = probabilities.double().max(1)
    total = 0.0
    for b in range(bins):
        last = b == bins - 1
        inside = [i for i, c in enumerate(confidence) if b / bins <= c and (c < (b + 1) / bins or last)]
        if inside:
            right = sum(float(predicted[i] == labels[i]) for i in inside) / len(inside)
            sure = sum(float(confidence[i]) for i in inside) / len(inside)
            total += len(inside) / len(labels) * abs(right - sure)
    return total


@pytest.mark.usefixtures("torchmetrics")
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_a_loop_over_bins(bins):
    probabilities, labels = drawn()
    probabilities[:20] = torch.eye(5)[torch.arange(20) % 5]  # certain, and in the last bin
    got = expected_calibration_error(probabilities, labels, bins=bins)
    assert got == pytest.approx(slow_error(probabilities, labels, bins))


@pytest.mark.usefixtures("torchmetrics")
def test_the_certain_and_right_are_calibrated_and_the_certain_and_wrong_are_not():
    labels = torch.arange(8) % 4
    assert expected_calibration_error(torch.eye(4)[labels], labels) == pytest.approx(0)
    assert expected_calibration_error(torch.eye(4)[labels], (labels + 1) % 4) == pytest.approx(1)


@pytest.mark.usefixtures("torchmetrics")
def test_probabilities_that_are_frequencies_are_calibrated():
    probabilities = torch.tensor([[0.75, 0.25]]).repeat(8, 1)
    labels = torch.tensor([0, 0, 0, 1]).repeat(2)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0)


@pytest.mark.usefixtures("torchmetrics")
def test_sigmoids_need_not_add_up_to_1():
    probabilities, labels = torch.full((4, 3), 0.1), torch.zeros(4).long()
    probabilities[:, 0] = 0.9
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.1)


def test_the_brier_score_is_that_of_a_loop_over_images():
    probabilities, labels = drawn(50)
    total = sum(
        (float(p) - float(c == label)) ** 2
        for row, label in zip(probabilities, labels, strict=True)
        for c, p in enumerate(row)
    )
    assert brier_score(probabilities, labels) == pytest.approx(total / 50)


def test_the_brier_score_is_0_for_the_truth_and_2_for_certain_errors():
    labels = torch.arange(6) % 3
    assert brier_score(torch.eye(3)[labels], labels) == 0
    assert brier_score(torch.eye(3)[labels], (labels + 1) % 3) == 2
    assert brier_score(torch.full((6, 3), 1 / 3), labels) == pytest.approx(2 / 3)


@pytest.mark.parametrize("metric", [brier_score, expected_calibration_error])
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (torch.ones(3), torch.zeros(3).long(), r"probabilities of shape \(3,\); allowed is \(N, C\)"),
        (torch.ones(0, 3), torch.zeros(0).long(), "no axis of length 0"),
        (torch.full((2, 2), 3.0), torch.zeros(2).long(), r"from 3 to 3; allowed is \[0, 1\]: apply sigmoid"),
        (torch.full((2, 2), torch.nan), torch.zeros(2).long(), "NaN or infinity in probabilities"),
        (
            torch.ones(2, 2),
            torch.zeros(3).long(),
            r"labels of shape \(3,\) .* allowed for 2 images is \(2,\)",
        ),
        (torch.ones(2, 2), torch.tensor([0, 2]), "labels from 0 to 2; with 2 classes allowed are 0 to 1"),
    ],
)
def test_both_refuse(metric, probabilities, labels, message):
    with pytest.raises(InputError, match=message):
        metric(probabilities, labels)


def test_bins_are_at_least_one():
    with pytest.raises(InputError, match="bins=0: allowed are integers, 1 and more"):
        expected_calibration_error(*drawn(), bins=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_certain_share_the_last_bin_with_the_nearly_certain(dtype):
    """|0.5 right - 0.975 sure| = 0.475; in bins of their own they would give 0.525."""
    probabilities = torch.tensor([[0.95, 0.05], [1.0, 0.0]], dtype=dtype)
    assert expected_calibration_error(probabilities, torch.tensor([0, 1])) == pytest.approx(0.475)
    assert expected_calibration_error(probabilities, torch.tensor([0, 1]), bins=1) == pytest.approx(0.475)


def test_confidences_are_not_rounded_to_float32():
    """1 - 1e-9 is 1 in float32, and 0.7 - 1e-12 is above 0.7 there: it is of the bin below."""
    probabilities = torch.tensor([[1 - 1e-9], [0.97]], dtype=torch.float64)
    both = torch.cat([probabilities, 1 - probabilities], 1)
    assert expected_calibration_error(both, torch.tensor([1, 0])) == pytest.approx(0.485, abs=1e-9)
    edge = torch.tensor([[0.7 - 1e-12, 0.3], [0.7, 0.3]], dtype=torch.float64)  # two bins of ten: 0.7 and 0.3
    assert expected_calibration_error(edge, torch.tensor([1, 0]), bins=10) == pytest.approx(0.5)
    assert expected_calibration_error(edge, torch.tensor([1, 0]), bins=9) == pytest.approx(0.2)


@pytest.mark.parametrize("bins", [3, 10, 15, 49])
def test_every_edge_is_of_the_bin_above_it(bins):
    """Each confidence is an edge, and alone in its bin: the error is the mean of what each is off by."""
    confidence = torch.tensor([max(b / bins, 1 / bins) for b in range(1, bins)], dtype=torch.float64)
    confidence = confidence[confidence >= 0.5]
    both = torch.stack([confidence, 1 - confidence], 1)
    labels = torch.arange(len(confidence)) % 2
    alone = [abs(float(c) - (label == 0)) for c, label in zip(confidence, labels.tolist(), strict=True)]
    got = expected_calibration_error(both, labels, bins=bins)
    assert got == pytest.approx(sum(alone) / len(alone), rel=1e-12)


@pytest.mark.usefixtures("torchmetrics")
def test_where_no_confidence_is_near_an_edge_torchmetrics_agrees():
    from torchmetrics.functional.classification import multiclass_calibration_error

    probabilities, labels = drawn(500)
    theirs = float(multiclass_calibration_error(probabilities, labels, num_classes=5, n_bins=15))
    assert expected_calibration_error(probabilities, labels) == pytest.approx(theirs, abs=1e-6)
