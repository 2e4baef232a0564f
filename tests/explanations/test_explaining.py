"""Explanations: exact, for any form of targets, under any mode, and nothing is changed by them."""

from __future__ import annotations

import copy
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close, gap, images, network, random_state
from torch import nn

import bcos_zoo
from bcos_zoo import Explanation, ExplanationHead, InputError, explain, linear_mode
from bcos_zoo.layers import encode
from bcos_zoo.models.bcos_resnet import BasicBlock, BcosResNet

LABELS = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())


def same(got: Explanation, expected: Explanation, tolerance: float = 1e-5) -> None:
    assert torch.equal(got.targets, expected.targets)
    for name in ("logits", "weights", "contributions", "bias"):
        assert_close(getattr(got, name), getattr(expected, name), tolerance)


@pytest.fixture(scope="module")
def reference(shared: Any) -> Explanation:
    return explain(shared, images())


def test_weights_are_the_rows_of_the_matrix_that_the_network_is(small):
    """Slow and plain: row by row from the network in linear mode, times the encoded image, plus the bias."""
    model, x = small.double(), images(1, 9, 7).double()
    explanation = explain(model, x, list(range(10)))
    with linear_mode() as tape:
        logits = model(x)
    for c in range(10):
        (row,) = torch.autograd.grad(logits[0, c], tape.encodings[-1].encoded, retain_graph=True)
        assert_close(explanation.weights[0, c], row[0], 1e-12)
        assert_close(explanation.contributions[0, c], (row * encode(x)).sum(1)[0], 1e-12)
        total = (row * encode(x)).sum().item() - math.log(9)
        assert total == pytest.approx(logits[0, c].item(), abs=1e-9)


def test_the_bias_is_what_the_constants_add(reference):
    torch.testing.assert_close(reference.bias, torch.full((2, 1), -math.log(9)))


def test_constants_inside_the_network_go_into_the_bias():
    model = network("bcos_resnet20", norm="bn", seed=1)
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "running_mean"):
                module.running_mean.normal_(0, 0.1 * module.running_var.sqrt().mean())
    explanation = explain(model, images(), [3, 5], dtype=torch.float64)
    assert (explanation.bias + math.log(9)).abs().min() > 1e-3
    assert explanation.completeness().abs().max() < 1e-9 * explanation.contributions.abs().sum((-1, -2)).max()


def test_a_batch_is_explained_as_its_images_are_one_by_one(shared, reference):
    for n, x in enumerate(images().split(1)):
        alone = explain(shared, x)
        assert_close(alone.weights[0], reference.weights[n], 1e-5)
        assert_close(alone.contributions[0], reference.contributions[n], 1e-5)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (4, [[4], [4]]),
        (np.int64(4), [[4], [4]]),
        ("deer", [[4], [4]]),
        ([4, "dog", 4], [[4, 5, 4], [4, 5, 4]]),
        (range(4, 6), [[4, 5], [4, 5]]),
        (torch.tensor([4, 5]), [[4], [5]]),
        (torch.tensor([[4, 5], [9, 0]], dtype=torch.uint8), [[4, 5], [9, 0]]),
    ],
    ids=str,
)
def test_targets_take_many_forms(shared, targets, expected):
    explanation = explain(shared, images(), targets, class_names=LABELS)
    assert explanation.targets.tolist() == expected
    assert explanation.targets.dtype == torch.long
    assert explanation.labels == tuple(tuple(LABELS[i] for i in row) for row in expected)
    assert explanation.weights.shape == (2, len(expected[0]), 6, 33, 31)
    assert gap(explanation) < 1e-4


def test_without_targets_the_predicted_class_is_explained(shared, reference):
    assert torch.equal(reference.targets[:, 0], shared(images()).argmax(1))
    same(reference, explain(shared, images(), reference.targets[:, 0]))


def test_several_targets_cost_one_forward_pass(small):
    passes = []
    small.register_forward_hook(lambda *_: passes.append(1))
    several = explain(small, images(), [0, 4, 7])
    assert len(passes) == 1
    for t, target in enumerate((0, 4, 7)):
        assert_close(several.weights[:, t], explain(small, images(), target).weights[:, 0], 1e-6)


def test_labels_of_the_card_are_used_where_they_fit(small):
    small.pretrained_cfg = {**small.pretrained_cfg, "label_names": LABELS}
    assert explain(small, images(), "ship").labels == (("ship",), ("ship",))
    small.reset_classifier(4)
    assert explain(small, images(), 2).labels is None


def unchanged(model: nn.Module) -> list[Any]:
    tensors = [(t.clone(), None if t.grad is None else t.grad.clone()) for t in model.parameters()]
    return [tensors, [b.clone() for b in model.buffers()], [p.requires_grad for p in model.parameters()]]


def test_the_images_and_the_model_are_left_as_they_were(small):
    x = images().requires_grad_()
    (small(x).sum() + (x**2).sum()).backward()
    small.conv1.linear.weight.requires_grad_(False)
    before, pixels, gradient = unchanged(small), x.detach().clone(), x.grad.clone()
    explanation = explain(small, x)
    torch.testing.assert_close(unchanged(small), before, rtol=0, atol=0)
    assert torch.equal(x, pixels) and torch.equal(x.grad, gradient) and x.requires_grad and x.is_leaf
    assert not any(module.training for module in small.modules())
    for name in ("logits", "weights", "contributions", "bias"):
        assert not getattr(explanation, name).requires_grad
    first = explanation.weights.clone()
    explain(small, x, 0)
    assert torch.equal(explanation.weights, first)


MODES = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "linear_mode": linear_mode,
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_no_mode_of_the_caller_changes_an_explanation(shared, reference, mode):
    with mode():
        explanation = explain(shared, images())
    same(explanation, reference, 0.0)
    assert explanation.contributions.dtype == torch.float32
    assert not explanation.contributions.is_inference() and not explanation.weights.is_inference()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # from inside dynamo
@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_is_explained_as_it_is_uncompiled(in_place):
    model = random_state(BcosResNet(BasicBlock, (1,), widths=(8,), stem="cifar", num_classes=10))
    compiled, expected = copy.deepcopy(model), explain(model, images())
    if in_place:
        compiled.compile(backend="eager")
    else:
        compiled = torch.compile(compiled, backend="eager")
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(compiled(images()), model(images()))
        same(explain(compiled, images()), expected)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_a_half_precision_model_is_explained_in_float32(small, mode):
    with mode():
        half = copy.deepcopy(small).bfloat16()
        explanation = explain(half, images())
    assert explanation.weights.dtype == explanation.logits.dtype == torch.float32
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert gap(explanation) < 1e-4


def test_a_model_made_in_inference_mode_is_explained(reference):
    with torch.inference_mode():
        model = network("bcos_resnet20")
        same(explain(model, images()), reference)


def test_the_dtype_of_the_computation_follows_the_model_or_the_wish(shared, small, reference):
    double = explain(small.double(), images().half().float())
    assert double.weights.dtype == torch.float64
    assert gap(double) < 1e-12
    wished = explain(shared, images(), dtype=torch.float64)
    assert wished.contributions.dtype == torch.float64
    assert gap(wished) < 1e-12
    assert_close(wished.weights.float(), reference.weights, 1e-4)
    coarse = explain(shared, images(), dtype=torch.bfloat16)
    assert coarse.weights.dtype == torch.bfloat16
    assert coarse.rgba().isfinite().all()


def test_eight_threads_predict_and_explain_on_one_model_at_once(shared):
    batches = [images(1, 17, 15, seed=seed) for seed in range(8)]
    with torch.no_grad():
        alone = [(shared(x), explain(shared, x, [0, 1])) for x in batches]
    start = threading.Barrier(8)

    def work(n: int) -> list[tuple[torch.Tensor, Explanation]]:
        start.wait()
        results = []
        with torch.no_grad():
            for _ in range(4):
                results.append((shared(batches[n]), explain(shared, batches[n], [0, 1])))
        return results

    with ThreadPoolExecutor(8) as pool:
        for results, (logits, explanation) in zip(pool.map(work, range(8)), alone, strict=True):
            for got_logits, got in results:
                assert torch.equal(got_logits, logits)
                same(got, explanation, 0.0)


def test_the_head_gives_the_same_with_its_own_settings(shared, reference):
    head = ExplanationHead(shared, class_names=LABELS, smooth=3, percentile=90.0)
    explanation = head(images())
    same(explanation, reference, 0.0)
    assert (explanation.smooth, explanation.percentile) == (3, 90.0)
    torch.testing.assert_close(explanation.rgba(), reference.rgba(3, 90.0))
    assert head(images(), "frog").targets.tolist() == [[6], [6]]
    assert "smooth=3, percentile=90.0" in repr(head)
    with pytest.raises(InputError, match="training mode"):
        head.train()(images())
    shared.eval()


def test_an_explanation_cannot_be_changed(reference):
    with pytest.raises(FrozenInstanceError):
        reference.weights = torch.zeros(1)


BAD_IMAGES = [
    (
        torch.rand(3, 8, 8),
        r"shape \(3, 8, 8\); images come as \(N, K, H, W\); add the batch axis with x\[None\]",
    ),
    (torch.rand(8, 8), r"shape \(8, 8\); images come as \(N, K, H, W\)$"),
    (torch.rand(1, 1, 8, 8), r"shape \(1, 1, 8, 8\); allowed is \(N, 3, H, W\)"),
    (torch.rand(1, 6, 8, 8), "the network adds the inverted colours itself"),
    (
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        "uint8 images; allowed are floats .*: divide 8-bit values by 255",
    ),
    (torch.rand(0, 3, 8, 8), "holds no pixel; give at least one image"),
    (torch.rand(1, 3, 0, 8), "holds no pixel; give at least one image"),
    (torch.full((1, 3, 8, 8), -2.1), r"values from -2.1 to -2.1; .*: leave out mean/std normalisation"),
    (torch.full((1, 3, 8, 8), 255.0), r"values from 255 to 255; allowed is \[0, 1\]"),
    (torch.full((1, 3, 8, 8), torch.inf), r"values from inf to inf; allowed is \[0, 1\]"),
    (
        torch.full((1, 3, 8, 8), torch.nan),
        "hold NaN; allowed are finite values in .*: look for a division by",
    ),
]


@pytest.mark.parametrize(("x", "message"), BAD_IMAGES)
def test_images_that_cannot_be_explained_are_refused(shared, x, message):
    with pytest.raises(InputError, match=message):
        explain(shared, x)


def test_one_bad_pixel_in_a_batch_is_enough_and_rounding_is_not(shared):
    x = images()
    x[1, 2, 3, 4] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        explain(shared, x)
    x[1, 2, 3, 4] = 1 + 1e-6
    explain(shared, x)


BAD_TARGETS = [
    (10, "target 10 is no class of this model; allowed are 0 to 9"),
    (-1, "target -1 is no class of this model; allowed are 0 to 9"),
    ([2, 11], "target 11 is no class"),
    (10**20, "target 100000000000000000000 is no class"),
    (torch.tensor([2, 12]), "target 12 is no class"),
    ("unicorn", "no class named 'unicorn'; this model knows airplane, automobile, .*, truck"),
    ([], "targets are an empty list; give at least one class, or None for the predicted one"),
    (True, "target True is a bool; allowed are class indices and labels"),
    (2.0, "target 2.0 is a float; allowed are class indices and labels, a list of them, or a tensor"),
    ({1: 2}, "is a dict; allowed are class indices and labels, a list of them, or a tensor or array of"),
    (
        torch.tensor([0.5, 1.0]),
        "targets are a tensor of torch.float32; allowed are class indices, as integers",
    ),
    (torch.tensor([True, False]), "targets are a tensor of torch.bool"),
    (torch.tensor(3), r"targets have shape \(\); for 2 images allowed are \(2,\) and \(2, T\)"),
    (torch.tensor([1, 2, 3]), r"targets have shape \(3,\); for 2 images"),
    (torch.zeros(2, 0, dtype=torch.long), r"targets have shape \(2, 0\); for 2 images"),
]


@pytest.mark.parametrize(("targets", "message"), BAD_TARGETS, ids=str)
def test_targets_that_do_not_fit_are_refused(shared, targets, message):
    with pytest.raises(InputError, match=message):
        explain(shared, images(), targets, class_names=LABELS)


def test_labels_must_be_known_single_and_complete(shared, small):
    small.pretrained_cfg = {**small.pretrained_cfg, "label_names": None}
    with pytest.raises(
        InputError, match="'cat' is a label, but this model has no class names; give the class in"
    ):
        explain(small, images(), "cat")
    with pytest.raises(
        InputError, match=r"'crane' is the name of the classes \[0, 9\]; give the index of one"
    ):
        explain(shared, images(), "crane", class_names=("crane", *LABELS[1:9], "crane"))
    with pytest.raises(InputError, match="9 class names for 10 classes; give one for each"):
        explain(shared, images(), class_names=LABELS[:9])


def test_models_without_a_linear_map_of_logits_are_refused(small):
    with pytest.raises(
        InputError, match="Sequential has no B-cos encoding layer, so no linear map to explain"
    ):
        explain(nn.Sequential(nn.Flatten(), nn.Linear(3 * 33 * 31, 10)).eval(), images())
    small.reset_classifier(10, "")
    with pytest.raises(
        InputError, match=r"gives \(2, 10, 9, 8\); to explain it must give logits \(N, C\): keep"
    ):
        explain(small, images())


@pytest.mark.parametrize("part", ["", "layer2", "bn1"])
def test_a_model_in_training_mode_is_refused(small, part):
    small.get_submodule(part).train()
    with pytest.raises(
        InputError, match=r"in training mode, where the images of a batch mix; call model.eval\(\)"
    ):
        explain(small, images())


def test_a_failed_explanation_leaves_no_mode_behind(shared, reference):
    with pytest.raises(InputError):
        explain(shared, images(), 99)
    assert not bcos_zoo.layers.is_linear()
    same(explain(shared, images()), reference, 0.0)
