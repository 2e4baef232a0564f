"""One image, or several: one rule for predict, explain, view and logits, whatever the images come in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bcos_zoo
from bcos_zoo import InputError


@pytest.fixture(scope="module")
def classifier() -> bcos_zoo.Classifier:
    return bcos_zoo.load("bcos_resnet20.cifar10")


@pytest.fixture(scope="module")
def arrays() -> list[np.ndarray]:
    noise = np.random.default_rng(0)
    coarse = [noise.integers(0, 256, (5, 4, 3), dtype=np.uint8) for _ in range(5)]
    return [np.asarray(Image.fromarray(one).resize((40, 50), Image.Resampling.BICUBIC)) for one in coarse]


@pytest.fixture(scope="module")
def paths(arrays, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def logits(classifier, arrays) -> torch.Tensor:
    """Of each image by itself: timm's transform by hand, the network, no class of ours between."""
    pixels = [classifier.transform(Image.fromarray(array)) for array in arrays]
    with torch.no_grad():
        return torch.cat([classifier.model(one[None]) for one in pixels])


def several(paths: list[Path], arrays: list[np.ndarray], classifier: bcos_zoo.Classifier) -> dict:
    """The five images in every form that means several."""
    pixels = torch.stack([classifier.transform(Image.fromarray(array)) for array in arrays])
    return {
        "list of texts": [str(path) for path in paths],
        "tuple of paths": tuple(paths),
        "generator": (path for path in paths),
        "map of PIL images": map(Image.fromarray, arrays),
        "list of arrays": list(arrays),
        "floats": [array / 255 for array in arrays],
        "array": np.stack(arrays),
        "tensor": pixels,
        "list of tensors": list(pixels),
        "numpy's texts": np.array([str(path) for path in paths], dtype=object).tolist(),
        "dict's values": dict(enumerate(paths)).values(),
    }


FORMS = (
    *(
        "list of texts",
        "tuple of paths",
        "generator",
        "map of PIL images",
        "list of arrays",
        "floats",
        "array",
    ),
    *("tensor", "list of tensors", "numpy's texts", "dict's values"),
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_several_images_get_an_answer_each(form, batch_size, classifier, paths, arrays, logits):
    answers = classifier.predict(several(paths, arrays, classifier)[form], 10, batch_size=batch_size)
    assert isinstance(answers, list) and len(answers) == 5
    for answer, expected in zip(answers, logits, strict=True):
        assert [one.index for one in answer] == expected.argsort(descending=True).tolist()
        got = torch.tensor([one.logit for one in answer])
        torch.testing.assert_close(got, expected.sort(descending=True).values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_explain_view_and_logits_follow_the_same_rule(form, classifier, paths, arrays, logits):
    def given():
        return several(paths, arrays, classifier)[form]

    explanation = classifier.explain(given(), ["cat", 3, "dog"][:2], batch_size=2)
    torch.testing.assert_close(explanation.logits, logits, rtol=0, atol=1e-4)
    assert explanation.targets.tolist() == [[3, 3]] * 5 and len(explanation.labels) == 5
    assert explanation.completeness().abs().max() < 1e-3
    torch.testing.assert_close(classifier.logits(given()), logits, rtol=0, atol=1e-5)
    views = classifier.view(given())
    assert [view.size for view in views] == [views[0].size] * 5
    unit = classifier.explain_unit(given(), "layer3.1.conv2", 7, batch_size=3)
    assert unit.logits.shape == (5, 1)


def test_one_image_gets_one_answer(classifier, paths, arrays, logits):
    tensor = classifier.transform(Image.fromarray(arrays[0]))
    for one in (str(paths[0]), paths[0], Image.fromarray(arrays[0]), arrays[0], tensor):
        (best,) = classifier.predict(one, 1)
        assert isinstance(best, bcos_zoo.Prediction) and best.index == logits[0].argmax()
        assert classifier.explain(one).logits.shape == classifier.logits(one).shape == (1, 10)
        assert isinstance(classifier.view(one), Image.Image)
    ((best,),) = classifier.predict([paths[0]], 1)  # a list of one is a list
    assert best.index == logits[0].argmax()


def test_a_tensor_of_targets_is_a_row_for_each_image(classifier, paths):
    targets = torch.tensor([4, 3, 2, 1, 0])
    explanation = classifier.explain(paths, targets, batch_size=2)
    assert explanation.targets.flatten().tolist() == targets.tolist()
    with pytest.raises(InputError, match="5"):
        classifier.explain(paths, targets[:4], batch_size=2)


def test_grey_arrays_and_networks_of_grey_images(arrays):
    model = bcos_zoo.create_model("bcos_resnet20", num_classes=10, in_chans=1)
    grey = bcos_zoo.Classifier(model, [str(i) for i in range(10)])
    picture = Image.fromarray(arrays[0]).convert("L")
    expected = grey.predict(picture, 1)
    assert grey.predict(np.asarray(picture), 1) == expected
    assert grey.predict(np.asarray(picture)[..., None], 1) == expected
    assert grey.predict(grey.transform(picture), 1)[0].index == expected[0].index
    assert grey.view(grey.transform(picture)).mode == "RGB"


@pytest.mark.parametrize(
    "source, said",
    [
        ([], "empty list"),
        ((), "empty list"),
        (iter([]), "empty list"),
        (7, "got a int;"),
        (None, "got a NoneType;"),
        (b"a.png", "got a bytes;"),
        ({"a.png": 1}, "got a dict;"),
        (np.zeros((3, 40, 50), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 3, 40, 50), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((40, 50, 3), np.uint16), "uint8"),
        (np.full((40, 50, 3), 255.0), "divide by 255"),
        (np.full((40, 50, 3), np.nan), "floats in"),
        (np.zeros(3), "of shape"),
        (np.zeros((0, 4, 3)), "no pixel"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), "by 255"),
        (torch.full((3, 32, 32), 255.0), "255"),
        (torch.full((2, 3, 32, 32), -2.0), "normalisation"),
        (torch.zeros(32, 32, 3), "permute"),
        (torch.zeros(2, 32, 32, 3), "permute"),
        (torch.zeros(32, 32), "of shape"),
        (torch.zeros(0, 3, 32, 32), "values|pixel|shape"),
        ([torch.zeros(3, 32, 32), torch.zeros(3, 40, 32)], "one by one"),
        ([["a.png"], "b.png"], "where one image belongs"),
        ([torch.zeros(2, 3, 32, 32)], "where one image belongs"),
    ],
)
@pytest.mark.parametrize("verb", ["predict", "explain"])
def test_what_is_no_image_is_refused_in_one_line(verb, source, said, classifier):
    if not isinstance(source, (list, tuple, np.ndarray, torch.Tensor)) and hasattr(source, "__next__"):
        source = iter([])
    with pytest.raises(InputError, match=said) as error:
        getattr(classifier, verb)(source)
    assert "\n" not in str(error.value)


def test_no_more_images_are_open_than_go_through_at_once(classifier, arrays):
    """Memory is bounded by the batch: a generator is read as far as the batch reaches."""
    opened, sizes = [], []

    def images():
        for array in arrays:
            opened.append(array)
            yield array

    def seen(module, given):
        sizes.append((len(given[0]), len(opened)))

    hook = classifier.model.register_forward_pre_hook(seen)
    try:
        classifier.predict(images(), batch_size=2)
        assert sizes == [(2, 2), (2, 4), (1, 5)]
        opened.clear()
        sizes.clear()
        classifier.explain(images(), batch_size=3)
        assert sizes == [(3, 3), (2, 5)]
    finally:
        hook.remove()
    with pytest.raises(InputError, match="batch_size=0"):
        classifier.predict(arrays, batch_size=0)
    with pytest.raises(InputError, match="batch_size=0"):
        classifier.explain(arrays, torch.zeros(5, dtype=torch.long), batch_size=0)
