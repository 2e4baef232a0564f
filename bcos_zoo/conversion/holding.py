"""Linear mode for code that knows nothing of it: every torch function that timm's layers call gets a rule.

Outside linear mode, a converted network runs timm's code as it stands. Inside, that code runs under
`Holding`, which sees each call of a torch function and follows the image through the network by marks on
tensors. The table of `rules` says of each function what is linear about it, what is held, and what is a
constant. Factors go through `layers.hold`, constants through `layers.add_constant`, so that frozen weights,
recorded factors and played-back ones work as in the layers written for linear mode.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..layers import parameter
from .calls import Call
from .marks import mark_of, tensors_in, with_tensors
from .rules import CONSTANTS, RULES, TRANSPARENT, unknown

LINEAR_GETTERS = frozenset(("T", "mT", "H", "mH", "real", "imag"))
IN_PLACE_OPERATORS = frozenset("add sub mul truediv floordiv mod pow and or xor matmul".split())


class Holding(TorchFunctionMode):
    """The mode under which a converted network runs in linear mode."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.dispatch(func, args, kwargs or {})

    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function by its rule; without one, if no argument depends on the image."""
        if not any(mark_of(x) is not None for x in tensors_in([args, kwargs])):
            return func(*args, **kwargs)
        name, in_place = _called(func)
        shape_alone = name in CONSTANTS and not any(map(mark_of, tensors_in([args[1:], kwargs])))
        if shape_alone or name in TRANSPARENT:
            return func(*args, **kwargs)
        written = args[:1] if in_place or name == "__setitem__" else ()  # as it is, for the network has it
        args, kwargs = (*written, *with_tensors(args[len(written) :], _frozen)), with_tensors(kwargs, _frozen)
        call = Call(self.dispatch, name, func, args, kwargs, in_place)
        tracked = [x for x in tensors_in([args, kwargs]) if mark_of(x) is not None]
        if any(x.dtype is torch.float64 for x in tracked):
            call = _kept_wide(call)
        marks = [mark_of(x) for x in tracked]
        if all(mark is not None and mark.held for mark in marks):
            return call.held()
        return RULES.get(name, unknown)(call)


def _kept_wide(call: Call) -> Call:
    """The call without a cast of float64 to float32: code asks for that only to leave half precision."""
    if call.name == "float":
        return replace(call, name="double", func=Tensor.double)
    args = tuple(one if call.in_place and one is call.args[0] else _wide(one) for one in call.args)
    return replace(call, args=args, kwargs={key: _wide(one) for key, one in call.kwargs.items()})


def _wide(one: Any) -> Any:
    """Constants beside float64, and dtypes asked for, in float64 too."""
    if one is torch.float32:
        return torch.float64
    return one.double() if isinstance(one, Tensor) and one.dtype is torch.float32 else one


def _frozen(x: Tensor) -> Tensor:
    """A weight, out of the graph where linear mode freezes weights."""
    return parameter(x) if x.requires_grad and mark_of(x) is None else x


def _called(func: Any) -> tuple[str, bool]:
    """The name of a function in the table, and whether it writes into its first argument."""
    name: str = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__"):  # of a property of tensors
        of = func.__self__.__name__
        linear = name == "__get__" and of in LINEAR_GETTERS
        return "transpose" if linear else "detach" if name == "__get__" and of == "data" else "size", False
    if name in TRANSPARENT or name in ("__getitem__", "__setitem__"):
        return name, False
    if name.startswith("__") and name.endswith("__"):
        bare = name[2:-2]
        in_place = bare.startswith("i") and bare[1:] in IN_PLACE_OPERATORS
        return (bare[1:] if in_place else bare), in_place
    if name.endswith("_"):
        return name[:-1], True
    return name, False
