"""The linear map against networks linearised by hand (`slow_layers`), and against plain gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import assert_close
from networks import images, normalised, original
from slow_layers import linearised, map_of
from torch import Tensor

import bcos_zoo

BY_HAND = [
    "test_resnet", "test_efficientnet", "convnext_atto", "test_vit", "deit3_small_patch16_224",
    pytest.param("mixer_s32_224", marks=pytest.mark.slow),
]  # fmt: skip


def in_colours(model: Any, gradient: Tensor) -> Tensor:
    """A map over z as one over [x, 1-x]: z = (x - mean) / std is ((1 - mean) x - mean (1 - x)) / std."""
    mean, std = (
        torch.tensor(model.pretrained_cfg[key], dtype=torch.float64)[:, None, None] for key in ("mean", "std")
    )
    return torch.cat([gradient * (1 - mean) / std, -gradient * mean / std], 1)


@pytest.mark.parametrize("b", [1.0, 2.0, 1.5])
@pytest.mark.parametrize("name", BY_HAND)
def test_the_map_is_that_of_the_network_linearised_by_hand(name: str, b: float) -> None:
    plain, x = original(name), images(name, 1)
    model = bcos_zoo.bcosify(plain, b=b)
    bcos = tuple(key.removeprefix("network.") for key in model.bcos_layers())
    by_hand = linearised(plain, b, bcos)
    z = normalised(plain, x)
    tolerance = 1e-10 if b == 1 else 1e-5  # half of the stem's stabiliser: a wide patch is sqrt(2) as long
    assert_close(by_hand(z), model(x), tolerance)
    e = bcos_zoo.explain(model, x, 3)
    assert_close(e.weights[:, 0], in_colours(plain, map_of(by_hand, z, 3)), tolerance)


@pytest.mark.parametrize(
    "name", ["test_resnet", "densenet121", "resnetv2_50", pytest.param("resnet18", marks=pytest.mark.slow)]
)
def test_a_piecewise_linear_networks_map_is_its_plain_gradient(name: str) -> None:
    plain, x = original(name), images(name, 1)
    z = normalised(plain, x)
    e = bcos_zoo.explain(bcos_zoo.bcosify(plain, b=1), x, 2)
    assert_close(e.weights[:, 0], in_colours(plain, map_of(plain, z, 2)), 1e-9)
