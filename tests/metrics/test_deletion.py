"""Deletion and insertion curves, first of a model whose contributions are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import images
from torch import Tensor

from bcos_zoo import InputError, explain
from bcos_zoo.metrics import Curve, deletion_curve, insertion_curve

SIDE = 8


class Linear:
    """Logits (B, 2) that are linear in the image, so that what each pixel adds is known."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weights = torch.randn(2, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
        self.batches: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return torch.einsum("bkhw,ckhw->bc", x, self.weights)

    def contributions(self, image: Tensor, target: int) -> Tensor:
        return (self.weights[target] * image).sum(0)


@pytest.fixture
def model() -> Linear:
    return Linear()


@pytest.fixture
def image() -> Tensor:
    return torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def slow_deletion(
    model: Linear, image: Tensor, attribution: Tensor, target: int, k: int, other: Tensor
) -> Tensor:
    """The logit after the deletion of the k most important pixels, one by one."""
    image = image.clone()
    places = [(y, x) for y in range(SIDE) for x in range(SIDE)]
    for y, x in sorted(places, key=lambda place: -float(attribution[place]))[:k]:
        image[:, y, x] = other[:, y, x]
    return model(image[None])[0, target]


def test_deleting_by_exact_contributions_lowers_a_linear_logit_fastest_at_every_step(model, image):
    exact = deletion_curve(model, image, model.contributions(image, 1), 1, steps=64, score="logit")
    for seed in range(20):
        other = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        curve = deletion_curve(model, image, other, 1, steps=64, score="logit")
        assert (exact.scores <= curve.scores + 1e-9).all()
        assert exact.area < curve.area


def test_least_important_first_deletion_keeps_a_linear_logit_highest_at_every_step(model, image):
    contributions = model.contributions(image, 0)
    best = deletion_curve(model, image, contributions, 0, order="least", steps=32, score="logit")
    for seed in range(20):
        other = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        curve = deletion_curve(model, image, other, 0, order="least", steps=32, score="logit")
        assert (best.scores >= curve.scores - 1e-9).all()


def test_a_logit_of_positive_contributions_only_falls_and_rises(image):
    model = Linear()
    model.weights = model.weights.abs()
    contributions = model.contributions(image, 0)
    deletion = deletion_curve(model, image, contributions, 0, steps=64, score="logit").scores
    insertion = insertion_curve(
        model, image, contributions, 0, steps=64, replacement="black", score="logit"
    ).scores
    assert (deletion.diff() < 0).all() and (insertion.diff() > 0).all()
    assert (deletion.diff().diff() > -1e-9).all(), "the largest go first"


@pytest.mark.parametrize("replacement", ["black", "mean", "blur"])
def test_deleting_the_most_important_is_inserting_the_least_important_backwards(model, image, replacement):
    attribution = model.contributions(image, 0)
    deletion = deletion_curve(model, image, attribution, 0, steps=64, replacement=replacement)
    insertion = insertion_curve(
        model, image, attribution, 0, order="least", steps=64, replacement=replacement
    )
    torch.testing.assert_close(deletion.scores, insertion.scores.flip(0))
    assert deletion.area == pytest.approx(insertion.area)


def test_curves_begin_and_end_with_the_whole_images(model, image):
    curve = deletion_curve(model, image, torch.rand(SIDE, SIDE), 1, steps=7, replacement="black")
    assert float(curve.scores[0]) == pytest.approx(float(model(image[None])[0, 1].sigmoid()))
    assert float(curve.scores[-1]) == pytest.approx(0.5)
    assert curve.fractions[0] == 0 and curve.fractions[-1] == 1 and (curve.fractions.diff() > 0).all()


def test_points_are_those_of_a_loop_over_pixels(model, image):
    attribution, other = torch.randn(SIDE, SIDE), torch.rand(3, SIDE, SIDE, dtype=torch.float64)
    curve = deletion_curve(
        model, image, attribution, 1, fraction=0.5, steps=9, replacement=other, score="logit", batch=4
    )
    counts = [round(i / 9 * 32) for i in range(10)]
    assert curve.fractions.tolist() == pytest.approx([k / 64 for k in counts])
    for k, score in zip(counts, curve.scores, strict=True):
        assert float(score) == pytest.approx(float(slow_deletion(model, image, attribution, 1, k, other)))


def test_a_part_of_a_curve_is_its_beginning(model, image):
    attribution = torch.randn(SIDE, SIDE)
    whole = deletion_curve(model, image, attribution, 0, steps=64)
    part = deletion_curve(model, image, attribution, 0, fraction=0.25, steps=16)
    torch.testing.assert_close(part.scores, whole.scores[:17])
    torch.testing.assert_close(part.fractions, whole.fractions[:17])


def test_the_size_of_batches_changes_nothing_and_is_kept(model, image):
    attribution = torch.randn(SIDE, SIDE)
    curves = [deletion_curve(model, image, attribution, 0, steps=10, batch=batch) for batch in (1, 4, 100)]
    for curve in curves[1:]:
        torch.testing.assert_close(curve.scores, curves[0].scores)
    assert model.batches == [1] * 11 + [4, 4, 3] + [11]


def test_pixels_of_equal_importance_go_row_by_row(model, image):
    row_by_row = torch.arange(SIDE * SIDE).reshape(SIDE, SIDE).float()
    for order, ranks in (("most", -row_by_row), ("least", row_by_row)):
        flat = deletion_curve(model, image, torch.zeros(SIDE, SIDE), 0, order=order, steps=64)
        torch.testing.assert_close(
            flat.scores, deletion_curve(model, image, ranks, 0, order=order, steps=64).scores
        )


@pytest.mark.parametrize("score", ["sigmoid", "softmax", "logit"])
def test_scores_are_of_the_kind_asked_for(model, image, score):
    logits = model(image[None])
    expected = {"sigmoid": logits.sigmoid(), "softmax": logits.softmax(1), "logit": logits}[score][0, 1]
    curve = deletion_curve(model, image, torch.rand(SIDE, SIDE), 1, steps=1, score=score)
    assert float(curve.scores[0]) == pytest.approx(float(expected))


def test_mean_keeps_the_mean_colour_and_blur_keeps_constant_images(image):
    seen = []

    def model(x: Tensor) -> Tensor:
        seen.append(x[-1])
        return x.mean((2, 3))

    attribution = torch.rand(SIDE, SIDE)
    deletion_curve(model, image, attribution, 0, steps=1, replacement="mean")
    torch.testing.assert_close(seen[-1], image.mean((1, 2), keepdim=True).expand_as(image))
    deletion_curve(model, image, attribution, 0, steps=1, replacement="blur")
    assert seen[-1].var() < 0.2 * image.var()
    flat = torch.full_like(image, 0.3)
    deletion_curve(model, flat, attribution, 0, steps=1, replacement="blur")
    torch.testing.assert_close(seen[-1], flat)


def test_the_area_of_a_constant_curve_is_its_score_whatever_its_width():
    for end in (0.25, 1.0):
        fractions = torch.tensor([0, 0.1, end])
        assert Curve(fractions, torch.full((3,), 0.7)).area == pytest.approx(0.7)
    assert Curve(torch.linspace(0, 1, 11), torch.linspace(1, 0, 11)).area == pytest.approx(0.5)


def test_nothing_given_is_changed_and_no_graph_is_kept(model, image):
    image.requires_grad_()
    attribution = torch.randn(SIDE, SIDE, requires_grad=True)
    before = image.detach().clone(), attribution.detach().clone()
    curve = insertion_curve(model, image, attribution, 0, steps=3)
    assert not curve.scores.requires_grad
    assert torch.equal(image, before[0]) and torch.equal(attribution, before[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(SIDE, SIDE)}, r"image of shape \(8, 8\); allowed is \(K, H, W\)"),
        ({"image": torch.full((3, SIDE, SIDE), torch.inf)}, "NaN or infinity in image"),
        (
            {"attribution": torch.zeros(3, SIDE, SIDE)},
            r"attribution of shape \(3, 8, 8\); allowed is \(H, W\)",
        ),
        ({"attribution": torch.zeros(4, 4)}, r"an attribution of \(4, 4\) .* allowed is \(8, 8\): sum over"),
        ({"attribution": torch.full((SIDE, SIDE), torch.nan)}, "NaN or infinity in attribution"),
        ({"order": "best"}, "order='best': allowed are 'most' and 'least'"),
        ({"score": "margin"}, "score='margin': allowed are 'sigmoid', 'softmax' and 'logit'"),
        ({"fraction": 0.0}, "fraction=0.0: allowed are shares of the pixels, above 0 and up to 1"),
        ({"steps": 65}, "steps=65: allowed are integers, 1 to 64"),
        ({"fraction": 0.25, "steps": 17}, "steps=17: allowed are integers, 1 to 16"),
        ({"batch": 0}, "batch=0: allowed are integers, 1 and more"),
        ({"target": -1}, "target=-1: allowed are integers, 0 and more"),
        ({"target": 2}, r"the model gives \(5, 2\) for 5 images and target 2"),
        ({"replacement": "grey"}, "replacement='grey': allowed are 'black', 'mean', 'blur' and an image"),
        (
            {"replacement": torch.zeros(3, 4, 4)},
            r"a replacement of shape \(3, 4, 4\); allowed is the image's",
        ),
        ({"model": lambda x: x[:, 0, 0, 0]}, r"the model's logits of shape \(5,\); allowed is \(B, C\)"),
        ({"model": lambda x: x[:, 0, 0] / 0}, "NaN or infinity in the model's logits"),
        ({"model": lambda x: x[:1, 0, 0]}, r"gives \(1, 8\) for 5 images"),
        (
            {"image": torch.zeros(3, 5, 9), "attribution": torch.zeros(5, 9), "replacement": "blur"},
            "an image of 5x9 pixels is too small to blur; allowed are 6 and more a side",
        ),
    ],
)
@pytest.mark.parametrize("curve", [deletion_curve, insertion_curve])
def test_curves_refuse(model, image, curve, change, message):
    given: dict[str, Any] = {"attribution": torch.rand(SIDE, SIDE), "target": 0, "steps": 4} | change
    with pytest.raises(InputError, match=message):
        curve(**({"model": model, "image": image} | given))


def test_a_bcos_network_is_run_as_it_is(shared):
    x = images(1)
    explanation = explain(shared, x, 3)
    curve = deletion_curve(shared, x[0], explanation.contributions[0, 0], 3, steps=6, score="logit")
    assert float(curve.scores[0]) == pytest.approx(float(explanation.logits[0, 3]), rel=1e-4)


def test_zero_in_all_encoded_channels_takes_just_what_a_pixel_adds_to_a_fixed_linear_map():
    linear = torch.randn(4, 6, SIDE, SIDE, dtype=torch.float64)
    encoded = torch.rand(3, SIDE, SIDE, dtype=torch.float64)
    encoded = torch.cat([encoded, 1 - encoded])
    contributions = (linear[2] * encoded).sum(0)
    curve = deletion_curve(
        lambda x: torch.einsum("bkhw,ckhw->bc", x, linear), encoded, contributions, 2, steps=64, score="logit"
    )
    lost = contributions.flatten().sort(descending=True).values.cumsum(0)
    torch.testing.assert_close(curve.scores[0] - curve.scores[1:], lost)
