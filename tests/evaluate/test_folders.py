"""Which class a folder of images is called after."""

import copy
import random

import numpy as np
import pytest
import torch
from PIL import Image

import bcos_zoo
from bcos_zoo import Classifier, InputError
from bcos_zoo.evaluate.accuracy import evaluate, labelled_files
from bcos_zoo.weights.class_lists import class_list


def fill(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(root / name / "0.png")
    return root


@pytest.fixture(scope="module")
def imagenet():
    model = bcos_zoo.create_model("bcos_resnet20", num_classes=1000, layers=[1])
    return Classifier(model, class_list("imagenet-1k"))


def test_folders_of_imagenet_are_classes_by_their_number_where_two_share_a_name(tmp_path, imagenet):
    bird, machine = "n02012849", "n03126707"
    paths, labels = labelled_files(imagenet, fill(tmp_path, bird, machine, "goldfish"))
    assert [path.parent.name for path in paths] == ["goldfish", bird, machine]
    assert labels == [1, 134, 517]
    assert imagenet.class_names[134] == imagenet.class_names[517] == "crane"


def test_a_folder_called_as_two_classes_are_is_refused(tmp_path, imagenet):
    with pytest.raises(InputError, match=r"crane is the name of the classes \[134, 517\]; .* WordNet number"):
        labelled_files(imagenet, fill(tmp_path, "crane", "goldfish"))


def test_classes_that_share_a_name_are_counted_by_themselves(tmp_path, imagenet):
    pytest.importorskip("torchmetrics", reason="torchmetrics is in the extra `eval`")
    result = evaluate(imagenet, fill(tmp_path, "n02012849", "n03126707", "goldfish"))
    assert list(result.per_class) == ["goldfish", "crane (134)", "crane (517)"]


def test_a_network_of_another_precision_is_evaluated(tmp_path):
    pytest.importorskip("torchmetrics", reason="torchmetrics is in the extra `eval`")
    classifier = bcos_zoo.load("bcos_resnet20.cifar10")
    double = Classifier(copy.deepcopy(classifier.model).double(), classifier.class_names)
    root = fill(tmp_path, "cat", "dog")
    assert evaluate(double, root).top1 == evaluate(classifier, root).top1


def test_a_network_of_some_of_imagenets_classes_knows_their_numbers(tmp_path):
    classifier = bcos_zoo.load("bcos_resnet18_w32.imagenette")
    assert labelled_files(classifier, fill(tmp_path / "a", "n01440764", "parachute"))[1] == [0, 9]
    with pytest.raises(InputError, match="n01443537 is no class of this network"):  # the goldfish
        labelled_files(classifier, fill(tmp_path / "b", "n01443537"))


def test_an_evaluation_draws_nothing_from_the_callers_generators(tmp_path):
    pytest.importorskip("torchmetrics", reason="torchmetrics is in the extra `eval`")
    classifier, root = bcos_zoo.load("bcos_resnet20.cifar10"), fill(tmp_path, "cat", "dog")

    def drawn():
        torch.manual_seed(3), np.random.seed(3), random.seed(3)
        yield
        yield torch.rand(1).item(), np.random.rand(), random.random()

    idle, busy = drawn(), drawn()
    next(idle)
    expected = next(idle)
    next(busy)
    evaluate(classifier, root)
    assert next(busy) == expected
