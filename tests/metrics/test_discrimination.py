"""AUROC and sensitivity against counting pairs and thresholds by hand; intervals against a slow bootstrap."""

from __future__ import annotations

import math
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from bcos_zoo import InputError
from bcos_zoo.evaluate import Asked, discriminate
from bcos_zoo.metrics import auroc, bootstrap, sensitivity_at_specificity
from bcos_zoo.outputs import Outputs

pytest.importorskip("torchmetrics", reason="the extra bcos-zoo[eval] is not installed")


def drawn(n: int = 60, seed: int = 0, levels: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores with many ties, of all scales, and a truth that goes with them."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.4
    scores = np.round(rng.normal(size=n) * 3 + 3 * truth).clip(-levels, levels)
    return torch.tensor(scores), torch.tensor(truth)


def pairs(scores: torch.Tensor, truth: torch.Tensor) -> float:
    """The AUROC as its meaning: over all pairs of one of the class and another."""
    won = [
        Fraction(int(a > b)) + Fraction(int(a == b), 2)
        for a in scores[truth].tolist()
        for b in scores[~truth].tolist()
    ]
    return float(sum(won) / len(won))


def by_thresholds(scores: torch.Tensor, truth: torch.Tensor, specificity: Fraction) -> float:
    best = Fraction(0)
    for t in [*scores.tolist(), math.inf]:
        positive = [value >= t for value in scores.tolist()]
        below = [not p for p, shown in zip(positive, truth.tolist(), strict=True) if not shown]
        found = [p for p, shown in zip(positive, truth.tolist(), strict=True) if shown]
        if Fraction(sum(below), len(below)) >= specificity:
            best = max(best, Fraction(sum(found), len(found)))
    return float(best)


@pytest.mark.parametrize("seed", range(6))
def test_the_auroc_is_the_share_of_pairs_in_the_right_order(seed):
    scores, truth = drawn(seed=seed)
    assert auroc(scores, truth) == pytest.approx(pairs(scores, truth), abs=1e-6)
    assert auroc(-scores, ~truth) == pytest.approx(pairs(scores, truth), abs=1e-6)
    far = scores.double() * 1e3 + 1e6  # whose sigmoids are all 1
    assert auroc(far, truth) == pytest.approx(pairs(scores, truth), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("percent", [0, 5, 50, 70, 90, 95, 100])
def test_the_sensitivity_is_that_of_the_best_threshold_that_is_specific(seed, percent):
    scores, truth = drawn(seed=seed)
    wanted = by_thresholds(scores, truth, Fraction(percent, 100))
    assert sensitivity_at_specificity(scores, truth, percent / 100) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("tenths", range(11))
def test_a_specificity_that_is_just_met_is_met(tenths):
    """Ten others, of which one each is above the thresholds: shares of tenths, which floats do not have."""
    scores = torch.cat([torch.arange(10.0), torch.arange(10.0) + 0.5])
    truth = torch.arange(20) >= 10
    wanted = by_thresholds(scores, truth, Fraction(tenths, 10))
    assert sensitivity_at_specificity(scores, truth, tenths / 10) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("truth", [torch.ones(5), torch.zeros(5)])
def test_what_is_on_one_side_only_has_no_such_score(truth):
    assert math.isnan(auroc(torch.arange(5.0), truth.bool()))
    assert math.isnan(sensitivity_at_specificity(torch.arange(5.0), truth.bool(), 0.9))


def test_scores_and_truth_must_fit(monkeypatch):
    scores, truth = drawn()
    with pytest.raises(InputError, match=r"truth of shape \(59,\) for scores of \(60,\)"):
        auroc(scores, truth[1:])
    with pytest.raises(InputError, match="NaN or infinity in scores"):
        auroc(scores * math.nan, truth)
    with pytest.raises(InputError, match=r"specificity=95: allowed are shares from 0 to 1, such as 0.95"):
        sensitivity_at_specificity(scores, truth, 95)
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.classification", None)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(InputError, match=r"torchmetrics cannot be imported .*pip install '\.\[eval\]'"):
        auroc(scores, truth)


def test_an_interval_is_that_of_a_loop_over_resamples():
    values = np.random.default_rng(1).normal(size=30)
    groups = [f"patient {i // 3}" for i in range(30)]
    (got,) = bootstrap(lambda some: [values[some].mean()], groups, confidence=0.9, resamples=40, seed=7)
    means = []
    for child in np.random.SeedSequence(7).spawn(40):
        patients = np.random.default_rng(child).integers(10, size=10)
        images = [values[3 * patient + k] for patient in patients for k in range(3)]
        means.append(sum(images) / len(images))
    means.sort()
    at = [0.05 * 39, 0.95 * 39]  # linear between the two values beside it
    low, high = (means[int(a)] + (a - int(a)) * (means[int(a) + 1] - means[int(a)]) for a in at)
    assert (got.low, got.high, got.resamples) == (pytest.approx(low), pytest.approx(high), 40)


def test_copies_of_an_image_say_nothing_new():
    """Five copies of each image in one group: the very interval of the images alone; not so one by one."""
    scores, truth = drawn(40)
    many, much = scores.repeat_interleave(5), truth.repeat_interleave(5)

    def widths(groups: list[int], s: torch.Tensor, t: torch.Tensor) -> tuple[float, float]:
        (one,) = bootstrap(lambda some: [auroc(s[some], t[some])], groups, resamples=100)
        return one.low, one.high

    alone = widths(list(range(40)), scores, truth)
    assert widths([i // 5 for i in range(200)], many, much) == pytest.approx(alone, abs=1e-6)
    low, high = widths(list(range(200)), many, much)
    assert high - low < 0.7 * (alone[1] - alone[0])


GROUPS = [0, 0, 0, 1, 1, 2, 3, 3]


@pytest.mark.parametrize(
    "groups",
    [
        torch.tensor(GROUPS),
        torch.tensor(GROUPS, dtype=torch.float32),
        list(torch.tensor(GROUPS)),
        np.array(GROUPS),
        np.array([f"patient {i}" for i in GROUPS]),
    ],
    ids=["tensor", "float tensor", "list of tensors", "array", "array of texts"],
)
def test_groups_are_the_same_in_whatever_container_they_come(groups):
    """A resample draws as many groups as there are, four here, whatever form they come in."""
    drawn = []

    def measure(some: np.ndarray) -> list[float]:
        drawn.append([sum(GROUPS[i] == group for i in some) for group in range(4)])
        return [0.0]

    bootstrap(measure, groups, resamples=30)
    sizes = [GROUPS.count(group) for group in range(4)]
    times = [[of / size for of, size in zip(one, sizes, strict=True)] for one in drawn]
    assert all(sum(one) == 4 and all(value == int(value) for value in one) for one in times)


def test_a_score_has_one_group_for_each_image():
    outputs, asked = Outputs(("a", "b")), Asked(("auroc",), confidence=0.9, resamples=5)
    logits, truth = torch.randn(8, 2), torch.tensor([0, 1] * 4)
    assert discriminate(outputs, logits, truth, asked, torch.tensor(GROUPS))
    with pytest.raises(InputError, match="7 groups for 8 images; give one for each"):
        discriminate(outputs, logits, truth, asked, GROUPS[:7])


def test_the_same_seed_gives_the_same_interval_and_undefined_resamples_are_counted():
    scores, truth = torch.arange(8.0), torch.arange(8) == 7

    def measure(some: np.ndarray) -> list[float]:
        return [auroc(scores[some], truth[some]), math.nan]

    one, never = bootstrap(measure, range(8), resamples=60, seed=3)
    assert 20 < one.resamples < 60  # in a third of them the one image of the class is not drawn
    assert never.resamples == 0 and math.isnan(never.low)
    assert bootstrap(measure, range(8), resamples=60, seed=3)[0] == one
    assert bootstrap(measure, range(8), resamples=60, seed=4)[0] != one


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        ([1, 1, 1], {}, "1 group of images; an interval needs two or more"),
        (torch.zeros(3, 2), {}, r"a group is a list; allowed is one number or text for each image, \(M,\)"),
        ([torch.zeros(2)] * 3, {}, "a group is a Tensor; allowed is one number or text for each image"),
        ([1, 2], {"confidence": 95}, "confidence=95: allowed are shares between 0 and 1, such as 0.95"),
        ([1, 2], {"resamples": 0}, "resamples=0: allowed are integers, 1 and more"),
    ],
)
def test_what_gives_no_interval_is_refused(groups, options, message):
    with pytest.raises(InputError, match=message):
        bootstrap(lambda some: [0.0], groups, **options)


@pytest.mark.slow
def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    """200 sets of 40 patients with 4 images each, much alike: drawn by patient it does, by image not."""
    held = {"groups": 0, "images": 0}
    for trial in range(200):
        rng = np.random.default_rng(trial)
        values = (rng.normal(size=(40, 1)) + 0.3 * rng.normal(size=(40, 4))).reshape(-1)
        for name, groups in (("groups", [i // 4 for i in range(160)]), ("images", list(range(160)))):
            (got,) = bootstrap(lambda some: [values[some].mean()], groups, resamples=300, seed=trial)  # noqa: B023
            held[name] += got.low <= 0 <= got.high
    assert 0.88 < held["groups"] / 200 < 0.99
    assert held["images"] / 200 < 0.8


def test_truth_that_is_no_tensor_is_refused_in_one_line():
    scores, outputs = torch.tensor([0.9, 0.1, 0.4]), Outputs(("cat", "dog"))
    for metric in (auroc, lambda scores, truth: sensitivity_at_specificity(scores, truth, 0.9)):
        with pytest.raises(InputError, match="got truth as list; allowed are tensors: torch.as_tensor"):
            metric(scores, [1, 0, 1])
    logits = torch.eye(2)
    for truth, message in (
        ([0, 1], "got labels as list; allowed are tensors"),
        (torch.tensor([0, 2]), "labels from 0 to 2; with 2 classes allowed are 0 to 1"),
        (torch.ones(2, 3), r"truth of shape \(2, 3\) for logits of \(2, 2\); allowed is the same"),
    ):
        with pytest.raises(InputError, match=message):
            discriminate(outputs, logits, truth, Asked(("auroc",)))
