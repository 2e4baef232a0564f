"""The switch for the shortcuts in `_fast`, and the rules for where they are allowed: nobody may notice them.

`free` answers for a pass: its tensors are plain, computed now, and not recorded, transformed or watched.
`untouched` answers for a module that a shortcut would bypass: its forward is the one written here or in
torch, and it has no hooks.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import wraps
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.fx
from timm.layers import DropPath, register_notrace_module
from torch import Tensor, nn

from .._compat import (
    FakeTensor,
    any_global_hook,
    dispatch_modes,
    forward_level,
    function_modes,
    function_transform,
    is_tracing,
    watched,
)
from ..errors import InputError

# The share of a pass that each saves, measured by benchmarks/fast_ways.py with AVX-512, one thread and one to
# four images; for DenseNet and ConvNeXt-T also with two threads and 8 or 16 images of 224 pixels.
WAYS = (
    "attention",  # torch's own function: 8 % in a ViT
    "dense",  # DenseNet's first norms folded: -3 to 4 %; in an explanation 3 to 5 %
    "depthwise",  # gradients of depthwise convolutions on a CPU
    "energy",  # sums of squares without a copy: 7 % in a DenseNet, nothing in a ResNet
    "few",  # for few pixels, weights are not reordered: 5 to 15 % at 64 pixels
    "fold",  # norms, layer scale and shortcut within the convolution: 5 % in a ResNet
    "in_place",  # products overwrite their input: 7 %
    "layout",  # channels last: 2 to 4 %; in an explanation 5 %
    "max_out",  # maxima without their positions: 17 % in a v1 network
    "rows",  # row factors multiply outputs instead of weights: 26 to 33 % at 64 pixels
    "separate",  # windows summed along columns, then rows: 5 % in ConvNeXt-T, 8 images
    "statistics",  # of fading norms, as torch's own norms take them
)

_PLAIN = (Tensor, nn.Parameter)
_WEIGHTS = (*_PLAIN, FakeTensor)  # FakeTensor stands for a plain one during export
_TAKEN = (nn.Conv2d, nn.Linear, nn.Identity, nn.Sequential, DropPath)
_KNOWN: dict[type, Any] = {kind: kind.forward for kind in _TAKEN}
Module = TypeVar("Module", bound=type[nn.Module])


def _from_environment() -> frozenset[str]:
    value = os.environ.get("BCOS_ZOO_FAST", "1")
    if value not in ("0", "1"):
        raise InputError(f"BCOS_ZOO_FAST={value!r}: allowed are 0 for the plain formulas alone, and 1")
    return frozenset(WAYS if value == "1" else ())


@dataclass(eq=False)
class _Change:
    """What a call or a block switches. block: it ends, and what it switched goes back."""

    on: bool
    ways: frozenset[str]
    block: bool = False


_FROM_ENVIRONMENT = _from_environment()
_LOCK = threading.Lock()
_changes: list[_Change] = []
_ways = _FROM_ENVIRONMENT


class fast_ways:  # noqa: N801  (it reads as a function)
    """Switch the shortcuts for speed on or off, for the whole process.

    A call is enough: `fast_ways(False)`. A `with` block, `with fast_ways(False):`, restores what was before.
    on: whether shortcuts are taken where nobody could notice. names: which of `WAYS` to switch; by default
    all. The environment variable BCOS_ZOO_FAST=0 switches all off from the start.

    Results are the same up to rounding; a larger difference is a bug worth reporting.
    Raises InputError for a name that is not in `WAYS`.
    """

    def __init__(self, on: bool, *names: str) -> None:
        if unknown := set(names) - set(WAYS):
            raise InputError(f"no fast way named {sorted(unknown)[0]!r}; known: {', '.join(WAYS)}")
        self._change = _Change(on, frozenset(names or WAYS))
        with _LOCK:
            _forget()
            _changes.append(self._change)
            _apply()

    def __enter__(self) -> fast_ways:
        self._change.block = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _LOCK:  # blocks of several threads may overlap, and end in any order
            own = _changes.index(self._change)
            _changes[own:] = [
                change for change in _changes[own + 1 :] if change.block
            ]  # calls inside end too
            _apply()


def _forget() -> None:
    """Drop calls, not blocks, that a later call for all shortcuts has replaced."""
    whole = [i for i, change in enumerate(_changes) if not change.block and len(change.ways) == len(WAYS)]
    last = whole[-1] if whole else 0
    _changes[:] = [change for i, change in enumerate(_changes) if change.block or i >= last]


def _apply() -> None:
    """What the environment chose, and all changes since that are still in force, in their order."""
    global _ways
    ways = _FROM_ENVIRONMENT
    for change in _changes:
        ways = ways | change.ways if change.on else ways - change.ways
    _ways = ways


def on(name: str) -> bool:
    """Whether the shortcut of that name is wanted."""
    return name in _ways


def switched_off() -> bool:
    """Whether no shortcut is wanted."""
    return not _ways


def known(module: Module) -> Module:
    """Class decorator: a shortcut may replace calls of the class's forward, if it is the one defined here."""
    _KNOWN[module] = module.forward
    return module


def layer(module: Module) -> Module:
    """Class decorator: as `known`, and a single node when traced by torch.fx, timm or torchvision."""
    forward = module.forward

    @wraps(forward)
    def one_node(self: nn.Module, x: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, torch.fx.Proxy):
            name = x.tracer.path_of_module(self)  # type: ignore[attr-defined]
            return x.tracer.create_proxy("call_module", name, (x, *args), kwargs)
        return forward(self, x, *args, **kwargs)

    module.forward = one_node
    register_notrace_module(module)
    return known(module)


class training_step:  # noqa: N801  (it reads as a function)
    """A block in which a compiled network's gradients are taken by backward, and not by torch.func.

    A compiler can ask nothing about transforms, so shortcuts with a backward of their own are taken in
    compiled code only here.
    """

    def __enter__(self) -> None:
        global _in_step
        self._before, _in_step = _in_step, True

    def __exit__(self, *error: object) -> None:
        global _in_step
        _in_step = self._before


_in_step = False


def in_training_step() -> bool:
    """Whether a `training_step` is on, and no export."""
    return _in_step and not torch.compiler.is_exporting()


def transformed() -> bool:
    """Whether a torch.func transform or forward-mode differentiation is active.

    False while compiling: the compiler cannot ask this, and makes one graph of network and transform anyway.
    """
    if torch.compiler.is_compiling():
        return False
    return function_transform() is not None or forward_level() >= 0


def free(x: Tensor) -> bool:
    """Whether a pass over x may take shortcuts: plain numbers, computed now, not recorded or transformed."""
    return (
        bool(_ways)
        and not torch.compiler.is_compiling()
        and type(x) in _PLAIN
        and not is_tracing()
        and not transformed()
        and dispatch_modes() == 0
        and function_modes() == 0
    )


def untouched(module: nn.Module) -> bool:
    """Whether nobody could tell if `module` itself was called: its class is known and it has no hooks."""
    return (
        _KNOWN.get(type(module)) is type(module).forward
        and not watched(module)
        and "forward" not in module.__dict__
        and not any_global_hook()
    )


def bare(module: nn.Module) -> bool:
    """Whether `module` is torch's own convolution or linear layer, untouched, with a weight and no bias."""
    return (
        type(module) in (nn.Conv2d, nn.Linear)
        and untouched(module)
        and module.bias is None
        and type(module.weight) in _WEIGHTS
    )
