"""Pictures of any proportions: the resize that precedes the crop stays small, and shows the same."""

import pytest
import torch
from PIL import Image, features
from timm.data import create_transform, resolve_model_data_config

import bcos_zoo
from bcos_zoo import InputError, images, pipeline
from bcos_zoo.data.augment import Augment, train_transform
from bcos_zoo.evaluate.geometry import centres
from bcos_zoo.images.bounded import LONGEST, Bound, card_transform
from bcos_zoo.training.networks import val_transform

CARD = {
    "input_size": (3, 64, 64),
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "mean": (0, 0, 0),
    "std": (1, 1, 1),
}


def stripes(size):
    image = Image.new("RGB", size)
    for i in range(max(size)):
        image.putpixel((i, 0) if size[0] > size[1] else (0, i), (i * 37 % 256, i * 11 % 256, i % 256))
    return image.resize(size)


@pytest.mark.parametrize("size", [(100, 3200), (3, 96), (33, 1000), (40, 30)])
def test_a_picture_within_the_bound_is_left_alone(size):
    assert Bound()(image := Image.new("RGB", size)) is image


@pytest.mark.parametrize("size", [(1, 500), (1, 501), (500, 1), (3, 400), (401, 3), (2, 2001)])
def test_what_the_network_sees_is_the_same_with_the_bound(size):
    image = stripes(size)
    for card in (CARD, CARD | {"input_size": (3, 64, 96)}):
        exact = create_transform(**card, is_training=False)(image)
        assert (card_transform(card)(image) - exact).abs().max() < 0.03


@pytest.mark.parametrize("mode", ["squash", "border"])
def test_transforms_that_keep_all_of_the_picture_are_not_cropped(mode):
    image = stripes((4, 400))
    card = CARD | {"crop_mode": mode}
    assert torch.equal(card_transform(card)(image), create_transform(**card, is_training=False)(image))


@pytest.mark.parametrize("size", [(3000, 40), (1, 20000), (20000, 1), (64, 64)])
def test_a_border_is_put_around_all_of_a_picture_however_thin(size):
    """Its shorter side, which rounds to 0 pixels, is one pixel; the rest is black."""
    made = card_transform(CARD | {"crop_mode": "border", "crop_pct": 1.0})(Image.new("RGB", size, "white"))
    assert made.shape == (3, 64, 64)
    assert int((made > 0.5).sum()) == 3 * 64 * (1 if size != (64, 64) else 64)


def test_boxes_and_masks_follow_a_border_around_a_thin_picture():
    rows, columns = centres(card_transform(CARD | {"crop_mode": "border", "crop_pct": 1.0}), (3000, 40))
    assert all(bool(one.isfinite().all()) for one in (rows, columns))


def test_boxes_and_masks_follow_the_bound():
    for size in ((1, 3000), (3001, 2)):
        exact = centres(create_transform(**CARD, is_training=False), size)
        bounded = centres(card_transform(CARD), size)
        assert all((a - b).abs().max() < 0.05 for a, b in zip(exact, bounded, strict=True))


@pytest.fixture
def largest(monkeypatch):
    """Pixels of the largest picture that was made by a resize, in a list."""
    found, resize = [0], Image.Image.resize

    def watched(self, size, *arguments, **more):
        found[0] = max(found[0], size[0] * size[1])
        return resize(self, size, *arguments, **more)

    monkeypatch.setattr(Image.Image, "resize", watched)
    return found


def test_a_line_of_pixels_is_explained_in_little_memory_and_the_others_go_on(tmp_path, largest):
    sources = [tmp_path / f"{k}.png" for k in range(3)]
    for path, size in zip(sources, [(1, 60000), (60000, 1), (40, 30)], strict=True):
        Image.new("RGB", size, (200, 100, 50)).save(path)
    classifier = bcos_zoo.load("bcos_resnet20.cifar10")
    answers = list(pipeline.explain_files(classifier, sources, None, tmp_path / "out"))
    assert all(isinstance(answer, pipeline.Answer) for _, answer in answers)
    assert answers[0][1].predictions == answers[1][1].predictions
    assert largest[0] <= 320 * 320 * LONGEST


@pytest.mark.parametrize("crop", ["resized", "shift", "none"])
def test_training_and_validation_bound_it_too(crop, largest):
    model = bcos_zoo.create_model("bcos_resnet20")
    config = resolve_model_data_config(model)
    for size in ((1, 20000), (20000, 1)):
        for transform in (train_transform(config, Augment(crop=crop)), val_transform(model)):
            assert transform(Image.new("RGB", size)).shape == (3, 32, 32)
    assert largest[0] <= 40 * 40 * LONGEST


@pytest.mark.parametrize(("kind", "most"), [("PNG", 600), ("JPEG", 600), ("WEBP", 400), ("AVIF", 400)])
def test_formats_whose_decoders_keep_several_copies_have_a_lower_limit(tmp_path, monkeypatch, kind, most):
    if not features.check(kind.lower() if kind in ("WEBP", "AVIF") else "jpg"):
        pytest.skip(f"this Pillow has no {kind}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    for width in (most // 20, most // 20 + 1):
        Image.new("RGB", (width, 20)).save(tmp_path / f"{width}.img", format=kind)
    assert images.load_rgb(tmp_path / f"{most // 20}.img").size == (most // 20, 20)
    with pytest.raises(InputError, match=f"has {most + 20} pixels; at most {most} are allowed"):
        images.load_rgb(tmp_path / f"{most // 20 + 1}.img")
