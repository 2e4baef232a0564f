"""Completeness, sparseness and stability of explanations."""

from __future__ import annotations

import pytest
import torch
from conftest import images
from torch import Tensor

from bcos_zoo import InputError, explain
from bcos_zoo.metrics import completeness_gap, constant_share, sparseness, stability


def test_an_exact_explanation_has_no_gap():
    contributions = torch.randn(3, 2, 5, 7)
    bias = torch.randn(3, 2)
    gap = completeness_gap(contributions, bias, contributions.double().sum((-2, -1)) + bias)
    assert (gap.absolute < 1e-12).all() and (gap.relative < 1e-9).all()
    assert gap.absolute.shape == (3, 2)


def test_the_gap_is_what_is_added_to_the_logit():
    contributions, bias = (
        torch.rand(4, 5, 5, dtype=torch.float64),
        torch.full((4,), -6.9, dtype=torch.float64),
    )
    total = contributions.sum((-2, -1))
    for extra in (0.5, -0.5):
        gap = completeness_gap(contributions, bias, total + bias + extra)
        torch.testing.assert_close(gap.absolute, torch.full((4,), 0.5, dtype=torch.float64))
        torch.testing.assert_close(gap.relative, 0.5 / (total + extra))


def test_the_relative_gap_of_nothing_to_explain_is_0_or_infinite():
    contributions = torch.tensor([[[1.0, -1.0]], [[1.0, 1.0]]])
    gap = completeness_gap(contributions, torch.ones(2), torch.ones(2))
    assert gap.absolute.tolist() == [0, 2] and gap.relative.tolist() == [0, torch.inf]


def test_a_bcos_network_explains_itself_completely(shared):
    explanation = explain(shared, images(), [1, 4])
    gap = completeness_gap(
        explanation.contributions, explanation.bias, explanation.logits.gather(1, explanation.targets)
    )
    assert gap.relative.shape == (2, 2) and gap.relative.max() < 1e-3


@pytest.mark.parametrize(
    ("contributions", "bias", "logits", "message"),
    [
        (
            torch.ones(3),
            torch.ones(3),
            torch.ones(3),
            r"contributions of shape \(3,\); allowed is \(..., H, W\)",
        ),
        (torch.ones(2, 3, 3), torch.ones(3), torch.ones(2), r"bias of shape \(3,\) .* allowed is \(2,\)"),
        (
            torch.ones(2, 3, 3),
            torch.ones(2),
            torch.ones(2, 5),
            r"logits of shape \(2, 5\) .* allowed is \(2,\)",
        ),
        (torch.ones(2, 3, 3), torch.ones(2), torch.tensor([0, torch.nan]), "NaN or infinity in logits"),
        (
            torch.ones(2, 3, 3),
            torch.ones(2).long(),
            torch.ones(2),
            "bias of type torch.int64; allowed are floats",
        ),
    ],
)
def test_the_completeness_gap_refuses(contributions, bias, logits, message):
    with pytest.raises(InputError, match=message):
        completeness_gap(contributions, bias, logits)


def slow_gini(values: Tensor) -> float:
    """Mean difference of all pairs, relative to twice the mean: another form of the same index."""
    flat = values.abs().flatten().double()
    return float((flat[:, None] - flat[None]).abs().mean() / (2 * flat.mean()))


def test_sparseness_is_0_of_a_constant_map_and_close_to_1_of_a_single_pixel():
    one = torch.zeros(5, 7)
    one[2, 3] = -4
    assert float(sparseness(torch.full((5, 7), 0.3))) == pytest.approx(0, abs=1e-12)
    assert float(sparseness(one)) == pytest.approx(1 - 1 / 35)
    assert sparseness(torch.zeros(5, 7)) == 0


def test_sparseness_is_in_range_and_that_of_a_loop_over_pairs():
    values = torch.randn(10, 6, 5)
    got = sparseness(values)
    assert got.tolist() == pytest.approx([slow_gini(v) for v in values])
    assert (got > 0).all() and (got < 1 - 1 / 30).all()


@pytest.mark.parametrize("scale", [-1.0, 1e-30, 1e30])
def test_sparseness_does_not_change_with_scale_sign_place_or_copies(scale):
    values = torch.randn(6, 5)
    shuffled = values.flatten()[torch.randperm(30)].reshape(5, 6)
    expected = float(sparseness(values))
    assert float(sparseness(values * scale)) == pytest.approx(expected)
    assert float(sparseness(shuffled)) == pytest.approx(expected)
    assert float(sparseness(torch.cat([values, -values]))) == pytest.approx(expected)


def test_sparseness_falls_as_the_rich_give_to_the_poor_and_grows_with_zeros():
    values = torch.tensor([[1.0, 2.0, 3.0, 10.0]])
    assert sparseness(torch.tensor([[2.0, 2.0, 3.0, 9.0]])) < sparseness(values)
    assert sparseness(torch.tensor([[1.0, 2.0, 3.0, 10.0, 0.0]])) > sparseness(values)
    assert sparseness(values + 1) < sparseness(values)


def test_sparseness_refuses_what_is_no_map():
    with pytest.raises(
        InputError, match=r"attributions of shape \(0, 3\); allowed is \(..., H, W\), with no axis"
    ):
        sparseness(torch.ones(0, 3))
    with pytest.raises(InputError, match="NaN or infinity in attributions"):
        sparseness(torch.full((3, 3), torch.nan))


def test_a_constant_explanation_is_perfectly_stable():
    for value in (0.0, 2.0):
        result = stability(lambda x, value=value: torch.full((len(x), 4, 4), value), torch.rand(3, 4, 4))
        assert (result.mean, result.max) == (0, 0)


def test_an_explanation_from_nothing_is_infinitely_unstable():
    image = torch.full((3, 4, 4), 0.5)
    assert stability(lambda x: x.sum(1) - 1.5, image).mean == torch.inf


def test_a_linear_explanation_changes_in_proportion_to_the_noise_and_not_to_its_scale():
    image = torch.full((3, 6, 6), 0.5)
    results = [stability(lambda x: x.sum(1), image, size=size) for size in (0.01, 0.02)]
    assert results[1].mean == pytest.approx(2 * results[0].mean, rel=1e-4)
    assert results[1].max == pytest.approx(2 * results[0].max, rel=1e-4)
    scaled = stability(lambda x: 1e-6 * x.sum(1), image, size=0.02)
    assert scaled.mean == pytest.approx(results[1].mean, rel=1e-4)


def test_stability_is_that_of_a_loop_over_the_noisy_images():
    seen: list[Tensor] = []

    def explainer(x: Tensor) -> Tensor:
        seen.extend(x)
        return x[:, 0] * x[:, 1] - x[:, 2]

    image = torch.rand(3, 6, 6)
    result = stability(explainer, image, size=0.1, samples=7, batch=3)
    clean, *noisy = seen
    assert torch.equal(clean, image) and len(noisy) == 7
    assert all((one - image).abs().max() <= 0.1 + 1e-6 for one in noisy)
    assert all(0 <= float(one.min()) and float(one.max()) <= 1 for one in noisy)
    assert len({float(one.sum()) for one in noisy}) == 7
    reference = explainer(image[None])[0]
    changes = [float((explainer(one[None])[0] - reference).norm() / reference.norm()) for one in noisy]
    assert result.mean == pytest.approx(sum(changes) / 7, rel=1e-5)
    assert result.max == pytest.approx(max(changes), rel=1e-5)


def test_stability_is_the_same_for_the_same_seed_in_batches_of_any_size():
    image = torch.rand(3, 6, 6)
    state = torch.random.get_rng_state()
    results = [stability(lambda x: x.sum(1), image, batch=batch) for batch in (1, 4, 100)]
    assert len({round(result.mean, 9) for result in results}) == 1
    assert stability(lambda x: x.sum(1), image, seed=1) != results[0]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_explanations_of_a_bcos_network_can_be_asked_for_their_stability(shared):
    small = stability(lambda x: explain(shared, x, 3).contributions[:, 0], images(1)[0], size=1e-4, samples=3)
    large = stability(lambda x: explain(shared, x, 3).contributions[:, 0], images(1)[0], size=0.1, samples=3)
    assert 0 < small.mean <= small.max < large.max


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(1, 3, 4, 4)}, r"image of shape \(1, 3, 4, 4\); allowed is \(K, H, W\)"),
        (
            {"image": torch.full((3, 4, 4), 2.0)},
            r"values from 2 to 2; allowed is \[0, 1\]: leave out mean/std",
        ),
        ({"size": 0.0}, "size=0.0: allowed are finite values above 0"),
        ({"size": torch.nan}, "size=nan: allowed are finite values above 0"),
        ({"samples": 0}, "samples=0: allowed are integers, 1 and more"),
        ({"batch": 0}, "batch=0"),
        ({"seed": -1}, "seed=-1"),
        ({"explainer": lambda x: x.sum()}, r"the explainer's values of shape \(\); allowed is \(B, ...\)"),
        ({"explainer": lambda x: x[:, :0]}, "no axis of length 0"),
        (
            {"explainer": lambda x: torch.ones(3, 4, 4)},
            r"gives \(3, 4, 4\) for 1 images; allowed is \(1, ...\)",
        ),
        (
            {"explainer": lambda x: torch.ones(len(x), len(x))},
            r"gives \(1,\) for one image and \(8,\) for another",
        ),
        ({"explainer": lambda x: x / 0}, "NaN or infinity in the explainer's values"),
    ],
)
def test_stability_refuses(change, message):
    with pytest.raises(InputError, match=message):
        stability(**({"explainer": lambda x: x, "image": torch.zeros(3, 4, 4)} | change))


def test_the_share_of_the_constants_is_that_of_the_whole_whatever_the_signs():
    contributions = torch.tensor([[[[3.0, -1.0]], [[-2.0, -4.0]], [[0.5, 0.5]]]])
    share = constant_share(contributions, torch.tensor([[2.0, 2.0, 0.0]]))
    assert share.tolist() == [[0.5, 0.25, 0.0]]


def test_constants_alone_are_the_whole_and_nothing_has_no_share():
    share = constant_share(torch.zeros(1, 2, 3, 3), torch.tensor([[-5.0, 0.0]]))
    assert float(share[0, 0]) == 1 and share[0, 1].isnan()


@pytest.mark.parametrize(
    ("contributions", "bias", "message"),
    [
        (torch.zeros(1, 2, 3, 3), torch.zeros(2, 1), "bias of shape"),
        (torch.zeros(3), torch.zeros(1, 1), "contributions of shape"),
        (torch.zeros(1, 1, 3, 3), torch.tensor([[float("nan")]]), "NaN or infinity in bias"),
    ],
)
def test_the_share_of_the_constants_refuses(contributions, bias, message):
    with pytest.raises(InputError, match=message):
        constant_share(contributions, bias)
