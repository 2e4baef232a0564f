"""Rules for sums and products: what is added to the path goes on the tape, what multiplies it is held."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import add_constant, hold
from .calls import Call, constant
from .marks import is_held, mark_of, on_path

RIGHT, LEFT = "right factor", "left factor"


def plus(call: Call) -> Any:
    """a + alpha b."""
    a, b = call.args[0], call.argument(1, "other")
    alpha = call.kwargs.get("alpha", 1)
    return _sum(call, a, b if alpha == 1 else call.do(torch.mul, b, alpha))


def minus(call: Call) -> Any:
    """a - alpha b."""
    a, b = call.args[0], call.argument(1, "other")
    return _sum(call, a, _times(call, b, -call.kwargs.get("alpha", 1)))


def minus_reversed(call: Call) -> Any:
    """b - alpha a."""
    a, b = call.args[0], call.argument(1, "other")
    return _sum(call, b, _times(call, a, -call.kwargs.get("alpha", 1)))


def _times(call: Call, x: Any, factor: float) -> Any:
    return call.do(torch.mul, x, factor) if isinstance(x, Tensor) else x * factor


def _sum(call: Call, a: Any, b: Any) -> Any:
    """a + b, of which one is on the path: a constant goes on the tape; with what is held, all is held."""
    if is_held(a) or is_held(b):
        return call.held()
    if on_path(a) and on_path(b):
        return call.path(a + b)
    path, other = (a, b) if on_path(a) else (b, a)
    return call.path(add_constant(path.expand(_joint_shape(path, other)), _own(other)))


def _own(x: Any) -> Any:
    """A constant that stays what it is when the network writes over its own; anything else itself."""
    return x.clone() if isinstance(x, Tensor) and mark_of(x) is None else x


def times(call: Call) -> Any:
    """a b: of two paths, one factor is held.

    A factor that is smaller, and so broadcast, is held; else one straight from an activation; else the right.
    """
    a, b = call.args[0], call.argument(1, "other")
    if not (on_path(a) and on_path(b)):
        gate = (_gate(a) or _gate(b)) and not (is_held(a) or is_held(b))
        return call.path(_own(a) * _own(b), gate=gate)
    left = a.numel() < b.numel() or (a.numel() == b.numel() and _gate(a) and not _gate(b))
    return call.product(*_one_held(torch.mul, a, b, left))


def square(call: Call) -> Any:
    """x^2 = x x, of which one is held."""
    x = call.args[0]
    return call.product(*_one_held(torch.mul, x, x, False))


def power(call: Call) -> Any:
    """x^n for n = 1, 2, ...: all factors but one are held. Any other power is held as a whole."""
    x, n = call.args[0], call.argument(1, "exponent")
    if not on_path(x) or isinstance(n, Tensor) or n < 1 or n != int(n):
        return call.held()
    if n == 1:
        return call.path(x.clone())
    return call.product(x * hold(lambda: x.pow(n - 1)), "all factors but one")


def divided(call: Call) -> Any:
    """a / b: a divisor that depends on the image is held."""
    a, b = call.args[0], call.argument(1, "other")
    if not on_path(a) or call.kwargs.get("rounding_mode") is not None:
        return call.held()
    if on_path(b):
        return replace(call, name="div").product(a / _held_copy(b), "divisor")
    gate = not is_held(b) and _gate(a)
    return call.path(a / _own(b), gate=gate)


def matrix_product(call: Call) -> Any:
    """a @ b: of two paths, one straight from an activation is held, else the left."""
    a, b = call.args[0], call.argument(1, "other", call.argument(1, "mat2"))
    if on_path(a) and on_path(b):
        return call.product(*_one_held(torch.matmul, a, b, _gate(a) or not _gate(b)))
    return call.path(torch.matmul(a, b))


def matrix_product_reversed(call: Call) -> Any:
    """b @ a."""
    return call.do(torch.matmul, call.args[1], call.args[0])


def einsum(call: Call) -> Any:
    """A product of several: of the paths among them all but one are held, as in `matrix_product`."""
    equation, *operands = call.args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    paths = [i for i, x in enumerate(operands) if on_path(x)]
    free = next((i for i in reversed(paths) if not _gate(operands[i])), paths[-1])
    for i in paths:
        if i != free:
            operands[i] = _held_copy(operands[i])
    y = torch.einsum(equation, *operands)
    return call.path(y) if len(paths) == 1 else call.product(y, f"all but operand {free}")


def _gate(x: Any) -> bool:
    mark = mark_of(x)
    return mark is not None and mark.gate


def _held_copy(x: Tensor) -> Tensor:
    return hold(lambda: x.clone())  # the network may write to x


def _one_held(func: Any, a: Tensor, b: Tensor, left: bool) -> tuple[Tensor, str]:
    if left:
        return func(_held_copy(a), b), LEFT
    return func(a, _held_copy(b)), RIGHT


def plus_product(call: Call) -> Any:
    """input + value a b, of addcmul."""
    x, a, b = call.args[:3]
    return call.do(torch.add, x, call.do(torch.mul, call.do(torch.mul, a, b), call.kwargs.get("value", 1)))


def plus_quotient(call: Call) -> Any:
    """input + value a / b, of addcdiv."""
    x, a, b = call.args[:3]
    return call.do(torch.add, x, call.do(torch.mul, call.do(torch.div, a, b), call.kwargs.get("value", 1)))


def plus_matrix_product(call: Call) -> Any:
    """beta input + alpha a @ b, of addmm and baddbmm."""
    x, a, b = call.args[:3]
    y = call.do(torch.mul, call.do(torch.matmul, a, b), call.kwargs.get("alpha", 1))
    return call.do(torch.add, call.do(torch.mul, x, call.kwargs.get("beta", 1)), y)


def between(call: Call) -> Any:
    """a + w (b - a), of lerp."""
    a, b, w = call.args[:3]
    return call.path(call.do(torch.add, a, call.do(torch.mul, call.do(torch.sub, b, a), w)))


def chosen(call: Call) -> Any:
    """where(condition, a, b): each element is that of a or b."""
    condition, a, b = (call.argument(i, name) for i, name in enumerate(("condition", "input", "other")))
    if b is None:  # where(condition): indices
        return call.held()
    if is_held(a) or is_held(b):
        return call.held()
    path = a if on_path(a) else b
    if not on_path(path):
        return call.held()
    shape = _joint_shape(condition, a, b)
    sides = [x if on_path(x) else constant(x, shape, path) for x in (a, b)]
    return call.path(torch.where(condition, *sides))


def filled(call: Call) -> Any:
    """x with a value where the mask is."""
    x, mask, value = call.args[0], call.argument(1, "mask"), call.argument(2, "value")
    if not (on_path(x) or on_path(value)):
        return call.held()
    return call.do(torch.where, mask, value, x)


def extreme(call: Call) -> Any:
    """The larger, or smaller, of two; or of one along an axis: piecewise linear."""
    a, b = call.args[0], call.argument(1, "other")
    if not isinstance(b, Tensor):
        return call.path(call.run())
    if on_path(a) and on_path(b):
        return call.path(call.run())
    if is_held(a) or is_held(b):
        return call.held()
    with_a = (a > b) if "max" in call.name else (a < b)
    return call.do(torch.where, with_a, a, b)


def joined(call: Call) -> Any:
    """Several tensors in one, of cat and stack: constants among them go on the tape."""
    parts = list(call.args[0] if call.args else call.kwargs["tensors"])
    if any(is_held(x) for x in parts):
        return call.held()
    path = next(x for x in parts if on_path(x))
    rest = {key: value for key, value in call.kwargs.items() if key != "tensors"}
    gate = all(_gate(x) for x in parts)
    parts = [x if on_path(x) else constant(x, x.shape, path) for x in parts]
    return call.path(call.func(parts, *call.args[1:], **rest), gate=gate)


def _joint_shape(*values: Any) -> torch.Size:
    shapes = [x.shape for x in values if isinstance(x, Tensor)]
    joint: torch.Size = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    return joint


def padded(call: Call) -> Any:
    """Padding with a value: with zeros, plus a constant. -inf pads only what a maximum is taken of."""
    x, pad = call.args[0], call.argument(1, "pad")
    mode, value = call.argument(2, "mode", "constant"), call.argument(3, "value")
    if mode != "constant" or not value or not math.isfinite(value):  # no maximum takes -inf
        return call.path(call.run(), gate=_gate(x))
    return call.path(add_constant(F.pad(x, pad), F.pad(torch.zeros_like(x), pad, value=value)))
