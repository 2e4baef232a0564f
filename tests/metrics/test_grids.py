"""Grids of images: which images, how they are laid out, and how windows of one size see them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bcos_zoo import InputError
from bcos_zoo.metrics import make_grids, slide, tile


def pool(images: int = 400, classes: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels, about two thirds of the images right and confident."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 2.5
    return logits, labels


def published_list(logits: torch.Tensor, labels: torch.Tensor, cells: int) -> list[int]:
    """The published code's list of images, block after block, from its description."""
    ranked = {}
    for label in range(logits.shape[1]):
        right = [i for i in range(len(labels)) if labels[i] == label and logits[i].argmax() == label]
        right = [i for i in right if logits[i].max().sigmoid() > 0.5]
        ranked[label] = sorted(right, key=lambda i: -float(logits[i].max()))
    generator, chosen = np.random.RandomState(42), []
    while len(alive := np.array([label for label in ranked if ranked[label]])) > cells:
        for label in generator.choice(alive, size=cells, replace=False):
            chosen.append(ranked[label].pop(0))
    return chosen


@pytest.mark.parametrize("n", [2, 3])
def test_grids_hold_right_and_confident_images_of_distinct_classes_each_once(n):
    logits, labels = pool()
    grids = make_grids(logits, labels, n)
    assert grids.shape[1] == n * n and len(grids) > 5
    assert len(grids.unique()) == grids.numel()
    for grid in grids:
        assert len(labels[grid].unique()) == n * n
        assert (logits[grid].argmax(1) == labels[grid]).all()
        assert (logits[grid].max(1).values.sigmoid() > 0.5).all()


@pytest.mark.parametrize("n", [2, 3])
def test_grids_are_the_published_draws_and_end_later(n):
    logits, labels = pool()
    grids, published = make_grids(logits, labels, n), published_list(logits, labels, n * n)
    assert grids.flatten().tolist()[: len(published)] == published
    assert grids.numel() >= len(published)


def test_a_pool_of_just_enough_classes_gives_grids():
    logits, labels = torch.eye(4).repeat(3, 1), torch.arange(4).repeat(3)
    assert published_list(logits, labels, 4) == []
    assert make_grids(logits, labels, 2).sort().values.tolist() == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]


def test_the_most_confident_image_of_a_class_comes_first():
    logits, labels = pool()
    confidence = logits.max(1).values
    for label in range(12):
        used = [i for i in make_grids(logits, labels, 3).flatten().tolist() if labels[i] == label]
        assert confidence[used].tolist() == sorted(confidence[used].tolist(), reverse=True)


def test_grids_are_the_same_for_the_same_seed_and_others_for_another():
    logits, labels = pool()
    state = np.random.get_state()[1].tolist()
    assert torch.equal(make_grids(logits, labels, 2), make_grids(logits, labels, 2, seed=42))
    assert not torch.equal(make_grids(logits, labels, 2, 5), make_grids(logits, labels, 2, 5, seed=1))
    assert np.random.get_state()[1].tolist() == state


def test_fewer_grids_are_the_first_of_all():
    logits, labels = pool()
    assert torch.equal(make_grids(logits, labels, 3, 4), make_grids(logits, labels, 3)[:4])


@pytest.mark.parametrize("confidence", ["sigmoid", "softmax"])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_the_threshold_is_of_the_named_probability(confidence, threshold):
    logits, labels = pool(images=200, classes=4)
    probabilities = logits.sigmoid() if confidence == "sigmoid" else logits.softmax(1)
    grids = make_grids(logits, labels, 2, threshold=threshold, confidence=confidence)
    assert (probabilities[grids.flatten()].max(1).values > threshold).all()


def test_a_confidence_of_just_the_threshold_is_not_enough():
    logits = torch.zeros(4, 4)
    with pytest.raises(InputError, match="0 images of 0 classes are right with confidence above 0.5"):
        make_grids(logits, logits.argmax(1), 2)


def test_logits_too_large_to_differ_as_probabilities_are_still_ranked():
    logits = torch.diag(torch.tensor([90.0, 90.0, 90.0, 90.0])).repeat(2, 1)
    logits[4:] += 10 * torch.eye(4)
    grids = make_grids(logits, torch.arange(4).repeat(2), 2)
    assert set(grids[0].tolist()) == {4, 5, 6, 7}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(3)}, r"logits of shape \(3,\); allowed is \(M, C\)"),
        ({"logits": torch.full((6, 5), torch.nan)}, "NaN or infinity in logits"),
        ({"labels": torch.zeros(5).long()}, r"labels of shape \(5,\) .* allowed for 6 images is \(6,\)"),
        ({"labels": torch.zeros(6)}, "type torch.float32; allowed for 6 images"),
        ({"labels": torch.full((6,), 5)}, "labels from 5 to 5; with 5 classes allowed are 0 to 4"),
        ({"n": 1}, "n=1: allowed are integers, 2 and more"),
        ({"count": 0}, "count=0: allowed are integers, 1 and more"),
        ({"seed": -1}, "seed=-1: allowed are integers, 0 to 4294967295"),
        ({"threshold": 1.0}, "threshold=1.0: allowed are probabilities from 0 to below 1"),
        ({"confidence": "tanh"}, "confidence='tanh': allowed are 'sigmoid' and 'softmax'"),
        ({"count": 2}, "5 images of 5 classes .* enough for 1 grids of 4 classes, not 2; add images"),
    ],
)
def test_grids_refuse(change, message):
    given = {"logits": torch.eye(5)[[0, 1, 2, 3, 4, 0]], "labels": torch.tensor([0, 1, 2, 3, 4, 1]), "n": 2}
    with pytest.raises(InputError, match=message):
        make_grids(**(given | change))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_each_image_is_found_in_its_cell_row_by_row(n):
    images = torch.rand(2, n * n, 3, 4, 5)
    tiled = tile(images, n)
    assert tiled.shape == (2, 3, 4 * n, 5 * n)
    for i in range(n * n):
        row, column = divmod(i, n)
        cell = tiled[..., 4 * row : 4 * row + 4, 5 * column : 5 * column + 5]
        assert torch.equal(cell, images[:, i])
    assert torch.equal(tile(images[0], n), tiled[0])


def test_tiling_refuses_another_number_of_images():
    with pytest.raises(InputError, match=r"\(3, 3, 8, 8\); allowed for n=2 is \(..., 4, K, H, W\): stack"):
        tile(torch.zeros(3, 3, 8, 8), 2)


def two_targets(windows: torch.Tensor) -> torch.Tensor:
    """(B, 2, size, size): depends on the pixel, its place in the window and on all of the window."""
    place = torch.linspace(-1, 1, windows[0, 0].numel()).reshape(windows.shape[-2:])
    mean = windows.mean((1, 2, 3))[:, None, None]
    return torch.stack([windows.sum(1) * place + mean, windows[:, 0] - mean * place], 1)


@pytest.mark.parametrize(
    ("size", "stride", "height", "width"), [(8, 4, 16, 24), (8, 8, 16, 16), (6, 4, 14, 10)]
)
def test_windows_are_unfolded_and_folded_as_published(size, stride, height, width):
    image, padding = torch.rand(3, height, width), size - stride
    patches = F.unfold(image[None], size, stride=stride, padding=padding)[0].T.reshape(-1, 3, size, size)
    maps = two_targets(patches).movedim(0, -1).reshape(2, size * size, -1)
    expected = F.fold(maps, (height, width), size, stride=stride, padding=padding)[:, 0]
    for batch in (1, 5, 100):
        got = slide(two_targets, image, size, stride, batch=batch)
        torch.testing.assert_close(got, expected.double(), rtol=1e-5, atol=1e-5)


def test_sums_of_windows_are_averages_times_windows_seen_if_the_stride_divides_the_size():
    image = torch.rand(3, 16, 16)
    total, mean = (slide(two_targets, image, 8, 4, average=average) for average in (False, True))
    torch.testing.assert_close(total, mean * (8 / 4) ** 2)


@pytest.mark.parametrize(("size", "stride"), [(6, 3), (6, 4), (7, 5)])
def test_an_explanation_that_needs_no_neighbours_is_the_same_through_averaged_windows(size, stride):
    image = torch.rand(3, 18, 18)
    got = slide(lambda windows: windows.sum(1), image, size, stride, average=True)
    torch.testing.assert_close(got, image.sum(0).double())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(1, 3, 16, 16)}, r"image of shape \(1, 3, 16, 16\); allowed is \(K, H, W\)"),
        ({"size": 0}, "size=0: allowed are integers, 1 and more"),
        ({"stride": 9}, "stride=9: allowed are integers, 1 to 8"),
        ({"batch": 0}, "batch=0"),
        (
            {"stride": 5},
            "windows of 8 at a stride of 5 do not end with an image of 16x16; .* divide 24 and 24",
        ),
        (
            {"explainer": lambda x: x.sum(1)[:1]},
            r"gives \(1, 8, 8\) for 4 windows; allowed is \(4, ..., 8, 8\)",
        ),
        ({"explainer": lambda x: x / 0}, "NaN or infinity in the explainer's contributions"),
    ],
)
def test_windows_refuse(change, message):
    given = {"explainer": two_targets, "image": torch.zeros(3, 16, 16), "size": 8, "stride": 8} | change
    with pytest.raises(InputError, match=message):
        slide(**given)
