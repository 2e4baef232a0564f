"""Scores against scikit-learn's on random answers."""

import math
import sys

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn

from bcos_zoo import InputError
from bcos_zoo.training.scores import DIRECTION, confusion, scores

M = 200


def answers(classes, *, seed=0, shown=None):
    """Logits that are right more often than not, and the labels; `shown`: classes that have an image."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(shown or classes, (M,), generator=generator)
    logits = 3 * torch.randn(M, max(classes, 2), generator=generator)
    logits[torch.arange(M), labels] += 3
    return (logits if classes > 1 else logits[:, 1:]), labels


def several(classes, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(M, classes, generator=generator) < 0.3).float()
    return 4 * (labels - 0.5) + 3 * torch.randn(M, classes, generator=generator), labels


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("classes", [2, 3, 5, 6, 20])
def test_scores_of_one_label_are_those_of_scikit_learn(classes, seed):
    logits, labels = answers(classes, seed=seed)
    predicted = logits.argmax(1)
    expected = {
        "top1": sklearn.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn.balanced_accuracy_score(labels, predicted),
        "f1": sklearn.f1_score(labels, predicted, average="macro"),
    }
    if classes > 5:
        expected["top5"] = sklearn.top_k_accuracy_score(labels, logits, k=5, labels=range(classes))
    assert scores(logits, labels, False) == pytest.approx({k: 100 * v for k, v in expected.items()})


def test_a_class_without_an_image_is_no_part_of_the_mean_over_classes():
    logits, labels = answers(8, shown=6)
    logits[:, 7] = -100  # nor is it ever predicted; class 6 is
    predicted = logits.argmax(1)
    assert (predicted == 6).any() and not (labels == 6).any()
    found = scores(logits, labels, False)
    recall = [float((predicted[labels == c] == c).float().mean()) for c in range(6)]
    assert found["balanced_accuracy"] == pytest.approx(100 * np.mean(recall))
    # A class that is predicted in vain has an F1 of 0; one that is neither shown nor predicted has none.
    assert found["f1"] == pytest.approx(100 * sklearn.f1_score(labels, predicted, average="macro"))


def test_five_classes_and_fewer_have_no_top5():
    for classes, has in ((1, False), (2, False), (5, False), (6, True)):
        assert ("top5" in scores(*answers(classes), False)) == has


def test_a_single_logit_is_scored_as_two_classes():
    logits, labels = answers(1)
    both = torch.cat([torch.zeros_like(logits), logits], 1)
    assert scores(logits, labels, False) == scores(both, labels, False)
    predicted = (logits[:, 0] > 0).long()
    assert torch.equal(confusion(logits, labels), torch.tensor(sklearn.confusion_matrix(labels, predicted)))
    assert scores(logits, labels, False)["top1"] == pytest.approx(
        100 * sklearn.accuracy_score(labels, predicted)
    )


@pytest.mark.parametrize("classes", [2, 7])
def test_the_confusion_matrix_has_true_classes_as_rows(classes):
    logits, labels = answers(classes)
    expected = sklearn.confusion_matrix(labels, logits.argmax(1), labels=range(classes))
    got = confusion(logits, labels)
    assert got.dtype == torch.long and torch.equal(got, torch.tensor(expected))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("classes", [1, 2, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_scores_of_several_labels_are_those_of_scikit_learn(classes, seed, dtype):
    logits, labels = several(classes, seed=seed)
    predicted = (logits > 0).long()
    each = [sklearn.average_precision_score(t, z) for t, z in zip(labels.T, logits.T, strict=True)]
    f1 = [sklearn.f1_score(t, p) for t, p in zip(labels.T, predicted.T, strict=True)]
    expected = {"map": np.mean(each), "f1": np.mean(f1), "exact": sklearn.accuracy_score(labels, predicted)}
    found = scores(logits, labels.to(dtype), True)
    assert found == pytest.approx({k: 100 * v for k, v in expected.items()}, rel=1e-5)


@pytest.mark.parametrize("shift", [0.0, 60.0, -200.0])
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_average_precision_is_of_the_order_of_the_logits_alone(shift, scale):
    logits, labels = several(4)
    expected = np.mean(
        [sklearn.average_precision_score(t, z) for t, z in zip(labels.T, logits.T, strict=True)]
    )
    found = scores(logits.double() * scale + shift, labels, True)["map"]
    assert found == pytest.approx(100 * expected, rel=1e-5)


def test_equal_logits_share_their_place():
    logits, labels = several(3)
    logits = logits.round()
    expected = [sklearn.average_precision_score(t, z) for t, z in zip(labels.T, logits.T, strict=True)]
    assert scores(logits, labels, True)["map"] == pytest.approx(100 * np.mean(expected), rel=1e-5)


def test_a_label_that_no_image_has_is_no_part_of_the_means():
    logits, labels = several(5)
    labels[:, 4], logits[:, 4] = 0, -1.0
    fewer = scores(logits[:, :4], labels[:, :4], True)
    assert scores(logits, labels, True) == pytest.approx(fewer)
    logits[0, 4] = 1.0  # predicted in vain: an F1 of 0, and still no average precision
    found = scores(logits, labels, True)
    assert found["map"] == pytest.approx(fewer["map"])
    assert found["f1"] == pytest.approx(fewer["f1"] * 4 / 5)


def test_without_any_label_there_is_no_mean_average_precision():
    found = scores(torch.full((4, 3), -1.0), torch.zeros(4, 3), True)
    assert math.isnan(found["map"]) and math.isnan(found["f1"]) and found["exact"] == 100


@pytest.mark.parametrize(("multilabel", "make"), [(False, answers), (True, several)])
def test_a_perfect_network_has_a_hundred_percent_of_everything(multilabel, make):
    _, labels = make(8)
    logits = 20 * (labels if multilabel else torch.nn.functional.one_hot(labels, 8).float()) - 10
    assert scores(logits, labels, multilabel) == pytest.approx(
        dict.fromkeys(scores(logits, labels, multilabel), 100)
    )


def test_every_score_has_a_direction():
    names = {"loss", *scores(*answers(6), False), *scores(*several(3), True)}
    assert names == set(DIRECTION)
    assert DIRECTION["loss"] == "min" and {DIRECTION[name] for name in names - {"loss"}} == {"max"}


def test_half_precision_logits_are_scored():
    logits, labels = answers(6)
    assert scores(logits.bfloat16(), labels, False) == scores(logits.bfloat16().double(), labels, False)
    logits, labels = several(4)
    assert scores(logits.bfloat16(), labels, True) == scores(logits.bfloat16().double(), labels, True)


@pytest.mark.parametrize(
    ("logits", "targets", "multilabel", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0).long(), False, r"logits of shape \(0, 3\); allowed is \(M, C\)"),
        (torch.zeros(3), torch.zeros(3).long(), False, r"logits of shape \(3,\)"),
        (torch.full((1, 2), torch.nan), torch.zeros(1).long(), False, r"NaN or infinity in logits"),
        (torch.zeros(2, 3), torch.zeros(3).long(), False, r"labels of shape \(3,\)"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), False, r"labels from 0 to 3; with 3 classes allowed"),
        (torch.zeros(2, 1), torch.tensor([0, 2]), False, r"labels from 0 to 2; with 2 classes allowed"),
        (
            torch.zeros(2, 3),
            torch.zeros(2),
            True,
            r"allowed is \(2, 3\), of 0 and 1",
        ),
        (
            torch.zeros(2, 3),
            torch.full((2, 3), 0.5),
            True,
            r"allowed is \(2, 3\), of 0 and 1",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(logits, targets, multilabel, message):
    with pytest.raises(InputError, match=message):
        scores(logits, targets, multilabel)


def test_missing_torchmetrics_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.classification", None)
    with pytest.raises(InputError, match=r"pip install '\.\[train\]'"):
        scores(*answers(3), False)
