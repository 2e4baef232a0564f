"""The shortcuts for speed change no number: family, norm, batch, gradients, hooks and switch."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import timm
import torch
from conftest import NAMES, assert_close, images, network, random_state, smallest_of_each_family
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo.layers import NORM_NAMES, LayerSpec, fast_ways
from bcos_zoo.models._network import ConvNetwork, Level
from bcos_zoo.models.bcos_convnext import BcosConvNeXt
from bcos_zoo.models.bcos_densenet import BcosDenseNet
from bcos_zoo.models.bcos_inception import ConvNorm, Mixed
from bcos_zoo.models.bcos_resnet import BasicBlock, BcosResNet, Bottleneck
from bcos_zoo.models.bcos_resnet_clip import BcosResNetCLIP
from bcos_zoo.models.bcos_vgg import BcosVGG
from bcos_zoo.models.bcos_vit import BcosSimpleViT

NORMS = (*NORM_NAMES, "none")
TINY = dict(num_classes=5)


class TinyInception(ConvNetwork):
    """The blocks of Inception, which comes in one size, in a small network."""

    CLASSIFIER = "fc"

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, 3, 0.0)
        wide = [[("a1", 4, 1)], [("b1", 4, 1), ("b2", 4, (1, 7)), ("b3", 4, (7, 1))], [("branch_pool", 4, 1)]]
        forked = [[("a1", 4, 1), (("a2", 4, (1, 3)), ("a3", 4, (3, 1)))], [("branch_pool", 4, 1)]]
        self.stem = ConvNorm(6, 8, 3, spec, stride=2, same=False)
        self.wide, self.forked = Mixed(8, wide, spec), Mixed(12, forked, spec)
        self.halve = Mixed(12, [[("a1", 4, 1), ("a2", 6, 3)]], spec, halve=True)
        self._complete([Level(("stem", "wide", "forked", "halve"), 18, 4)], 5, "avg")


FAMILIES: dict[str, Any] = {  # the smallest of each that has all kinds of its blocks
    "resnet": lambda spec: BcosResNet(BasicBlock, (1, 2), widths=(6, 8), stem="cifar", spec=spec, **TINY),
    "bottleneck": lambda spec: BcosResNet(
        Bottleneck, (1, 1), widths=(8, 16), cardinality=2, spec=spec, **TINY
    ),
    "densenet": lambda spec: BcosDenseNet(4, (3, 2), stem_width=8, bn_size=2, spec=spec, **TINY),
    "convnext": lambda spec: BcosConvNeXt((1, 1), (8, 12), layer_scale=1.0, spec=spec, **TINY),
    "vgg": lambda spec: BcosVGG((1, 2), widths=(8, 12), hidden=16, spec=spec, **TINY),
    "clip": lambda spec: BcosResNetCLIP((1, 1), width=8, heads=4, spec=spec, **TINY),
    "vit": lambda spec: BcosSimpleViT(
        dim=12, depth=2, heads=3, mlp_dim=16, patch_size=1, conv_stem=(6, 8), spec=spec, **TINY
    ),
    "inception": TinyInception,
}
# Centred instance norm leaves no mean for CLIP's pooling to attend to: all but the bias would be rounding.
CASES = [case for case in itertools.product(FAMILIES, NORMS) if case != ("clip", "in")]
LARGE = [name for name in NAMES if not name.startswith("bcos_std_")]


def hooked(model: nn.Module) -> tuple[Any, list[str]]:
    """A copy on every module of which somebody looks, and the names of those called."""
    model, called = copy.deepcopy(model), []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    return model, called


def explained(model: Any, x: Tensor) -> Tensor:
    """All that an explanation of two classes says, in one tensor."""
    e = bcos_zoo.explain(model, x, [0, 2], dtype=x.dtype)
    return torch.cat([e.weights.flatten(1), e.contributions.flatten(1), e.bias, e.logits], 1)


def every_way(model: Any, x: Tensor, tolerance: float) -> None:
    """Forward and explanation of x, in every way, against the plain formulas without anyone looking."""
    watched, called = hooked(model)
    with fast_ways(False):
        with torch.no_grad():
            logits = model(x)
        everything = explained(model, x)
    for on, one, n, grad in itertools.product((True, False), (model, watched), (1, 2), (True, False)):
        with fast_ways(on), torch.set_grad_enabled(grad):
            assert_close(one(x[:n]).detach(), logits[:n], tolerance)
    for on, one, n in itertools.product((True, False), (model, watched), (1, 2)):
        with fast_ways(on):
            assert_close(explained(one, x[:n]), everything[:n], tolerance)
    assert {name for name, module in model.named_modules() if name and not skipped(module)} <= set(called)


def skipped(module: nn.Module) -> bool:
    """Those without a forward, which nothing can call."""
    return type(module) in (nn.ModuleList, nn.ModuleDict)


@pytest.mark.parametrize(("family", "norm"), CASES)
def test_every_norm_gives_the_same_numbers_in_every_way(family: str, norm: str) -> None:
    model = random_state(FAMILIES[family](LayerSpec(norm=norm)), mean=0.1).double()
    every_way(model, images(2, like=model).double(), 1e-9)


@pytest.mark.parametrize(
    "spec",
    [
        LayerSpec(b=1.5),
        LayerSpec(max_out=2, norm="none", scale=0.3),
        LayerSpec(act="relu", normalize=False, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2), norm="bn"),
    ],
    ids=["b 1.5", "v1", "B-cosified"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_layer_gives_the_same_numbers_in_every_way(family: str, spec: LayerSpec) -> None:
    model = random_state(FAMILIES[family](spec), mean=0.1).double()
    every_way(model, images(2, like=model).double(), 1e-9)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("bcos_resnet20", "bcos_plain9") else pytest.mark.slow)
        for name in LARGE
    ],
)
def test_every_network_gives_the_same_numbers_in_every_way(name: str) -> None:
    model = network(name, mean=0.1).double()
    x = images(2, 17, 15) if name == "bcos_plain9" else images(2, like=model)
    every_way(model, x.double(), 1e-8)


def test_every_family_is_tried() -> None:
    tried = {type(make(LayerSpec())) for make in FAMILIES.values()} - {TinyInception}
    kinds = {type(timm.create_model(name, device="meta")) for name in smallest_of_each_family()}
    assert {kind.__name__ for kind in kinds - tried} == {"BcosInception3", "BcosPlain"}


@torch.no_grad()
def test_the_smallest_densenet_takes_the_uncentred_norms():
    """The network of the report itself, two images at once."""
    x = torch.rand(2, 3, 32, 32)
    for norm in ("anu", "bnu"):
        model = timm.create_model("bcos_densenet52", norm=norm).eval()
        torch.testing.assert_close(model(x), torch.cat([model(x[:1]), model(x[1:])]), rtol=1e-3, atol=1e-4)
