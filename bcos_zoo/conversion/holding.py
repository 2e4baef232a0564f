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
from .marks import is_held, mark_of, marked, tensors_in, with_tensors
from .rules import CONSTANTS, RULES, TRANSPARENT, VIEWS, unknown
from .writing import kept_apart, out_of_place, overwrite, settled

LINEAR_GETTERS = frozenset(("T", "mT", "H", "mH", "real", "imag"))
PYTHON_NUMBERS = frozenset("__float__ __int__ __bool__ __complex__ __index__".split())
UNSAVED = frozenset(("add", "sub", "relu"))  # autograd keeps nothing of their arguments: they need no copy
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
        if not args and "input" in kwargs and name != "where":  # whose input is its second
            args, kwargs = (kwargs["input"],), {key: one for key, one in kwargs.items() if key != "input"}
        shape_alone = name in CONSTANTS and not any(map(mark_of, tensors_in([args[1:], kwargs])))
        if shape_alone or name in TRANSPARENT:
            return func(*args, **kwargs)
        if name == "iter":
            return iter(self.dispatch(torch.unbind, args[:1], {}))
        mark = mark_of(args[0]) if args else None
        if name in VIEWS and mark is not None and mark.held:  # of the network's own tensor
            return marked(func(*args, **kwargs), mark)
        if in_place or kwargs.get("inplace"):
            return self._in_place(name, out_of_place(func) if in_place else func, args, kwargs)
        target = kwargs.pop("out", None)
        value = self._by_rule(name, func, args, kwargs)
        return value if target is None else overwrite(target, value)

    def _in_place(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An in-place call; func: its out-of-place form."""
        target = args[0]
        copy = target if name in UNSAVED else target.clone()
        mark = mark_of(target)
        if mark is not None:
            marked(copy, mark)
        given = with_tensors(args, lambda x: copy if x is target else x)
        rest = {key: one for key, one in kwargs.items() if key != "inplace"}
        return overwrite(target, self._by_rule(name, func, given, rest))

    def _by_rule(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = args[:1] if name == "__setitem__" else ()  # the network's own tensor, which is written into
        args = (*own, *with_tensors(args[len(own) :], _prepared))
        call = Call(self.dispatch, name, func, args, with_tensors(kwargs, _prepared))
        call.note()
        tracked = [x for x in tensors_in([call.args, call.kwargs]) if mark_of(x) is not None]
        if any(x.dtype is torch.float64 for x in tracked):
            call = _kept_wide(call, len(own))
        if own:
            return RULES[name](call)
        if all(is_held(x) for x in tracked):
            return call.held()
        args, kwargs = with_tensors(call.args, kept_apart), with_tensors(call.kwargs, kept_apart)
        return RULES.get(name, unknown)(replace(call, args=args, kwargs=kwargs))


def _kept_wide(call: Call, own: int) -> Call:
    """The call without a cast of float64 to float32: code asks for that only to leave half precision.

    own: how many of the first arguments are the network's own tensors, to stay as they are.
    """
    if call.name == "float":
        return replace(call, name="double", func=Tensor.double)
    args = call.args[:own] + tuple(map(_wide, call.args[own:]))
    return replace(call, args=args, kwargs={key: _wide(one) for key, one in call.kwargs.items()})


def _wide(one: Any) -> Any:
    """Constants beside float64, and dtypes asked for, in float64 too."""
    if one is torch.float32:
        return torch.float64
    return one.double() if isinstance(one, Tensor) and one.dtype is torch.float32 else one


def _prepared(x: Tensor) -> Tensor:
    """A weight out of the graph where linear mode freezes weights; what is held, held as a whole."""
    if mark_of(x) is not None:
        return settled(x)
    return parameter(x) if x.requires_grad else x


def _called(func: Any) -> tuple[str, bool]:
    """The name of a function in the table, and whether it writes into its first argument."""
    name: str = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__"):  # of a property of tensors
        of = func.__self__.__name__
        linear = name == "__get__" and of in LINEAR_GETTERS
        return "transpose" if linear else "detach" if name == "__get__" and of == "data" else "size", False
    if name in TRANSPARENT or name in ("__getitem__", "__setitem__"):
        return name, False
    if name in PYTHON_NUMBERS:  # not the methods float(), int() and bool(), which give tensors
        return name, False
    if name.startswith("__") and name.endswith("__"):
        bare = name[2:-2]
        in_place = bare.startswith("i") and bare[1:] in IN_PLACE_OPERATORS
        return (bare[1:] if in_place else bare), in_place
    if name.endswith("_"):
        return name[:-1], True
    return name, False
