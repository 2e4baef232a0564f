"""The switch of the shortcuts for speed in `_fast`, and who may take them: nobody must be able to notice.

`free` says so of a pass: plain tensors, computed now, and not recorded, transformed or watched. `untouched`
says so of a module that a shortcut would not call: its class is the one written here or in torch, and nothing
hangs on it.
"""

from __future__ import annotations

import os
from functools import wraps
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.fx
from timm.layers import DropPath, register_notrace_module
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from ..errors import InputError

# What each saves of a pass without it, measured by benchmarks/fast_ways.py: AVX-512, one thread, one to four
# images; of DenseNet and ConvNeXt-T also two threads, 8 and 16 images of 224 pixels.
WAYS = (
    "attention",  # torch's own function: 8 % of a ViT
    "dense",  # DenseNet's first norms through sums of squares: -3 to 4 %, explained 3 to 5 %
    "energy",  # sums of squares without a copy: 7 % of a DenseNet, nothing of a ResNet
    "few",  # few pixels: weights as they lie: 5 to 15 % of 64 pixels
    "fold",  # norms, layer scale and shortcut in the convolution: 5 % of a ResNet
    "in_place",  # products written over: 7 %
    "layout",  # channels last: 2 to 4 %, of an explanation 5 %
    "max_out",  # a maximum without its place: 17 % of a v1 network
    "rows",  # factors of rows on what they gave: 26 to 33 % of 64 pixels
    "separate",  # windows summed along columns, then along rows: 5 % of ConvNeXt-T, 8 images
)

_PLAIN = (Tensor, nn.Parameter)
_WEIGHTS = (*_PLAIN, FakeTensor)  # the last stands for a plain one where a network is exported
_TAKEN = (nn.Conv2d, nn.Linear, nn.Identity, nn.Sequential, DropPath)
_KNOWN: dict[type, Any] = {kind: kind.forward for kind in _TAKEN}
Module = TypeVar("Module", bound=type[nn.Module])


def _from_environment() -> frozenset[str]:
    value = os.environ.get("BCOS_ZOO_FAST", "1")
    if value not in ("0", "1"):
        raise InputError(f"BCOS_ZOO_FAST={value!r}: allowed are 0 for the plain formulas alone, and 1")
    return frozenset(WAYS if value == "1" else ())


_ways = _from_environment()


class fast_ways:  # noqa: N801  (it reads as a function)
    """Switch the shortcuts for speed on or off, for the whole process.

    A call is enough: `fast_ways(False)`. As a `with` block, `with fast_ways(False):`, it puts back what was.
    on: whether the shortcuts are taken where nobody could notice. names: of `WAYS`, those it is about; all if
    none is given. The environment variable BCOS_ZOO_FAST=0 does the same from the start.

    The numbers are the same up to rounding; if they are not, that is a fault, and worth reporting.
    Raises InputError for a name that is not in `WAYS`.
    """

    def __init__(self, on: bool, *names: str) -> None:
        global _ways
        if unknown := set(names) - set(WAYS):
            raise InputError(f"no fast way named {sorted(unknown)[0]!r}; known: {', '.join(WAYS)}")
        self._before = _ways
        chosen = frozenset(names or WAYS)
        _ways = _ways | chosen if on else _ways - chosen

    def __enter__(self) -> fast_ways:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _ways
        _ways = self._before


def on(name: str) -> bool:
    """Whether the shortcut of that name is wanted."""
    return name in _ways


def switched_off() -> bool:
    """Whether no shortcut is wanted."""
    return not _ways


def known(module: Module) -> Module:
    """A class's decorator: a shortcut may take the place of a call of its forward, as it is written here."""
    _KNOWN[module] = module.forward
    return module


def layer(module: Module) -> Module:
    """A class's decorator: as `known`, and one node for whoever traces with torch.fx, timm or torchvision."""
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


def transformed() -> bool:
    """Whether a transform of torch.func is at work, or differentiation in forward mode.

    The compiler cannot ask; it makes one graph of the network and the transform.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def free(x: Tensor) -> bool:
    """Whether a pass over x may take shortcuts: numbers, computed now, that nobody records or transforms."""
    return (
        bool(_ways)
        and not torch.compiler.is_compiling()
        and type(x) in _PLAIN
        and not torch._C._is_tracing()
        and not transformed()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
    )


def untouched(module: nn.Module) -> bool:
    """Whether nobody could tell if `module` itself was called: a known class, and nothing hangs on it."""
    return (
        _KNOWN.get(type(module)) is type(module).forward
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._backward_hooks
        and not module._backward_pre_hooks
        and module._compiled_call_impl is None
        and "forward" not in module.__dict__
        and not _has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def bare(module: nn.Module) -> bool:
    """Whether `module` is torch's own convolution or linear layer, untouched, and all it has is a weight."""
    return (
        type(module) in (nn.Conv2d, nn.Linear)
        and untouched(module)
        and module.bias is None
        and type(module.weight) in _WEIGHTS
    )
