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
from torch.overrides import TorchFunctionMode

from ..errors import InputError, reason
from ..layers import linear_mode
from .calls import Log, logging
from .marks import is_held, mark_of, on_path, tensors_in
from .network import Converted
from .norms import is_bias

EXACT = 1e-9  # of the logit; rounding in float64 is about a millionth of that
CAST = 1e-5  # instead, between linear mode and a plain pass in which some code casts to float32
AMPLIFIED = 1e-3  # at most, of what a network makes of rounding
PRESENT = 1e-5  # the share of the logit that the image must have for its completeness to mean anything
ADVICE = "docs/conversions.md lists what can be converted"


@dataclass(frozen=True)
class Trial:
    """What a trial pass found.

    on_path: names of the layers that the linear map runs through; pools: of the poolings. of_factors: of
    those that see something of the image but only make factors; share: theirs of all parameters. biases:
    names of the biases that add a constant to the logits. choices: where one of two factors that both depend
    on the image was held, by class of the module. gap: what is unexplained, relative to the logit.
    difference: by how much linear mode gives something else than the plain pass, relative to the largest
    logit.
    """

    on_path: frozenset[str]
    pools: frozenset[str]
    of_factors: frozenset[str]
    share: float
    biases: frozenset[str]
    choices: tuple[str, ...]
    gap: float
    difference: float


@dataclass
class _Pass:
    """One pass in linear mode: its logits, and of a weighted sum of them the parts."""

    logits: Tensor
    total: Tensor
    encoded: Tensor
    constants: list[Tensor]  # in the graph of the biases that they are made of
    found: tuple[Tensor | None, ...]  # gradients: of the encoded image, and of each constant; or none


def tried(model: Converted, size: Sequence[int], *, seed: int = 0, share: float = PRESENT) -> Trial:
    """Run a copy of the network on the CPU, its weights and statistics random, in linear mode and float64.

    size: (K, H, W) of the images. share: the least that the image must have in the logit.
    Raises InputError, in one line, if the logits are not what the linear map and the constants make of the
    image, or not what the network gives outside linear mode.
    """
    name = model.conversion["from"]
    with torch.device("cpu"):  # also what the network's code makes without naming a device
        twin = twin_of(model, seed)
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(2, *size, generator=generator, dtype=torch.float64)
        with logging() as log:
            first = _explained(twin, images[:1], name)
        whole, sums, biases = float(first.total), _sums(first), _biases(twin, first)
        first.found = ()  # as large as the constants together, spread out
        second = _explained(twin, images[1:], name, backward=False)
        difference = _difference(twin, images[:1], first.logits, name)
    if len(first.constants) != len(second.constants) or any(
        a.shape != b.shape or not torch.equal(a, b)
        for a, b in zip(first.constants, second.constants, strict=True)
    ):
        raise InputError(
            f"{name}: what it adds as a constant differs between two images, because some of its code is "
            f"hidden from torch's functions; {ADVICE}"
        )
    scale = max(abs(whole), *map(abs, sums))
    gap = abs(whole - sum(sums)) / scale if scale else math.nan
    if not gap <= EXACT:
        raise InputError(f"{name}: {gap:.1g} of a logit stays unexplained in linear mode; {ADVICE}")
    if abs(sums[0]) < share * scale:
        raise InputError(f"{name}: with random weights its logits hardly depend on the image; {ADVICE}")
    return _trial(twin, log, biases, gap, difference)


def followed(model: Converted, size: Sequence[int]) -> Trial:
    """The rules alone, without numbers, and so without a gap: what `tried` does, on the meta device.

    model: on the meta device, in eval mode. Raises InputError if the logits are not on the path.
    """
    twin = copy.deepcopy(model).requires_grad_(False)
    with logging() as log:
        _explained(twin, torch.empty(1, *size, device="meta"), model.conversion["from"])
    return _trial(twin, log, frozenset(), math.nan, math.nan)


def twin_of(model: Converted, seed: int = 0) -> Converted:
    """A copy for a trial: on the CPU, in float64 and eval mode, weights random.

    Of its parameters only biases want gradients, so that one sees which constants are made of them.
    """
    twin: Converted = randomised(copy.deepcopy(model).cpu().eval().double(), seed)
    for key, parameter in twin.named_parameters():
        parameter.requires_grad_(is_bias(key))
    return twin


def _trial(twin: Converted, log: Log, biases: frozenset[str], gap: float, difference: float) -> Trial:
    names = {id(module): name for name, module in twin.named_modules()}
    layers = frozenset(names[id(module)] for module in log.layers if id(module) in names)
    pools = frozenset(names[id(module)] for module in log.pools if id(module) in names)
    reached = frozenset(names[id(module)] for module in log.reached if id(module) in names)
    sizes = {name: _own_size(twin.get_submodule(name)) for name in reached - layers}
    every = sum(parameter.numel() for parameter in twin.parameters())
    choices = {f"{type(module).__name__}: {choice}" for choice, module in log.choices}
    of_factors = frozenset(name for name, size in sizes.items() if size)
    share = sum(sizes.values()) / max(every, 1)
    return Trial(layers, pools, of_factors, share, biases, tuple(sorted(choices)), gap, difference)


def _own_size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


def _sums(one: _Pass) -> list[float]:
    """The shares of the encoded image and of each constant in the weighted sum."""
    parts = zip(one.found, (one.encoded, *one.constants), strict=True)
    return [0.0 if grad is None else float((grad * value.detach()).sum()) for grad, value in parts]


def _explained(twin: Converted, image: Tensor, name: str, *, backward: bool = True) -> _Pass:
    """A pass in linear mode; unless without `backward`, what a weighted sum of its outputs is made of."""
    try:
        with torch.enable_grad(), linear_mode() as tape:
            logits = next(tensors_in(twin(image)))
        if not on_path(logits):
            raise InputError(f"{name}: {_refusal(twin, logits)}; {ADVICE}")
        generator = torch.Generator("cpu").manual_seed(1)
        weights = torch.randn(logits.shape, generator=generator, device="cpu").to(logits)
        total = (logits * weights).sum()
        encoded = tape.encodings[0].encoded
        parts = (encoded, *tape.constants)
        found = torch.autograd.grad(total, parts, allow_unused=True, retain_graph=True) if backward else ()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{name}: its code cannot run in linear mode ({type(error).__name__}: {reason(error)}); {ADVICE}"
        ) from error
    return _Pass(logits.detach(), total.detach(), encoded.detach(), tape.constants, found)


class _Casts(TorchFunctionMode):
    """Sees whether code computes in float32, and so cannot agree with linear mode beyond its rounding."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen |= any(x.dtype is torch.float32 for x in tensors_in([result]))
        return result


@torch.no_grad()
def _difference(twin: Converted, image: Tensor, logits: Tensor, name: str) -> float:
    """By how much timm's code as it stands gives something else, relative to its largest logit.

    With random weights some networks amplify rounding, such as those with many saturated attention weights:
    as much as a change of the image's last digits makes is allowed, ten times over.
    """
    with _Casts() as casts:
        plain = next(tensors_in(twin(image)))
    size = max(float(plain.abs().max()), torch.finfo(torch.float64).tiny)

    def other(than: Tensor) -> float:
        return float((than - plain).abs().max()) / size

    difference, allowed = other(logits), CAST if casts.seen else EXACT
    if difference > allowed:
        rounded = other(next(tensors_in(twin(image * (1 + torch.finfo(image.dtype).eps)))))
        allowed = max(allowed, min(10 * rounded, AMPLIFIED))
    if not difference <= allowed:
        raise InputError(
            f"{name}: gives something else in linear mode than outside: by {difference:.1g} of its logits; "
            f"{ADVICE}"
        )
    return difference


def _biases(twin: Converted, one: _Pass) -> frozenset[str]:
    """The names of the biases by which the constants in the logits change."""
    candidates = {key: parameter for key, parameter in twin.named_parameters() if is_bias(key)}
    made = [
        (grad * constant).sum()
        for grad, constant in zip(one.found[1:], one.constants, strict=True)
        if grad is not None and constant.grad_fn is not None
    ]
    if not (candidates and made):
        return frozenset()
    found = torch.autograd.grad(torch.stack(made).sum(), list(candidates.values()), allow_unused=True)
    return frozenset(
        key for key, grad in zip(candidates, found, strict=True) if grad is not None and grad.any()
    )


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
    generator = torch.Generator("cpu").manual_seed(seed)
    for key, parameter in model.named_parameters():
        noise = _noise(parameter.shape, generator).to(parameter)
        if parameter.ndim > 1 and parameter.numel() > 2 * max(parameter.shape):
            parameter.copy_(noise * math.sqrt(1.5 / parameter[0].numel()))
        elif "bias" in key:
            parameter.copy_(0.1 * noise)
        else:
            parameter.copy_(1 + 0.3 * noise.clamp(-2, 2))
    for module in model.modules():
        for key, buffer in module.named_buffers(recurse=False):
            noise = _noise(buffer.shape, generator)
            if key == "running_mean":
                buffer.copy_(0.1 * noise)
            elif key == "running_var":
                buffer.copy_(1 + 0.3 * noise.clamp(-2, 2))
    return model


def _noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")


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
    with torch.device("cpu"):
        twin = twin_of(model)
        image = torch.rand(1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        before = next(tensors_in(twin(image)))
        widen_stem(twin, name)
        try:
            after = next(tensors_in(twin(image)))
        except (RuntimeError, ValueError, AssertionError):  # its code wants the image's number of channels
            return False
    return torch.allclose(before, after, rtol=1e-6, atol=1e-6 * float(before.abs().max()))
