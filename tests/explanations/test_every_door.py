"""The same question gives the same answer by every door, and in every form that people write it."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from conftest import images
from torch import nn

import bcos_zoo
from bcos_zoo import ExplanationHead, InputError, explain, explain_unit
from bcos_zoo.explanations.explanation import DEFAULT_SMOOTH
from bcos_zoo.explanations.units import activations
from bcos_zoo.layers import add_constant
from bcos_zoo.outputs import Outputs
from bcos_zoo.posthoc import attribute

NAME, FORMS = "bcos_resnet20.cifar10", ("logit", "relative", "sigmoid", "softmax")


@pytest.fixture(scope="module")
def clf() -> Any:
    return bcos_zoo.load(NAME)


@pytest.mark.parametrize("shift", [18.0, 400.0])
@pytest.mark.parametrize("output", FORMS)
def test_without_targets_every_form_explains_the_largest_logit(
    shared: Any, output: str, shift: float
) -> None:
    """In float32, sigmoids of logits above 17 are all 1, and the first is no better than the others."""

    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(shared)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            steps = torch.tensor([0.0, 7.0, 12.0, 30.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
            return add_constant(self.net(x) * 0.01, shift + steps)

    model, x = Sure().eval(), images(2)
    with torch.no_grad():
        assert model(x).argmax(1).tolist() == [3, 3]
    assert explain(model, x, output=output).targets.tolist() == [[3], [3]]
    assert explain(model, x, output=output, max_batch=1).targets.tolist() == [[3], [3]]
    names = Outputs(tuple("abcdefghij"), "softmax" if output == "softmax" else "sigmoid")
    assert explain(model, x, output="probability", class_names=names).labels == (("d",), ("d",))


def test_every_holder_of_a_network_gives_its_names_and_settings(clf: Any) -> None:
    x = images(2, 32, 32)
    expected = clf.explain(x, "cat")
    assert expected.smooth == 3 != DEFAULT_SMOOTH
    holders = {
        "classifier": clf,
        "head": clf.head,
        "parallel head": nn.DataParallel(clf.head),
        "compiled head": torch.compile(clf.head, backend="eager"),
        "head of a classifier": ExplanationHead(clf),
        "head of a head": ExplanationHead(nn.DataParallel(clf.head)),
    }
    named = bcos_zoo.Classifier(clf.model, [f"class {i}" for i in range(10)], smooth=7, percentile=90.0)
    for name, holder in holders.items():
        for got in (explain(holder, x, "cat"), explain_unit(holder, x, "layer1", 0)):
            assert (got.smooth, got.percentile) == (3, 99.5), name
        assert explain(holder, x, "cat").labels == expected.labels, name
    for holder in (named, named.head, nn.DataParallel(named.head), ExplanationHead(named)):
        got = explain(holder, x, "class 3")
        assert (got.labels, got.smooth, got.percentile) == ((("class 3",),) * 2, 7, 90.0)
        assert attribute(holder, x, "class 3", "ixg").shape == (2, 32, 32)
    again = ExplanationHead(named, class_names=clf.class_names, smooth=1)
    assert (again.smooth, again.percentile, again(x, "cat").labels) == (1, 90.0, (("cat",),) * 2)
    bare = explain(clf.model, x)
    assert (bare.smooth, bare.percentile) == (DEFAULT_SMOOTH, 99.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_activations_are_what_is_explained_in_every_precision(
    clf: Any, dtype: torch.dtype, autocast: bool
) -> None:
    model, x = copy.deepcopy(clf.model).to(dtype), images(2, 32, 32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = activations(model, x, "layer3.1.conv2", 39)
        expected = explain_unit(model, x, "layer3.1.conv2", 39).logits[:, 0]
    assert found.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert not found.requires_grad and next(model.parameters()).dtype == dtype


def test_a_position_is_a_row_and_a_column_in_any_sequence(clf: Any) -> None:
    x, layer = images(2, 32, 32), "layer3.1.conv2"
    expected = explain_unit(clf, x, layer, 39, position=(2, 5))
    for same in ([2, 5], torch.Size([2, 5]), (np.int64(2), np.int32(5))):
        got = explain_unit(clf, x, layer, 39, position=same)
        assert torch.equal(got.weights, expected.weights) and got.labels == expected.labels
        torch.testing.assert_close(activations(clf, x, layer, 39, position=same), expected.logits[:, 0])
    for wrong in ((2.0, 5), 2.0, "25", (True, 5), {2: 5}, np.array([2, 5])):
        with pytest.raises(InputError, match=r"position=.*: allowed are integers, \(row, column\)"):
            explain_unit(clf, x, layer, 39, position=wrong)
    for outside in ((8, 0), (-1, 0), 3, [], (1, 1, 1)):
        with pytest.raises(InputError, match=r"is not in layer3.1.conv2, a map of \(8, 8\)"):
            activations(clf, x, layer, 39, position=outside)
    with pytest.raises(InputError, match="unit True is not in"):
        explain_unit(clf, x, layer, True)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.dtype(">i4")])
@pytest.mark.parametrize("given", [[3, 5], [[3, 1], [5, 2]]])
def test_class_indices_come_in_arrays_as_in_tensors(clf: Any, given: Any, kind: Any) -> None:
    x, targets = images(2, 32, 32), torch.tensor(given)
    array = np.array(given).astype(kind)
    expected = explain(clf, x, targets)
    doors = (
        explain(clf, x, array),
        explain(clf, x.numpy(), array, max_batch=1),
        clf.explain(x, array),
        clf.head(x, array),
    )
    for got in (*doors, clf.explain(x, array, batch_size=1)):
        assert torch.equal(got.targets, expected.targets)
    for method in ("inherent", "ixg"):
        assert torch.equal(attribute(clf, x, array, method), attribute(clf, x, targets, method))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.array([3.0, 5.0]), "targets are an array of float64; allowed are class indices, as integers"),
        (np.array(["cat", "dog"]), "targets are an array of <U3; .*tolist() makes a list of labels"),
        (np.array([True, False]), "targets are an array of bool; allowed are class indices"),
        (np.array([3, 5, 1]), r"targets have shape (3,); for 2 images allowed are (2,) and (2, T)"),
        (np.array(3), r"targets have shape (); for 2 images"),
        (torch.tensor([3j, 1]), "targets are a tensor of torch.complex64; allowed are class indices"),
    ],
)
def test_other_arrays_are_refused(clf: Any, wrong: Any, message: str) -> None:
    x = images(2, 32, 32)
    for call in (explain, lambda *asked: clf.explain(*asked[1:]), lambda *asked: attribute(*asked, "ixg")):
        with pytest.raises(InputError, match=re.escape(message).replace(r"\.\*", ".*")):
            call(clf, x, wrong)


@pytest.mark.parametrize("door", [explain, lambda m, x, **more: explain_unit(m, x, "layer1", 0, **more)])
def test_images_made_in_inference_mode_are_explained_with_a_graph(clf: Any, door: Any) -> None:
    with torch.inference_mode():
        x = images(2, 32, 32) * 1.0
    assert x.is_inference()
    got = door(clf.model, x, create_graph=True)
    assert torch.equal(got.contributions, door(clf.model, x.clone(), create_graph=True).contributions)
    assert got.contributions.requires_grad
