"""What the tests of networks share: names, and networks with random weights that are worth explaining."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import bcos_zoo

NAMES = bcos_zoo.list_models()
QUICK = ("bcos_resnet18", "bcos_resnet20", "bcos_resnet50", "bcos_resnext50_32x4d")  # not marked slow
BY_SIZE = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]
LOGIT_RANGE = 20.0  # of `random_state`: well above the logit bias of -6.9


@functools.cache
def smallest_of_each_family() -> list[str]:
    """The architecture with the fewest parameters in each module of `bcos_zoo.models`."""
    smallest: dict[str, tuple[int, str]] = {}
    for name in NAMES:
        size = sum(p.numel() for p in timm.create_model(name, device="meta").parameters())
        family = timm.model_entrypoint(name).__module__
        smallest[family] = min(smallest.get(family, (size, name)), (size, name))
    return [name for _, name in smallest.values()]


def images(n: int = 2, height: int = 33, width: int = 31, *, channels: int = 3, seed: int = 0) -> Tensor:
    """(N, K, H, W) in [0, 1]: not square, odd, and smooth enough to have structure."""
    coarse = torch.rand(n, channels, 9, 7, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (height, width), mode="bilinear").clamp(0, 1)


@torch.no_grad()
def random_state(model: Any, seed: int = 0, mean: float = 0.0) -> Any:
    """Random weights and batch-norm buffers as if trained, in place; returns the model, in eval mode.

    As a network comes from its constructor, its buffers do not fit its weights, and its logits are the logit
    bias and next to nothing else: completeness would then be tested against nothing. So the variances are
    measured on random images, and the first norm is scaled until the logits spread over `LOGIT_RANGE`: all
    that follows it is homogeneous of degree one.
    mean: of the weights, in standard deviations. With 0 responses cancel, so that deep networks amplify
    rounding errors; with 0.1 they do not, but few pixels speak against a class.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) + mean)
    norms = [module for module in model.modules() if hasattr(module, "running_var")]
    x = images(4, channels=model.in_chans, seed=seed).to(norms[0].weight)
    for norm in norms:
        norm.momentum = 1.0
    model.train()(x)
    for norm in norms:
        norm.momentum = 0.1
    logits = model.eval()(x)
    norms[0].weight.mul_(LOGIT_RANGE / (logits.amax() - logits.amin()))
    return model


def network(name: str, *, seed: int = 0, mean: float = 0.0, **options: Any) -> Any:
    """A network with a `random_state`, in eval mode."""
    return random_state(timm.create_model(name, **options), seed, mean)


def gap(explanation: bcos_zoo.Explanation) -> float:
    """The largest completeness gap, relative to |logit - bias| of the same target.

    Of the two sensible scales it is the stricter: the sum of |contributions| is never smaller than their sum,
    and can be much larger where they cancel. It wants targets whose logits are not the bias alone.
    """
    explained = explanation.logits.gather(1, explanation.targets) - explanation.bias
    assert (explained.abs() > 0.1).all(), "nothing but bias: completeness would be tested against nothing"
    return float((explanation.completeness().abs() / explained.abs()).max())


def assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal within `tolerance`, relative to the largest of the expected values."""
    assert got.shape == expected.shape
    assert got.isfinite().all()
    with torch.no_grad():
        assert float((got - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.fixture(scope="session")
def shared() -> Any:
    """The smallest ResNet, for tests that leave it as it is."""
    return network("bcos_resnet20")


@pytest.fixture
def small(shared: Any) -> Any:
    """A copy of the smallest ResNet, for tests that change it."""
    return copy.deepcopy(shared)
