"""torch.compile: one graph without a break, and the same results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import assert_close, images, network, smallest_of_each_family
from test_timm_suite import ALL_SIZES

pytestmark = pytest.mark.slow

SMALLEST = [*smallest_of_each_family(), "bcos_vitc_ti_patch1_14"]
FAST = ["bcos_plain9", "bcos_vitc_ti_patch1_14"]  # the others' code takes minutes to write


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("name", SMALLEST)
def test_a_compiled_network_gives_the_same_logits_and_gradients(name: str) -> None:
    """In float64: rounding decides which of two nearly equal units MaxOut takes, and where gradients go."""
    model, x = network(name, mean=0.1).double(), _images(name).double()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert_close(compiled(x), model(x), 1e-9)
    gradients = []
    for forward in (model, compiled):
        forward(x).square().mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        model.zero_grad()
    # Of all weights together: where attention is saturated, those of query and key are rounding alone.
    assert_close(gradients[1], gradients[0], 1e-6)


@pytest.mark.parametrize("name", SMALLEST if ALL_SIZES else FAST)
def test_the_code_that_the_default_compiler_writes_gives_the_same_logits(name: str) -> None:
    model, x = network(name, mean=0.1), _images(name)
    with torch.no_grad():
        assert_close(torch.compile(model, fullgraph=True)(x), model(x), 1e-4)


def _images(name: str) -> Any:
    side = 96 if name == "bcos_inception_v3" else 64
    return images(2, side, side)
