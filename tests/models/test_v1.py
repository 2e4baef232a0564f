"""The v1 networks (Boehle et al. 2022) against slow ones: MaxOut 2, divided outputs, no norms, a last layer.

The numbers in `rules` are the published ones, so that the arguments in the manifest are tested too.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import slow_networks as slow
import timm
import torch
from conftest import assert_close, images
from torch import Tensor

import bcos_zoo
from bcos_zoo.weights import manifest

TEMPERATURES = {1: 1e-3, 1.25: 1e-3, 1.5: 1e-2, 1.75: 10, 2: 100, 2.25: 100, 2.5: 1000}  # by B
NINE_LAYERS = {f"bcos_plain9.v1_b{str(b).replace('.', 'p')}_cifar10": b for b in TEMPERATURES}
IMAGENET = {  # factor of the scale, temperature
    "bcos_resnet34.v1_in1k": (100, 10),
    "bcos_densenet121.v1_in1k": (100, 1e-3),
    "bcos_densenet121.v1_cossched_in1k": (100, 1e-3),
    "bcos_vgg11.v1_in1k": (1000, 0.1),
    "bcos_inception_v3.v1_in1k": (200, 1),
}


def rules(name: str) -> tuple[dict[str, Any], dict[str, float]]:
    """Of a published network: those of its layers, and those of the last one."""
    if name in NINE_LAYERS:
        b = NINE_LAYERS[name]
        layers = dict(b=b, scale=lambda height, width, channels: 10 ** (-2 + 1.5 * (2.5 - b)))
        return layers, dict(temperature=TEMPERATURES[b], bias=math.log(0.1 / 0.9))
    factor, temperature = IMAGENET[name]
    layers = dict(scale=lambda height, width, channels: math.sqrt(height * width * channels) / factor)
    return layers, dict(temperature=temperature, bias=math.log(0.01 / 0.99))


def with_slow(name: str, **sizes: Any) -> tuple[Any, slow.Pass, dict[str, float]]:
    """The network of that name with random weights, and what its slow twin is made of."""
    empty = timm.create_model(name, num_classes=3, dtype=torch.float64, device="meta", **sizes)
    model = slow.with_weights(empty.to_empty(device="cpu"))
    layers, last = rules(name)
    return model, slow.Pass(model.state_dict(), max_out=2, **layers), last


def assert_same(model: Any, x: Tensor, expected: slow.Explained) -> None:
    with torch.no_grad():
        assert_close(model(x) - expected.bias, expected.logits - expected.bias, 1e-9)
    explanation = bcos_zoo.explain(model, x, list(range(3)))
    assert_close(explanation.logits, expected.logits, 1e-9)
    assert_close(explanation.weights, expected.weights, 1e-9)
    assert_close(explanation.bias, expected.bias, 1e-12)


NETWORKS = {
    "bcos_resnet34.v1_in1k": (slow.resnet, dict(layers=(2, 1, 2, 1), widths=(8, 12, 16, 20))),
    "bcos_densenet121.v1_in1k": (slow.densenet, dict(growth=6, layers=(2, 3, 2), stem_width=8)),
    "bcos_densenet121.v1_cossched_in1k": (slow.densenet, dict(growth=4, layers=(1, 1), stem_width=8)),
    "bcos_vgg11.v1_in1k": (slow.vgg, dict(widths=(8, 10, 12, 14, 16), hidden=20)),
    **{name: (slow.plain9, {}) for name in NINE_LAYERS},
}


def test_every_v1_checkpoint_is_here():
    published = {record.name for record in manifest.checkpoints() if record.tag.startswith("v1_")}
    assert published == {*IMAGENET, *NINE_LAYERS} == {*NETWORKS, "bcos_inception_v3.v1_in1k"}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_v1_network_is_the_slow_one_and_so_is_its_linear_map(name):
    network, sizes = NETWORKS[name]
    model, start, last = with_slow(name, **sizes)
    x = images(1, *((9, 7) if name in NINE_LAYERS else (67, 43))).double()
    assert_same(model, x, slow.explain(network, start, torch.cat([x, 1 - x], 1), **last))


@pytest.fixture(scope="module")
def inception() -> tuple[Any, slow.Pass, dict[str, float]]:
    return with_slow("bcos_inception_v3.v1_in1k")


def test_inception_gives_the_logits_of_the_slow_one(inception):
    model, start, last = inception
    x = images(1, 75, 79).double()
    with torch.no_grad():
        explained = slow.inception(start, torch.cat([x, 1 - x], 1)) / last["temperature"]
        assert_close(model(x) - last["bias"], explained, 1e-9)


@pytest.mark.slow
def test_the_linear_map_of_inception_is_that_of_the_slow_one(inception):
    model, start, last = inception
    x = images(1, 107, 91).double()
    start = dataclasses.replace(start, kept=[])
    assert_same(model, x, slow.explain(slow.inception, start, torch.cat([x, 1 - x], 1), **last))


@pytest.mark.slow
def test_in_training_inception_gives_the_logits_of_its_auxiliary_head_too(inception):
    model, start, _ = inception
    x = images(1, 299, 299).double()
    with torch.no_grad():
        expected = model(x)
        logits, auxiliary = model.train()(x)
        model.eval()
        middle = slow.inception_middle(start, torch.cat([x, 1 - x], 1))
        assert_close(auxiliary, slow.inception_auxiliary(start, middle), 1e-9)
        assert_close(logits, expected, 1e-12)
