"""What can be done with an explanation: coloured, contrasted, saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import images, network

from bcos_zoo import Explanation, InputError, explain
from bcos_zoo.explanations.explanation import DEFAULT_PERCENTILE, DEFAULT_SMOOTH, opaque_length

LABELS = tuple("abcdefghij")


@pytest.fixture(scope="module")
def several(shared: Any) -> Explanation:
    return explain(shared, images(), [4, 5, 0], class_names=LABELS)


def made(weights: torch.Tensor, contributions: torch.Tensor) -> Explanation:
    """One image, one target."""
    one = torch.zeros(1, 1)
    return Explanation(one, one.long(), weights[None, None], contributions[None, None], one)


def published_picture(
    weights: torch.Tensor, contributions: torch.Tensor, smooth: int, percentile: float
) -> Any:
    """Pixel by pixel, as the paper tells it. weights: (6, H, W). Returns (4, H, W)."""
    w, c = weights.numpy().astype(np.float64), contributions.numpy()
    _, height, width = w.shape
    picture, raw = np.zeros((4, height, width)), np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            positive = np.maximum(w[:, i, j], 0)
            picture[:3, i, j] = positive[:3] / np.maximum(positive[:3] + positive[3:], 1e-30)
            raw[i, j] = np.linalg.norm(w[:, i, j]) if c[i, j] >= 0 else 0
    reach = (smooth - 1) // 2
    for i in range(height):
        for j in range(width):
            window = raw[max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1]
            picture[3, i, j] = window.sum() / smooth**2  # beyond the border there is nothing
    picture[3] = np.clip(picture[3] / np.percentile(picture[3], percentile), 0, 1)
    return picture


@pytest.mark.parametrize(("smooth", "percentile"), [(15, 99.5), (1, 100.0), (5, 80.0)])
def test_pictures_are_those_of_a_slow_reference(several, smooth, percentile):
    pictures = several.rgba(smooth, percentile)
    assert pictures.shape == (2, 3, 4, 33, 31)
    for n, t in ((0, 0), (1, 2)):
        expected = published_picture(several.weights[n, t], several.contributions[n, t], smooth, percentile)
        np.testing.assert_allclose(pictures[n, t].numpy(), expected, rtol=0, atol=1e-4)


def test_pictures_use_the_published_settings_unless_told_otherwise(several):
    assert (DEFAULT_SMOOTH, DEFAULT_PERCENTILE) == (15, 99.5)
    torch.testing.assert_close(several.rgba(), several.rgba(15, 99.5))


@pytest.mark.parametrize("smooth", [0, 1, 2, 14, 15, 99])
def test_any_smoothing_window_keeps_the_size(several, smooth):
    pictures = several.rgba(smooth)
    assert pictures.shape == (2, 3, 4, 33, 31)
    assert pictures.isfinite().all() and pictures.min() >= 0 and pictures.max() <= 1
    assert (pictures[:, :, 3].amax((-1, -2)) == 1).all()


def test_the_colour_of_a_pixel_is_that_of_its_weights():
    weights = torch.zeros(6, 2, 2)
    weights[0, 0, 0] = 2.0  # red
    weights[3:, 0, 1] = 2.0  # black
    weights[:, 1, 0] = torch.tensor([3.0, -1.0, 0.0, 1.0, 5.0, 0.0])
    picture = made(weights, torch.ones(2, 2)).rgba(0, 100.0)[0, 0]
    torch.testing.assert_close(picture[:3, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(picture[:3, 0, 1], torch.zeros(3))
    torch.testing.assert_close(picture[:3, 1, 0], torch.tensor([0.75, 0.0, 0.0]))
    torch.testing.assert_close(picture[3], torch.tensor([[2.0, 12**0.5], [6.0, 0.0]]) / 6)


def test_where_all_pixels_speak_against_a_target_its_picture_is_transparent():
    picture = made(torch.rand(6, 9, 9), -torch.rand(9, 9) - 0.1).rgba()
    assert picture.isfinite().all() and not picture[:, :, 3].any()


def test_zero_weights_give_a_transparent_picture():
    picture = made(torch.zeros(6, 9, 9), torch.zeros(9, 9)).rgba()
    assert not picture.any()


def test_one_pixel_that_speaks_for_a_target_is_seen():
    contributions = -torch.ones(33, 33)
    contributions[16, 16] = 1.0
    picture = made(torch.ones(6, 33, 33), contributions).rgba(1)
    assert picture[0, 0, 3, 16, 16] == 1 and picture[0, 0, 3].sum() == 1


def test_grey_networks_have_grey_pictures():
    grey = explain(network("bcos_resnet20", in_chans=1), images(channels=1))
    picture = grey.rgba()
    assert picture.shape == (2, 1, 4, 33, 31)
    assert torch.equal(picture[:, :, 0], picture[:, :, 2])
    two = explain(network("bcos_resnet20", in_chans=2), images(channels=2))
    with pytest.raises(
        InputError, match="a network of 2 input channels has no colours; rgba is for 1 .* and 3"
    ):
        two.rgba()


@pytest.mark.parametrize(("smooth", "percentile"), [(-1, 99.5), (15, 0.0), (15, 101.0), (15, float("nan"))])
def test_settings_out_of_range_are_refused(several, smooth, percentile):
    with pytest.raises(InputError, match="allowed are smooth >= 0 and 0 < percentile <= 100"):
        several.rgba(smooth, percentile)


def test_a_contrast_explains_the_difference_of_two_logits(several):
    for a, b, i, j in ((4, 5, 0, 1), ("a", "e", 2, 0)):
        contrast = several.contrast(a, b)
        difference = several.logits.gather(1, several.targets)
        torch.testing.assert_close(contrast.logits[:, 0], difference[:, i] - difference[:, j])
        torch.testing.assert_close(contrast.weights[:, 0], several.weights[:, i] - several.weights[:, j])
        assert contrast.completeness().abs().max() < 1e-4 * contrast.logits.abs().max()
        assert not contrast.bias.any()  # all classes share the logit bias
        assert contrast.rgba().isfinite().all()
    assert contrast.labels == (("a - e",), ("a - e",))


def test_a_contrast_finds_the_targets_of_each_image(shared):
    targets = torch.tensor([[4, 5], [5, 4]])
    names = "plane car bird cat deer dog frog horse ship truck".split()
    explanation = explain(shared, images(), targets, class_names=names)
    contrast = explanation.contrast(4, 5)
    expected = explanation.weights[:, 0] - explanation.weights[:, 1]
    torch.testing.assert_close(contrast.weights[:, 0], expected * torch.tensor([1, -1])[:, None, None, None])
    assert contrast.labels == (("deer - dog",),) * 2


@pytest.mark.parametrize("target", [9, "b", "unicorn"])
def test_a_contrast_with_a_target_not_explained_is_refused(several, target):
    with pytest.raises(
        InputError, match=f"{target!r} is not among the explained targets; name it in `targets`"
    ):
        several.contrast(4, target)


def test_a_contrast_of_a_class_with_itself_is_refused_however_it_is_named(several):
    for a, b in ((4, 4), ("a", "a"), ("a", 0)):
        with pytest.raises(InputError, match=f"{a!r} and {b!r} are one class; name two"):
            several.contrast(a, b)


def test_a_label_of_two_classes_does_not_say_which_is_meant(shared):
    twice = explain(shared, images(), [0, 9, 1], class_names=("crane", *LABELS[1:9], "crane"))
    with pytest.raises(
        InputError, match=r"'crane' is the name of the classes \[0, 9\]; give the index of one"
    ):
        twice.contrast("crane", "b")
    assert torch.equal(twice.contrast(9, "b").weights[:, 0], twice.weights[:, 1] - twice.weights[:, 2])
    assert explain(shared, images(), [0, 1, 0], class_names=LABELS).contrast("a", 1).labels[0] == ("a - b",)


def test_labels_need_names(shared):
    with pytest.raises(InputError, match="'a' is not among the explained targets"):
        explain(shared, images(), [4, 5], class_names=None).contrast("a", 4)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_saved_arrays_are_the_explanation(shared, tmp_path, labels):
    explanation = explain(shared, images(), [4, 5], class_names=labels or ("cat",) * 10, dtype=torch.float64)
    path = explanation.save(str(tmp_path / "e.npz"))
    assert explanation.save(path) == path == tmp_path / "e.npz"  # written over
    with np.load(path) as arrays:
        for name in ("logits", "targets", "weights", "contributions", "bias"):
            np.testing.assert_array_equal(arrays[name], getattr(explanation, name).numpy())
        assert arrays["labels"].tolist() == [list(row) for row in explanation.labels]
    assert [file.name for file in tmp_path.iterdir()] == ["e.npz"]


def test_half_precision_arrays_are_saved_as_float32(shared, tmp_path):
    path = explain(shared, images(), dtype=torch.bfloat16).save(tmp_path / "e.npz")
    with np.load(path) as arrays:
        assert arrays["weights"].dtype == np.float32


def test_a_save_that_fails_leaves_nothing(several, tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match="e.png: an explanation's arrays are saved as .npz; pictures are made by"
    ):
        several.save(tmp_path / "e.png")

    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="disk full"):
        several.save(tmp_path / "e.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pixels", [1, 2, 7, 1000])
@pytest.mark.parametrize("percentile", [0.1, 50.0, 99.5, 99.99, 100.0])
def test_what_is_opaque_is_numpys_percentile(pixels: int, percentile: float) -> None:
    lengths = torch.rand(2, 3, 1, pixels, dtype=torch.float64)
    expected = np.percentile(lengths[:, :, 0].numpy(), percentile, axis=2)
    np.testing.assert_allclose(opaque_length(lengths, percentile), expected, rtol=1e-12)


def test_what_is_opaque_of_more_pixels_than_torchs_quantile_takes() -> None:
    lengths = torch.zeros(257, 1, 256, 256)  # 2^24 and more, which some versions refuse
    lengths[-1] = torch.linspace(0, 1, 256 * 256).view(256, 256)
    assert opaque_length(lengths, 75.0)[[0, -1], 0].tolist() == pytest.approx([0, 0.75])
