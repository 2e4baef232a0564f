"""What people give in the place of a network, its images, its logits and its classes."""

from __future__ import annotations

import re
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close, images
from PIL import Image
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo import Classifier, ExplanationHead, InputError, UnknownModelError, explain, explain_unit
from bcos_zoo.activations import activations
from bcos_zoo.errors import closest
from bcos_zoo.layers import BcosConv2d, Encode
from bcos_zoo.neighbours import BcosAttribution
from bcos_zoo.posthoc import attribute

HWC = np.random.default_rng(0).random((33, 31, 3), dtype=np.float32)
PHOTO = Image.fromarray((HWC * 255).astype(np.uint8))
# fmt: off
# ruff: noqa: E501
BAD: dict[str, tuple[Any, str]] = {
    "HWC": (HWC, r"shape \(33, 31, 3\); images come as .*: channels come first: x.permute\(2, 0, 1\)\[None\]"),
    "NHWC": (HWC[None], r"shape \(1, 33, 31, 3\); allowed is .*; channels come second: x.permute\(0, 3, 1, 2\)"),
    "NHWC tensor": (torch.tensor(HWC[None]), r"channels come second: x.permute\(0, 3, 1, 2\)"),
    "CHW": (torch.rand(3, 33, 31), r"add the batch axis with x\[None\]"),
    "CHW array": (HWC.transpose(2, 0, 1), r"add the batch axis with x\[None\]"),
    "0 to 255": (images() * 255, r"values from .* to 2\d\d; allowed is \[0, 1\]: divide 8-bit values by 255"),
    "0 to 255 array": (images().numpy() * 255, "divide 8-bit values by 255"),
    "uint8": ((images() * 255).to(torch.uint8), "uint8 images; allowed are floats .*: divide 8-bit values by 255"),
    "uint8 array": ((images().numpy() * 255).astype(np.uint8), "uint8 images; .* divide 8-bit values by 255"),
    "int": (torch.ones(1, 3, 33, 31, dtype=torch.long), "int64 images; allowed are floats"),
    "normalised": ((images() - 0.45) / 0.225, r"allowed is \[0, 1\]: leave out mean/std normalisation"),
    "text": ("cat.jpg", r"got the path 'cat.jpg'; allowed are tensors .*: bcos_zoo.load\(...\) takes files"),
    "path": (Path("cat.jpg"), r"got the path 'cat.jpg'; .*: bcos_zoo.load\(...\) takes files"),
    "picture": (PHOTO, r"got a PIL image; .*: bcos_zoo.load\(...\) takes files and pictures"),
    "list of paths": (["cat.jpg", "dog.jpg"], "got a list; allowed are tensors and arrays"),
    "numbers": ([[0.1, 0.2]], "got a list; allowed are tensors and arrays"),
    "sizes": ([torch.rand(3, 8, 8), torch.rand(3, 9, 9)], r"a list of \(3, 8, 8\), \(3, 9, 9\); allowed are .* one size"),
    "None": (None, "got a NoneType; allowed are tensors and arrays"),
    "objects": (np.array([None]), "got a ndarray; allowed are tensors and arrays"),
    "complex": (np.zeros((1, 3, 8, 8), complex), "got a ndarray; allowed are tensors"),
    "empty": ([], "got a list; allowed are tensors and arrays"),
}
# fmt: on
DOORS: dict[str, Any] = {
    "explain": lambda m, x: explain(m, x),
    "explain_unit": lambda m, x: explain_unit(m, x, "layer1", 0),
    "activations": lambda m, x: activations(m, x, "layer1", 0),
    "attribute": lambda m, x: attribute(m, x, 0, "ixg"),
    "ExplanationHead": lambda m, x: ExplanationHead(m)(x),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", BAD)
def test_images_that_are_none_are_refused_in_one_line_that_says_what_to_do(
    shared: Any, name: str, door: str
) -> None:
    given, message = BAD[name]
    with pytest.raises(InputError) as caught:
        DOORS[door](shared, given)
    assert re.search(message.replace(": channels", ".*channels"), str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["HWC", "NHWC tensor", "CHW", "uint8", "text", "path", "picture", "list of paths"]
)
def test_the_network_itself_says_so_too(shared: Any, name: str) -> None:
    with pytest.raises(InputError, match=r"got (a|torch\.)"):
        shared(BAD[name][0])


SAFE: dict[str, Any] = {
    "array": lambda x: x.numpy(),
    "array of doubles": lambda x: x.double().numpy(),
    "read-only array": lambda x: np.frombuffer(x.numpy().tobytes(), np.float32).reshape(x.shape),
    "array of the other byte order": lambda x: x.numpy().astype(">f4"),
    "strided array": lambda x: np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "reversed array": lambda x: x.numpy()[..., ::-1].copy()[..., ::-1],
    "list of tensors": list,
    "tuple of arrays": lambda x: tuple(x.numpy()),
    "half": lambda x: x,
}


@pytest.mark.parametrize("name", SAFE)
def test_arrays_and_lists_of_images_are_taken(shared: Any, name: str) -> None:
    x = images()
    expected = explain(shared, x, [0, 1])
    for got in (explain(shared, SAFE[name](x), [0, 1]), ExplanationHead(shared)(SAFE[name](x), [0, 1])):
        assert_close(got.contributions, expected.contributions, 1e-6)
    assert_close(attribute(shared, SAFE[name](x), 1, "inherent"), expected.contributions[:, 1], 1e-6)
    assert_close(activations(shared, SAFE[name](x), "layer1", 0), activations(shared, x, "layer1", 0), 1e-6)


def test_a_classifier_or_a_head_is_explained_as_its_network() -> None:
    clf = bcos_zoo.load("bcos_resnet20.cifar10")
    x = images(2, 32, 32)
    expected = explain(clf.model, x, [3, 5])
    for holder in (
        clf,
        clf.head,
        ExplanationHead(clf.head),
        torch.compile(clf.model),
        nn.DataParallel(clf.model),
    ):
        got = explain(holder, x, [3, 5])
        assert torch.equal(got.weights, expected.weights)
    assert explain(clf, x, "cat").labels == explain(clf.head, x, "cat").labels == (("cat",),) * 2
    assert explain_unit(clf, x, "layer1", 0).contributions.shape == (2, 1, 32, 32)
    assert attribute(clf, x, 3, "inherent").shape == (2, 32, 32)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "bcos_resnet20",
            "the model is 'bcos_resnet20', a name; bcos_zoo.load or create_model make a network",
        ),
        (images(), "the model is a Tensor; allowed is a torch.nn.Module: the model comes first"),
        (None, "the model is a NoneType; allowed is a torch.nn.Module"),
        (lambda x: x, "the model is a function; allowed is a torch.nn.Module"),
    ],
)
def test_what_is_no_network_is_refused(model: Any, message: str) -> None:
    for door in (explain, ExplanationHead, lambda m, x=None: Classifier(m, ["a"] * 10)):
        with pytest.raises(InputError, match=message):
            door(model, images()) if door is explain else door(model)


class Gives(nn.Module):
    """A network whose logits come in something."""

    def __init__(self, net: nn.Module, wrap: Any) -> None:
        super().__init__()
        self.net, self.wrap = net, wrap

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        return self.wrap(logits, x)


@dataclass
class Fields:
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class ModelOutput(OrderedDict):  # as transformers has it
    pass


Named = namedtuple("Named", ["logits", "aux_logits"])
WRAPS: dict[str, Any] = {
    "tuple": lambda y, x: (y,),
    "tuple with a map": lambda y, x: (x, y),
    "list": lambda y, x: [y, None],
    "dict by key": lambda y, x: {"embedding": torch.cat([y, y], 1), "logits": y},
    "dict by shape": lambda y, x: {"features": x, "out": y},
    "ModelOutput": lambda y, x: ModelOutput(loss=None, logits=y, hidden_states=(x, x)),
    "named tuple": lambda y, x: Named(y, y * 2),
    "dataclass": lambda y, x: Fields(y),
    "labels beside": lambda y, x: (y, y.argmax(1, keepdim=True)),
}


@pytest.mark.parametrize("name", WRAPS)
def test_logits_are_found_where_there_is_one_place_for_them(shared: Any, name: str) -> None:
    model, x = Gives(shared, WRAPS[name]).eval(), images()
    expected = explain(shared, x, [0, 1])
    assert torch.equal(explain(model, x, [0, 1]).weights, expected.weights)
    assert torch.equal(ExplanationHead(model)(x, [0, 1]).weights, expected.weights)
    created = explain(model, x, [0, 1], create_graph=True)
    assert_close(created.weights.detach(), expected.weights, 1e-5)
    assert_close(BcosAttribution(model).attribute(x, 1).sum(1), expected.contributions[:, 1], 1e-5)


@pytest.mark.parametrize("name", ["tuple", "dict by key", "ModelOutput"])
@pytest.mark.parametrize("method", ["inherent", "ixg", "layercam", "rise", "occlusion"])
def test_other_methods_find_them_too(shared: Any, name: str, method: str) -> None:
    model, x = Gives(shared, WRAPS[name]).eval(), images(1, 16, 16)
    options: dict[str, Any] = {"rise": {"masks": 4}, "layercam": {"layer": "net.layer2"}}.get(method, {})
    plain: dict[str, Any] = {"layercam": {"layer": "layer2"}}.get(method, options)
    got, expected = attribute(model, x, 1, method, **options), attribute(shared, x, 1, method, **plain)
    assert_close(got, expected, 1e-5)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (
            lambda y, x: (y, y),
            r"gives a tuple with 2 tensors \(N, C\); .* alone, as `logits`, or as the only",
        ),
        (lambda y, x: {"a": x}, r"gives a dict with 0 tensors \(N, C\)"),
        (lambda y, x: None, r"gives a NoneType with 0 tensors \(N, C\)"),
        (lambda y, x: {"logits": x}, r"gives \(\d, \d, 33, 31\); to (explain|attribute) it must give logits"),
        (lambda y, x: (y[:1],), r"gives a tuple with 0 tensors"),
    ],
)
def test_unclear_outputs_are_refused_in_one_line(shared: Any, wrap: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain(Gives(shared, wrap).eval(), images())
    with pytest.raises(InputError, match=message):
        attribute(Gives(shared, wrap).eval(), images(), 0, "ixg")


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_a_wrapped_network_makes_a_classifier(wrap: Any) -> None:
    plain = bcos_zoo.load("bcos_resnet20.cifar10")
    clf = Classifier(wrap(plain.model), plain.class_names)
    assert clf.predict(PHOTO) == plain.predict(PHOTO)
    assert torch.equal(clf.explain(PHOTO).weights, plain.explain(PHOTO).weights)
    x = images(1, 32, 32)
    assert torch.equal(attribute(wrap(plain.model), x, 0, "ixg"), attribute(plain.model, x, 0, "ixg"))


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.conv = Encode(), BcosConv2d(6, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.encode(x)).mean((2, 3))


def test_a_network_without_a_card_says_what_it_lacks_and_works_with_one() -> None:
    with pytest.raises(InputError, match="Own has no num_classes, in_chans, pretrained_cfg, which say how"):
        Classifier(Own().eval(), ["a", "b", "c"])
    own: Any = Own().eval()
    own.num_classes, own.in_chans = 3, 3
    own.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0, 0, 0), "std": (1, 1, 1)}
    clf = Classifier(own, ["a", "b", "c"])
    assert clf.explain(PHOTO, "b").completeness().abs().max() < 1e-5


IMAGENET = tuple(bcos_zoo.manifest.class_names(bcos_zoo.manifest.get("bcos_resnet50.v2_in1k")))


@pytest.mark.parametrize(
    ("target", "index"),
    [("tench", 0), ("Tench", 0), ("TENCH", 0), ("Golf Ball", IMAGENET.index("golf ball"))],
)
def test_case_makes_no_difference_to_a_label(target: str, index: int) -> None:
    from bcos_zoo.targets import resolve_targets

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
    from bcos_zoo.targets import resolve_targets

    with pytest.raises(InputError, match=message) as caught:
        resolve_targets(target, torch.zeros(1, 1000), IMAGENET)
    assert len(str(caught.value)) < 200


def test_two_labels_that_differ_in_case_alone_are_told_apart_as_written() -> None:
    from bcos_zoo.targets import resolve_targets

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


def test_representations_are_one_line() -> None:
    clf = bcos_zoo.load("bcos_resnet20.cifar10")
    explanation = clf.explain(PHOTO, ["cat", "dog"])
    for shown, parts in {
        repr(clf): ("Classifier(bcos_resnet20.cifar10", "10 classes", "32x32", "sigmoid"),
        repr(clf.head): ("ExplanationHead(bcos_resnet20.cifar10", "smooth=3"),
        repr(explanation): ("Explanation(1 x 2 of 32x32 pixels, logit: cat ", "dog ", "float32"),
        repr(clf.predict(PHOTO)[0]): ("Prediction(", clf.predict(PHOTO)[0].label),
        repr(explanation.contrast("cat", "dog")): ("contrast: cat - dog",),
        repr(explain_unit(clf, images(2, 32, 32), "layer1", 3)): ("activation: layer1[3]", "2 x 1"),
    }.items():
        assert "\n" not in shown and len(shown) < 160, shown
        assert all(part in shown for part in parts), shown


def test_notebooks_show_pictures(shared: Any) -> None:
    import io

    clf = bcos_zoo.load("bcos_resnet20.cifar10")
    explanation = clf.explain([PHOTO] * 9, ["cat", "dog"])
    picture = Image.open(io.BytesIO(explanation._repr_png_()))
    assert picture.width / picture.height == 2 / 6 and picture.width >= 200
    assert "data:image/png;base64," in explanation._repr_html_() and "cat" in explanation._repr_html_()
    labelled = explain(shared, images(), 0, class_names=["<b>&"] * 10)
    assert "&lt;b&gt;&amp;" in labelled._repr_html_() and "<b>" not in labelled._repr_html_()
    assert "airplane" in clf._repr_html_() and clf._repr_html_().startswith("<table>")
    assert not hasattr(clf, "_repr_png_")
    from conftest import network

    two = explain(network("bcos_resnet20", in_chans=2), images(channels=2))
    assert two._repr_png_() is None and two._repr_html_().startswith("<div>")
    trained = explain(shared, images(), 0, create_graph=True)
    assert trained._repr_png_() and "Explanation(" in repr(trained)
