"""A trial pass: whether a network is, in linear mode, exactly a linear map of the image plus constants."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, reason
from ..layers import linear_mode
from .calls import Log, logging
from .marks import is_held, mark_of, on_path, tensors_in
from .network import Converted

EXACT = 1e-9  # of the logit; rounding in float64 is about a millionth of that
PRESENT = 1e-5  # the share of the logit that the image must have for its completeness to mean anything
ADVICE = "docs/conversions.md lists what can be converted"


@dataclass(frozen=True)
class Trial:
    """What a trial pass found.

    on_path: names of the layers that the linear map runs through. choices: where one of two factors that both
    depend on the image was held, by class of the module. gap: what is unexplained, relative to the logit.
    """

    on_path: frozenset[str]
    choices: tuple[str, ...]
    gap: float


def tried(model: Converted, size: Sequence[int], *, seed: int = 0, share: float = PRESENT) -> Trial:
    """Run a copy of the network, its weights and statistics random, in linear mode and in float64.

    size: (K, H, W) of the images. share: the least that the image must have in the logit.
    Raises InputError, in one line, if the logits are not what the linear map and the constants make of the
    image.
    """
    name = model.conversion["from"]
    twin = randomised(copy.deepcopy(model).eval().double(), seed)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, *size, generator=generator, dtype=torch.float64)
    with logging() as log:
        total, found, constants, encoded = _explained(twin, images[:1], name)
    _, _, others, _ = _explained(twin, images[1:], name)
    if len(constants) != len(others) or any(
        a.shape != b.shape or not torch.equal(a, b) for a, b in zip(constants, others, strict=True)
    ):
        raise InputError(
            f"{name}: what it adds as a constant differs between two images, because some of its code is "
            f"hidden from torch's functions; {ADVICE}"
        )
    parts = [
        grad * value for grad, value in zip(found, (encoded, *constants), strict=True) if grad is not None
    ]
    whole, explained = float(total), float(sum(part.sum() for part in parts))
    of_the_image = float(parts[0].sum()) if found[0] is not None else 0.0
    scale = max(abs(whole), *(float(part.sum().abs()) for part in parts))
    gap = abs(whole - explained) / scale if scale else math.nan
    if not gap <= EXACT:
        raise InputError(f"{name}: {gap:.1g} of a logit stays unexplained in linear mode; {ADVICE}")
    if abs(of_the_image) < share * scale:
        raise InputError(f"{name}: with random weights its logits hardly depend on the image; {ADVICE}")
    return _trial(twin, log, gap)


def followed(model: Converted, size: Sequence[int]) -> Trial:
    """The rules alone, without numbers, and so without a gap: what `tried` does, on the meta device.

    model: on the meta device, in eval mode. Raises InputError if the logits are not on the path.
    """
    with logging() as log:
        _explained(model, torch.empty(1, *size, device="meta"), model.conversion["from"])
    return _trial(model, log, math.nan)


def _trial(twin: Converted, log: Log, gap: float) -> Trial:
    names = {id(module): name for name, module in twin.named_modules()}
    layers = frozenset(names[id(module)] for module in log.layers if id(module) in names)
    choices = {f"{type(module).__name__}: {choice}" for choice, module in log.choices}
    return Trial(layers, tuple(sorted(choices)), gap)


def _explained(
    twin: Converted, image: Tensor, name: str
) -> tuple[Tensor, tuple[Tensor | None, ...], list[Tensor], Tensor]:
    """A weighted sum of the outputs; its gradients; constants; and the encoded image."""
    try:
        with torch.enable_grad(), linear_mode(freeze_parameters=True) as tape:
            output = twin(image)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{name}: its code cannot run in linear mode ({type(error).__name__}: {reason(error)}); {ADVICE}"
        ) from error
    logits = next(tensors_in(output))
    if not on_path(logits):
        raise InputError(f"{name}: {_refusal(twin, logits)}; {ADVICE}")
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(logits.shape, generator=generator).to(logits)
    total = (logits * weights).sum()
    encoded = tape.encodings[0].encoded
    found = torch.autograd.grad(total, (encoded, *tape.constants), allow_unused=True)
    return total.detach(), found, [constant.detach() for constant in tape.constants], encoded.detach()


def _refusal(twin: Converted, logits: Tensor) -> str:
    mark = mark_of(logits)
    if mark is None or not is_held(logits):
        return "its logits do not depend on the image by any function of torch that linear mode sees"
    names = {str(id(module)): name for name, module in twin.network.named_modules()}
    why = re.sub(r"#(\d+)", lambda found: f"'{names.get(found[1], '')}'", mark.why)
    return f"{why} gives factors, not a linear function of the image, and adds them to the main path"


@torch.no_grad()
def randomised(model: Any, seed: int = 0) -> Any:
    """Random weights, biases and statistics in place, of scales that keep a signal; returns the model."""
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
        if parameter.ndim > 1 and parameter.numel() > 2 * max(parameter.shape):
            parameter.copy_(noise * math.sqrt(1.5 / parameter[0].numel()))
        elif "bias" in key:
            parameter.copy_(0.1 * noise)
        else:
            parameter.copy_(1 + 0.3 * noise.clamp(-2, 2))
    for module in model.modules():
        for key, buffer in module.named_buffers(recurse=False):
            noise = torch.randn(buffer.shape, generator=generator, dtype=torch.float64)
            if key == "running_mean":
                buffer.copy_(0.1 * noise)
            elif key == "running_var":
                buffer.copy_(1 + 0.3 * noise.clamp(-2, 2))
    return model


def widen_stem(model: Converted, name: str) -> None:
    """Make the stem w of the network inside [w, -w] / 2, on colours and inverted colours, in place."""
    stem: Any = model.network.get_submodule(name)
    weight = stem.weight.detach()
    stem.weight = nn.Parameter(torch.cat([weight, -weight], 1) / 2, stem.weight.requires_grad)
    stem.in_channels *= 2
    model.folded = False


@torch.no_grad()
def wide_stem_fits(model: Converted, name: str, size: Sequence[int]) -> bool:
    """Whether the network gives the same with `widen_stem`: whether the stem is all that sees the image."""
    twin = randomised(copy.deepcopy(model).eval().double())
    image = torch.rand(1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = next(tensors_in(twin(image)))
    widen_stem(twin, name)
    try:
        after = next(tensors_in(twin(image)))
    except (RuntimeError, ValueError, AssertionError):  # its code wants the image's number of channels
        return False
    return torch.allclose(before, after, rtol=1e-6, atol=1e-6 * float(before.abs().max()))
