"""The embedded checkpoint with all that belongs to it."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

import bcos_zoo
from bcos_zoo import evaluate
from bcos_zoo.metrics import deletion_curve, insertion_curve
from bcos_zoo.pipeline.batch import predict_files
from bcos_zoo.pipeline.top_images import top_images


@pytest.fixture(scope="module")
def classifier():
    return bcos_zoo.load("bcos_resnet20.cifar10")


@pytest.fixture
def picture():
    return Image.radial_gradient("L").convert("RGB")


def test_the_transform_gives_what_the_network_takes(classifier, picture):
    x = classifier.preprocess(picture)
    assert x.shape == (1, 3, 32, 32)
    assert 0 <= x.min() < x.max() <= 1


def test_predictions_are_the_sigmoids_of_the_logits(classifier, picture):
    logits = classifier.model(classifier.preprocess(picture))[0]
    for prediction in classifier.predict(picture, top_k=10):
        assert prediction.label == classifier.class_names[prediction.index]
        assert prediction.logit == pytest.approx(logits[prediction.index].item(), abs=1e-5)
        assert prediction.probability == pytest.approx(
            torch.sigmoid(logits[prediction.index]).item(), abs=1e-6
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_any_precision_predicts_and_explains(classifier, picture, dtype):
    other = bcos_zoo.Classifier(copy.deepcopy(classifier.model).to(dtype), classifier.class_names)
    expected, got = classifier.predict(picture, 2), other.predict(picture, 2)
    assert [one.label for one in got] == [one.label for one in expected]
    assert got[0].logit == pytest.approx(expected[0].logit, rel=0.1)
    assert other.explain(picture).targets.tolist() == [[expected[0].index]]


def test_explanations_carry_labels_and_the_settings_of_the_manifest(classifier, picture):
    e = classifier.explain([picture, picture.rotate(90)], targets=["cat", "dog"])
    assert e.labels == (("cat", "dog"),) * 2
    assert (e.smooth, e.percentile) == (classifier.head.smooth, classifier.head.percentile) == (3, 99.5)
    contrast = e.contrast("cat", "dog")
    assert torch.allclose(contrast.logits[:, 0], e.logits[:, 3] - e.logits[:, 5])
    assert contrast.completeness().abs().max() < 1e-4


def test_the_view_shows_what_the_network_sees_in_more_pixels(classifier):
    photograph = Image.effect_noise((640, 480), 80).convert("RGB")
    view = classifier.view(photograph)
    assert min(view.size) >= 320
    assert view.width == view.height  # the centre crop
    seen = classifier.preprocess(photograph)[0].permute(1, 2, 0).numpy()
    shrunk = np.asarray(view.resize((32, 32), Image.Resampling.BILINEAR)) / 255
    assert np.abs(shrunk - seen).mean() < 0.02


def test_a_grey_network_takes_colour_files(picture):
    model = bcos_zoo.create_model("bcos_resnet20", pretrained=True, in_chans=1)
    grey = bcos_zoo.Classifier(model, [str(i) for i in range(10)])
    assert grey.preprocess(picture).shape == (1, 1, 32, 32)
    assert grey.explain(picture).rgba().shape == (1, 1, 4, 32, 32)


def test_nan_is_no_answer(classifier, picture, tmp_path):
    model = copy.deepcopy(classifier.model)
    with torch.no_grad():
        next(model.parameters())[0] = torch.nan
    broken = bcos_zoo.Classifier(model, classifier.class_names)
    with pytest.raises(bcos_zoo.InputError, match="the network gives NaN, which is no answer"):
        broken.predict(picture)
    (tmp_path / "cat").mkdir()
    picture.save(tmp_path / "cat" / "0.png")
    with pytest.raises(bcos_zoo.InputError, match="the network gives NaN, which is no answer"):
        evaluate.evaluate(broken, tmp_path)
    masked = torch.full((10,), -torch.inf)  # as who rules classes out writes it
    masked[3] = 1.0
    assert classifier.rank(masked, 1)[0].index == 3


def test_what_does_not_fit_is_refused(classifier, picture):
    with pytest.raises(bcos_zoo.InputError, match="9 class names for 10 classes"):
        bcos_zoo.Classifier(classifier.model, ["x"] * 9)
    with pytest.raises(bcos_zoo.InputError, match="empty list of images"):
        classifier.preprocess([])
    with pytest.raises(bcos_zoo.InputError, match="top_k=0"):
        classifier.predict(picture, top_k=0)
    with pytest.raises(bcos_zoo.UnknownModelError, match="closest: bcos_resnet20"):
        bcos_zoo.load("bcos_resnet20x")
    two = bcos_zoo.Classifier(bcos_zoo.create_model("bcos_resnet20", in_chans=2), [str(i) for i in range(10)])
    with pytest.raises(bcos_zoo.InputError, match="takes 2 channels"):
        two.preprocess(picture)


def test_a_model_in_training_mode_neither_answers_nor_changes(picture, tmp_path):
    """Its answers would depend on the other images, and its running statistics would be overwritten."""
    model = bcos_zoo.load("bcos_resnet20.cifar10").model
    trained = bcos_zoo.Classifier(model, [str(i) for i in range(10)])
    expected, before = trained.predict(picture), {key: value.clone() for key, value in model.named_buffers()}
    picture.save(tmp_path / "a.png")
    x = trained.preprocess(picture)
    doors = {
        "predict": lambda: trained.predict(picture),
        "logits": lambda: trained.logits(x),
        "files": lambda: list(predict_files(trained, [tmp_path / "a.png"], 1)),
        "deletion": lambda: deletion_curve(model, x[0], torch.rand(32, 32), 3),
        "insertion": lambda: insertion_curve(model, x[0], torch.rand(32, 32), 3),
    }
    for part in (model, model.layer2):  # all of it, or what was forgotten
        part.train()
        for call in doors.values():
            with pytest.raises(bcos_zoo.InputError, match="in training mode, .*; call model.eval"):
                call()
        model.eval()
    assert all(torch.equal(value, before[key]) for key, value in model.named_buffers())
    assert trained.predict(picture) == expected


def test_logits_are_of_floats(classifier, picture):
    """In 8 bits, and taken as if they were floats, the pixels would be 255 times as bright."""
    x = classifier.preprocess(picture)
    eight = (x * 255).to(torch.uint8)
    assert torch.equal(classifier.logits(x.double()), classifier.logits(x))
    for wrong in (eight, eight.long(), eight > 100):
        with pytest.raises(bcos_zoo.InputError, match="images; allowed are floats in .*: divide 8-bit"):
            classifier.logits(wrong)


@pytest.mark.parametrize("wrong", [0, 2.5, True, "3", None])
def test_counts_are_whole_numbers(classifier, picture, wrong):
    allowed = f"{wrong!r}: allowed are integers, 1 and more"
    for name in ("top_k", "batch_size"):
        with pytest.raises(bcos_zoo.InputError, match=f"{name}={allowed}"):
            classifier.predict(picture, **{name: wrong})
    with pytest.raises(bcos_zoo.InputError, match=f"batch_size={allowed}"):
        classifier.explain(picture, batch_size=wrong)
    for name in ("count", "batch_size"):
        with pytest.raises(bcos_zoo.InputError, match=f"{name}={allowed}"):
            top_images(classifier, [], "layer1", 0, **{name: wrong})
