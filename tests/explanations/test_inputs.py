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
import bcos_zoo.metrics
from bcos_zoo import Classifier, ExplanationHead, InputError, explain, explain_unit
from bcos_zoo.explanations.units import activations
from bcos_zoo.layers import BcosConv2d, Encode
from bcos_zoo.posthoc import attribute
from bcos_zoo.posthoc.adapters import BcosAttribution

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
    "sparse": (images().to_sparse(), "got a sparse tensor; allowed are dense ones: x.to_dense"),
    "meta": (images().to("meta"), "got a tensor on the meta device, which holds no numbers"),
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


CALLS: dict[str, tuple[Any, str]] = {
    "load a network": (
        lambda clf, x: bcos_zoo.load(clf.model),
        "the name is a BcosResNet; .*Classifier.model",
    ),
    "load None": (
        lambda clf, x: bcos_zoo.load(None),
        "the name is a NoneType; allowed are names and folders",
    ),
    "create a list": (lambda clf, x: bcos_zoo.create_model(["a"]), "the name is a list; allowed are names"),
    "list an int": (lambda clf, x: bcos_zoo.list_models(3), "the pattern is a int; allowed are texts"),
    "names as one text": (lambda clf, x: Classifier(clf.model, "abcdefghij"), "class names are abcdef"),
    "names as a number": (lambda clf, x: Classifier(clf.model, 10), "class names are 10; allowed is a list"),
    "class_names": (lambda clf, x: explain(clf.model, x, class_names="abcdefghij"), "class names are abc"),
    "dtype text": (lambda clf, x: explain(clf, x, dtype="float64"), "dtype='float64': allowed are floating"),
    "dtype int": (
        lambda clf, x: explain(clf, x, dtype=torch.int64),
        "dtype=torch.int64: allowed are floating",
    ),
    "max_batch": (lambda clf, x: explain(clf, x, max_batch="2"), "max_batch='2': allowed are integers"),
    "a layer": (
        lambda clf, x: explain_unit(clf, x, clf.model.layer1, 0),
        "is a module; .*, such as 'layer1'",
    ),
    "no layer": (lambda clf, x: explain_unit(clf, x, None, 0), "no layer named None; closest: "),
    "unit": (
        lambda clf, x: explain_unit(clf, x, "layer1", "a"),
        "unit a is not in layer1; allowed are 0 to 15",
    ),
    "call": (lambda clf, x: activations(clf, x, "layer1", 0, call="a"), "call='a': allowed are integers"),
    "batch": (lambda clf, x: attribute(clf, x, 0, "ixg", batch="3"), "batch='3': allowed are integers"),
    "patches": (lambda clf, x: explain(clf, x).patches(2.0), "size=2.0: allowed are integers, 1 and more"),
    "maps": (lambda clf, x: bcos_zoo.metrics.sparseness(x.numpy()), "as ndarray; allowed are tensors"),
    "an explanation as maps": (
        lambda clf, x: bcos_zoo.metrics.sparseness(explain(clf, x)),
        "as Explanation; .*an explanation has its maps in .contributions",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_other_arguments_are_refused_in_one_line(name: str) -> None:
    call, message = CALLS[name]
    with pytest.raises(InputError, match=message) as caught:
        call(bcos_zoo.load("bcos_resnet20.cifar10"), images(1, 32, 32))
    assert "\n" not in str(caught.value)


def test_labels_go_where_a_classifier_goes() -> None:
    clf, x = bcos_zoo.load("bcos_resnet20.cifar10"), images(2, 32, 32)
    for method in ("inherent", "ixg"):
        assert attribute(clf, x, "cat", method).shape == (2, 32, 32)
        assert torch.equal(attribute(clf, x, "Cat", method), attribute(clf.model, x, 3, method))
        assert torch.equal(attribute(clf, x, ["cat", 5], method), attribute(clf.model, x, [3, 5], method))
