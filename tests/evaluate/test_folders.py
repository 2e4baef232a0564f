"""Which class a folder of images is called after."""

import pytest
from PIL import Image

import bcos_zoo
from bcos_zoo import Classifier, InputError
from bcos_zoo.evaluate.accuracy import labelled_files
from bcos_zoo.manifest import class_list


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


def test_a_network_of_some_of_imagenets_classes_knows_their_numbers(tmp_path):
    classifier = bcos_zoo.load("bcos_resnet18_w32.imagenette")
    assert labelled_files(classifier, fill(tmp_path / "a", "n01440764", "parachute"))[1] == [0, 9]
    with pytest.raises(InputError, match="n01443537 is no class of this network"):  # the goldfish
        labelled_files(classifier, fill(tmp_path / "b", "n01443537"))
