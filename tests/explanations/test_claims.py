"""What is promised of explanations beside exactness: many classes at once, layouts, compilers, memory."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_close, images, network
from PIL import Image
from torch import nn

import bcos_zoo
from bcos_zoo import Classifier, Explanation, ExplanationHead, explain, pipeline

FIELDS = ("logits", "weights", "contributions", "bias")


def same(got: Explanation, expected: Explanation, tolerance: float = 1e-5) -> None:
    assert torch.equal(got.targets, expected.targets)
    for name in FIELDS:
        assert_close(getattr(got, name), getattr(expected, name), tolerance)


def test_ten_classes_of_one_image_come_from_one_call_and_one_forward_pass(small: Any) -> None:
    x, passes = images(1), []
    handle = small.register_forward_hook(lambda *_: passes.append(1))
    together = explain(small, x, list(range(10)))
    handle.remove()
    assert len(passes) == 1 and together.weights.shape == (1, 10, 6, 33, 31)
    alone = [explain(small, x, c) for c in range(10)]
    for name in ("weights", "contributions", "bias"):
        assert_close(getattr(together, name), torch.cat([getattr(one, name) for one in alone], 1), 1e-5)
    relative = explain(
        small, x, list(range(10)), output="relative"
    )  # of which the sum over classes is nothing
    assert relative.contributions.sum(1).abs().max() < 1e-4 * relative.contributions.abs().max()


@pytest.mark.slow
def test_ten_classes_cost_at_most_twelve_forward_passes() -> None:
    model, x = network("bcos_resnet50"), images(1, 224, 224)

    def seconds(what: Any) -> float:
        start = time.perf_counter()
        what()
        return time.perf_counter() - start

    def forward() -> None:
        with torch.no_grad():
            model(x)

    forward()
    ratios = [seconds(lambda: explain(model, x, list(range(10)))) / seconds(forward) for _ in range(7)]
    assert sorted(ratios)[3] <= 12


def test_targets_made_in_inference_mode_are_targets(shared: Any) -> None:
    with torch.inference_mode():
        targets = torch.tensor([[3, 4], [5, 6]])
    same(explain(shared, images(), targets), explain(shared, images(), targets.clone()), 0.0)
    with torch.inference_mode():
        same(explain(shared, images(), torch.tensor([3, 3])), explain(shared, images(), 3), 0.0)


@pytest.mark.parametrize(
    "name", ["bcos_resnet20", "bcos_convnext_atto_bnu", "bcos_simple_vit_ti_patch16_224"]
)
def test_channels_last_gives_the_same_explanation(name: str) -> None:
    model = network(name)
    x = images(2, like=model)
    expected = explain(model, x, [0, 7])
    moved = copy.deepcopy(model).to(memory_format=torch.channels_last)
    same(explain(moved, x.contiguous(memory_format=torch.channels_last), [0, 7]), expected, 1e-4)
    same(explain(moved, x, [0, 7]), expected, 1e-4)
    same(explain(model, x.contiguous(memory_format=torch.channels_last), [0, 7]), expected, 1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # from inside dynamo
def test_a_model_whose_parts_are_compiled_is_explained(small: Any) -> None:
    """Regional compilation, which leaves no one wrapper around it all."""
    x, expected = images(), explain(small, images(), [1, 2])
    small.layer1, small.layer2[0] = (
        torch.compile(part, backend="aot_eager") for part in (small.layer1, small.layer2[0])
    )
    for _ in range(
        2
    ):  # the code for the forward pass is no code for the explanation, and the other way round
        with torch.no_grad():
            assert_close(small(x), expected.logits, 1e-5)
        same(explain(small, x, [1, 2]), expected)
        same(ExplanationHead(torch.compile(small, backend="eager"))(x, [1, 2]), expected)


def test_autocast_changes_no_explanation_of_a_unit_or_of_tokens() -> None:
    model = network("bcos_simple_vit_ti_patch16_224")
    x = images(1, like=model)
    expected = explain(model, x, [0, 1]), bcos_zoo.explain_unit(model, x, "to_patch_embedding", 5)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            same(explain(model, x, [0, 1]), expected[0], 0.0)
            same(bcos_zoo.explain_unit(model, x, "to_patch_embedding", 5), expected[1], 0.0)


def test_max_batch_bounds_the_memory_of_a_large_request() -> None:
    """Peak resident memory of 96 images, in processes of their own: all at once, and a few at a time."""
    code = (
        "import sys, torch, timm, bcos_zoo\n"
        "model = timm.create_model('bcos_resnet20').eval()\n"
        "x = torch.rand(96, 3, 32, 32)\n"
        "def peak(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "bcos_zoo.explain(model, x[:4], [0, 1])\n"
        "before = peak()\n"
        "bcos_zoo.explain(model, x, [0, 1], max_batch=int(sys.argv[1]))\n"
        "print(peak() - before)\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole, parts = (
        int(
            subprocess.run(
                [sys.executable, "-c", code, n], capture_output=True, text=True, check=True, env=environment
            ).stdout
        )
        for n in ("96", "4")
    )
    assert whole > 100_000  # KiB
    assert parts < whole / 4


def test_what_a_part_of_ones_own_leaves_unexplained_is_reported(small: Any, tmp_path: Path) -> None:
    """Refused would be worse: the rest is still exact. Warned of, and written where the gap is read."""
    small.layer3.append(nn.Tanh().eval())  # which is no linear map of what it gets, however it is held
    with pytest.warns(UserWarning, match="% of an output is not explained: the model has parts that are not"):
        explanation = explain(small, images(), [3, 4])
    total = explanation.contributions.sum((-1, -2)) + explanation.bias
    gap = explanation.logits[:, 3:5] - total
    assert_close(explanation.completeness(), gap, 1e-3)
    assert gap.abs().max() > 0.01
    picture = tmp_path / "photo.png"
    Image.radial_gradient("L").convert("RGB").save(picture)
    classifier = Classifier(small, [str(i) for i in range(10)])
    with pytest.warns(UserWarning, match="is not explained"):
        ((_, answer),) = pipeline.explain_files(classifier, [picture], 3, tmp_path / "out")
    assert isinstance(answer, pipeline.Answer) and answer.completeness_gap > 1e-3
