"""What the tests of networks share: names, and networks with random weights that are worth explaining."""

from __future__ import annotations

import copy
import functools
import math
import random
from typing import Any

import numpy as np
import pytest
import timm
import torch
from commands import of_the_small_one
from small_runs import conventional, paint
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo import cli

NAMES = bcos_zoo.list_models()
EXPLAINED = [name for name in NAMES if not name.startswith("bcos_std_")]  # the twins are conventional
LOGIT_RANGE = 20.0  # of `random_state`: well above the logit bias of -6.9


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Every test draws the same numbers in every run: torch seeds itself by chance."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@functools.cache
def smallest_of_each_family() -> list[str]:
    """The architecture with the fewest parameters in each module of `bcos_zoo.models`."""
    smallest: dict[str, tuple[int, str]] = {}
    for name in NAMES:
        family = timm.model_entrypoint(name).__module__
        if ".models." not in family:  # converted networks are any family of timm's, and have their own tests
            continue
        size = sum(p.numel() for p in timm.create_model(name, device="meta").parameters())
        smallest[family] = min(smallest.get(family, (size, name)), (size, name))
    return [name for _, name in smallest.values()]


QUICK = {  # not marked slow: these, and the most used or most different of the small ones
    *smallest_of_each_family(),
    *("bcos_converted", "bcos_resnet18", "bcos_resnet50", "bcos_resnext50_32x4d", "bcos_densenet121"),
    *("bcos_convnext_atto_bnu", "bcos_convnext_tiny", "bcos_simple_vit_ti_patch16_224"),
    *("bcos_std_simple_vit_ti_patch16_224", "bcos_std_vitc_ti_patch1_14"),
}


def by_size(names: list[str]) -> list[Any]:
    """Parameters of a test: these names, the large networks marked slow."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def images(
    n: int = 2, height: int = 33, width: int = 31, *, channels: int = 3, seed: int = 0, like: Any = None
) -> Tensor:
    """(N, K, H, W) in [0, 1]: not square, odd, and smooth enough to have structure.

    like: a network; sizes it cannot take are raised to the next ones it can.
    """
    if hasattr(like, "to_patch_embedding"):
        stride = like.to_patch_embedding.stride
        height, width = (-(-side // stride) * stride for side in (height, width))
    elif hasattr(like, "Mixed_5b"):
        height, width = max(height, 79), max(width, 75)  # it pads little, so small maps vanish
    elif hasattr(like, "features"):
        height, width = max(height, 35), max(width, 33)
    coarse = torch.rand(n, channels, 9, 7, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (height, width), mode="bilinear").clamp(0, 1)


def _norms(model: Any) -> list[Any]:
    return [m for m in model.modules() if "Norm" in type(m).__name__ and hasattr(m, "weight")]


@torch.no_grad()
def random_state(model: Any, seed: int = 0, mean: float = 0.0) -> Any:
    """Random weights and batch-norm buffers as if trained, in place; returns the model, in eval mode.

    As a network comes from its constructor, its buffers do not fit its weights, and its logits are the logit
    bias and next to nothing else: completeness would then be tested against nothing. So the variances are
    measured on random images, and the logits are spread over `LOGIT_RANGE`.
    mean: of the weights, in standard deviations. With 0 responses cancel, so that deep networks amplify
    rounding errors; with 0.1 they do not, but few pixels speak against a class.
    """
    generator = torch.Generator().manual_seed(seed)
    if not _norms(model):
        mean = max(mean, 0.5)  # or the signal vanishes beside the stabilisers
    for name, parameter in model.named_parameters():
        shift = max(mean, 0.5) if name.startswith("to_patch") else mean  # or positions drown the image
        if parameter.numel() == len(parameter):
            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
        else:
            values = torch.randn(parameter.shape, generator=generator) + shift
            parameter.copy_(values / math.sqrt(parameter[0].numel()))
    norms = [module for module in model.modules() if hasattr(module, "running_var")]
    x = images(4, channels=model.in_chans, seed=seed, like=model).to(next(model.parameters()))
    for norm in norms:
        norm.momentum = 1.0
    model.train()(x)
    for norm in norms:
        norm.momentum = 0.1
    logits = model.eval()(x)
    _spread(model, LOGIT_RANGE / float(logits.amax() - logits.amin()))
    return model


def _spread(model: Any, factor: float) -> None:
    """Multiply the logits by a factor, but for their bias, in a part that is linear in its weights."""
    norms = _norms(model)
    if hasattr(model, "attnpool"):
        model.attnpool.v_proj.weight.mul_(factor)
    elif not norms:
        model.logits.temperature = (model.logits.temperature or 1.0) / factor
    elif hasattr(norms[0], "running_var"):
        norms[0].weight.mul_(factor)  # all that follows is homogeneous of degree one
    else:
        norms[-1].weight.mul_(factor)  # the head's


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


@pytest.fixture
def run(capsys):
    """Run the command; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.run(of_the_small_one([str(argument) for argument in arguments]))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A data set of two classes that differ in colour."""
    return paint(tmp_path_factory.mktemp("colours"), {"train": 16, "val": 8})


@pytest.fixture(scope="module")
def original(colours, tmp_path_factory):
    """The run of a conventional network that tells them apart."""
    return conventional(tmp_path_factory.mktemp("original") / "run", colours)
