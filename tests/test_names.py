"""Names that people type: of classes, layers, models and methods. The nearest are told, case is ignored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import images

import bcos_zoo
from bcos_zoo import InputError, UnknownModelError, explain, explain_unit
from bcos_zoo.errors import closest
from bcos_zoo.explanations.targets import resolve_targets
from bcos_zoo.posthoc import attribute
from bcos_zoo.weights import manifest

IMAGENET = tuple(manifest.class_names(manifest.get("bcos_resnet50.v2_in1k")))


@pytest.mark.parametrize(
    ("target", "index"),
    [("tench", 0), ("Tench", 0), ("TENCH", 0), ("Golf Ball", IMAGENET.index("golf ball"))],
)
def test_case_makes_no_difference_to_a_label(target: str, index: int) -> None:
    assert resolve_targets(target, torch.zeros(1, 1000), IMAGENET).tolist() == [[index]]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("golfball", "no class named 'golfball'; did you mean golf ball"),
        ("golf_ball", "did you mean golf ball"),
        ("tensh", "did you mean tench"),
        ("retriever", "did you mean .*retriever"),
        ("Crane", r"'Crane' is the name of the classes \[\d+, \d+\]; give the index of one"),
        ("xyzzyqqq", "this model knows 1000 classes, such as tench, goldfish"),
    ],
)
def test_other_labels_are_answered_with_the_nearest_not_with_all(target: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        resolve_targets(target, torch.zeros(1, 1000), IMAGENET)
    assert len(str(caught.value)) < 200


def test_two_labels_that_differ_in_case_alone_are_told_apart_as_written() -> None:
    names = ("Polish", "polish", "other")
    assert resolve_targets("polish", torch.zeros(1, 3), names).tolist() == [[1]]
    with pytest.raises(InputError, match=r"'POLISH' is the name of the classes \[0, 1\]"):
        resolve_targets("POLISH", torch.zeros(1, 3), names)


def test_a_contrast_takes_labels_in_any_case(shared: Any) -> None:
    explanation = explain(shared, images(), [3, 5], class_names=tuple("abcDeFghij"))
    assert torch.equal(explanation.contrast("d", "f").weights, explanation.contrast(3, 5).weights)


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("resnet50", ["bcos_resnet50", "bcos_vit"], "bcos_resnet50"),
        ("BCOS-ResNet50", ["bcos_resnet50", "bcos_vit"], "bcos_resnet50"),
        ("GradCAM", ["gradcam", "grad", "lime"], "gradcam, grad"),
        ("zzz", ["gradcam", "grad"], "none"),
        ("", ["gradcam"], "none"),
        ("a", [], "none"),
    ],
)
def test_the_closest_names(name: str, known: list[str], expected: str) -> None:
    assert closest(name, known) == expected


def test_every_message_about_an_unknown_name_tells_the_closest(shared: Any) -> None:
    for ask, message in (
        (lambda: attribute(shared, images(), 0, "Grad-CAM"), "closest: gradcam"),
        (lambda: attribute(shared, images(), 0, "layercam", layer="layer2.conv1"), "closest: layer"),
        (lambda: explain_unit(shared, images(), "Layer1", 0), "closest: layer1"),
    ):
        with pytest.raises(InputError, match=message):
            ask()
    for name in ("resnet20", "BCOS_RESNET20", "bcos_resnet20_cifar"):
        with pytest.raises(UnknownModelError, match="closest: .*bcos_resnet20"):
            bcos_zoo.create_model(name)
    with pytest.raises(UnknownModelError, match="closest: .*bcos_resnet20.cifar10|known: .*cifar10"):
        bcos_zoo.create_model("bcos_resnet20.cifar", pretrained=True)
