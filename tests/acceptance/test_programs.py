"""Networks as programs: exported with free sizes, compiled for many, written as ONNX."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from conftest import assert_close, images, network, random_state, smallest_of_each_family
from torch import Tensor, nn
from torch.export import Dim

import bcos_zoo  # noqa: F401  (registers the networks)
from bcos_zoo.layers import BcosConv2d, BcosLinear, LayerSpec
from bcos_zoo.models.bcos_convnext import BcosConvNeXt

SMALLEST = [*smallest_of_each_family(), "bcos_resnext50_32x4d"]
NAMES = [pytest.param(name, marks=() if name == "bcos_resnet20" else pytest.mark.slow) for name in SMALLEST]


def sizes(name: str) -> tuple[dict[int, Any], list[tuple[int, int, int]]]:
    """Free dimensions, and sizes to try: of batches, and of images where the network takes any."""
    if "vit" in name:
        return {0: Dim("n")}, [(1, 128, 128), (5, 128, 128)]
    least = (
        112 if "inception" in name else 80
    )  # torch sets a map of one pixel apart, and Inception pads little
    free = {0: Dim("n"), 2: Dim("h", min=least), 3: Dim("w", min=least)}
    return free, [(1, 128, 128), (5, 128, 128), (3, 144, 112)]


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_network_takes_any_batch_and_any_size_that_the_network_takes(name: str) -> None:
    model = network(name, mean=0.1)
    free, tried = sizes(name)
    exported = torch.export.export(model, (torch.rand(2, 3, 128, 128),), dynamic_shapes={"x": free}).module()
    for size in tried:
        with torch.no_grad():
            assert_close(exported(images(*size)), model(images(*size)), 1e-4)


def test_sides_are_free_behind_norms_over_channels() -> None:
    """Torch's own function of them would turn the layout, and torch compares strides where layouts meet."""
    model = random_state(BcosConvNeXt((1,), (8,), num_classes=5, spec=LayerSpec(norm="pn")), mean=0.1)
    free = {0: Dim("n"), 2: Dim("h", min=80), 3: Dim("w", min=80)}
    program = torch.export.export(model, (torch.rand(2, 3, 96, 96),), dynamic_shapes={"x": free})
    x = images(3, 80, 101)
    with torch.no_grad():
        assert_close(program.module()(x), model(x), 1e-4)


@pytest.mark.parametrize("layer", [BcosConv2d(3, 4, 3, b=1), BcosLinear(3, 4, b=1)])
def test_a_program_normalises_weights_and_not_what_they_give(layer: nn.Module) -> None:
    x = torch.rand(2, 3, 16, 16) if isinstance(layer, BcosConv2d) else torch.rand(2, 9, 3)
    program = torch.export.export(layer.eval(), (x,))
    products = [node for node in program.graph.nodes if node.target is torch.ops.aten.mul.Tensor]
    assert {len(node.meta["val"]) for node in products} == {4}  # rows of the weights


def compilations(model: nn.Module, inputs: list[Tensor]) -> int:
    """How often torch.compile writes the network for these inputs."""
    torch._dynamo.reset()
    made: list[int] = []

    def backend(graph: Any, example: Any) -> Any:
        made.append(1)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        for x in inputs:
            compiled(x)
    return len(made)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_a_network_is_compiled_as_rarely_as_timms_own(name: str) -> None:
    side = 128 if "inception" in name else 64
    inputs = [torch.rand(n, 3, side, side) for n in range(1, 15)]
    if "vit" not in name:
        inputs += [torch.rand(2, 3, side + 16 * i, side + 8 * i) for i in range(10)]
    theirs = timm.create_model("resnet10t").eval()
    ours = timm.create_model(name, num_classes=10).eval()
    assert compilations(ours, inputs) <= compilations(theirs, inputs)


@pytest.mark.filterwarnings("ignore")  # of the exporter and of what it imports
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in SMALLEST])
def test_onnx_runtime_gives_the_same_logits(name: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, free = network(name, mean=0.1), {"x": {0: Dim("n")}}
    program = torch.onnx.export(
        model, (torch.rand(2, 3, 96, 96),), dynamo=True, verbose=False, dynamic_shapes=free
    )
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    x = images(3, 96, 96)
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert_close(torch.from_numpy(got), model(x), 1e-4)
