"""What a network writes into its own tensors: in-place functions, assignments to a part, numbers put anew.

An in-place function is its out-of-place form, by its rule, of a copy of its first argument; what comes of it
is then written into the network's own tensor, once, and the mark with it. So no rule meets a tensor that
changes under its hands, and what autograd or the tape keep of it stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._compat import viewed
from ..layers import hold
from .calls import Call, constant
from .marks import PATH, Mark, is_held, mark_of, marked, on_path


def out_of_place(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function that gives what an in-place `func` writes, and leaves its argument as it is."""

    def apart(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return func(x.clone(), *args, **kwargs)

    return apart


def overwrite(target: Tensor, value: Tensor) -> Tensor:
    """Write `value` into a tensor of the network, as a whole, with its mark; returns the tensor."""
    mark = mark_of(value) or Mark(held=True, why="values written into a tensor")
    whole = viewed(target)
    if whole is not None and on_path(value) and mark_of(whole) is None:
        _onto_the_path(whole)
        _ = target.grad_fn  # a view makes its own anew when it is asked for it; copy_ does not ask
    target.copy_(value)
    if whole is not None:  # the network may go on with the tensor that this one is a part of
        marked(whole, _joint(mark_of(whole), mark))
    return marked(target, mark)


def written(call: Call) -> Any:
    """x[index] = value, in x itself."""
    x, index, value = call.args
    view_of = viewed(x)
    whole = x if view_of is None else view_of
    if on_path(value) and mark_of(whole) is None:
        _onto_the_path(whole)
    elif on_path(x) and mark_of(value) is None:
        single = not isinstance(value, Tensor) or value.ndim == 0
        # A single number on the tape for all of x: how many elements a mask takes may differ between images.
        value = constant(value, x.shape, x)[index] if single else constant(value, x[index].shape, x)
    x[index] = value
    mark = mark_of(value)
    if mark is None and mark_of(x) is None:  # constants, at places that depend on the image
        mark = Mark(held=True, why="values written into a tensor")
    if mark is not None:
        for one in {id(x): x, id(whole): whole}.values():
            marked(one, _joint(mark_of(one), mark))


def _onto_the_path(x: Tensor) -> None:
    """Constants, into a part of which the path is written: what is left of them goes on the tape."""
    if x.is_meta or bool(x.any()):
        x.copy_(constant(x.clone(), x.shape, x))
    marked(x, PATH)


def _joint(before: Mark | None, part: Mark) -> Mark:
    """The mark of a tensor into a part of which something was written."""
    if before is None or before.held == part.held:
        return replace(part if before is None else before, gate=False)
    why = before.why or part.why or "values written into a tensor"
    return Mark(held=True, mixed=True, why=why)


def settled(x: Tensor) -> Tensor:
    """What is held but has the path in parts of it, cut out of the graph as a whole; anything else itself."""
    mark = mark_of(x)
    if mark is None or not mark.mixed:
        return x
    return marked(hold(lambda: x.clone()), replace(mark, mixed=False))


def kept_apart(x: Tensor) -> Tensor:
    """A copy of a held tensor: autograd keeps it for the path, and the network may write over its own."""
    mark = mark_of(x)
    return marked(x.clone(), mark) if mark is not None and mark.held else x


def copied(call: Call) -> Any:
    """What is written into a tensor as a whole."""
    x, source = call.args[:2]
    if on_path(source):
        return call.path(source.expand(x.shape))
    return call.path(constant(source, x.shape, x)) if on_path(x) and not is_held(source) else call.held()


def filled(call: Call) -> Any:
    """A number everywhere."""
    return copied(replace(call, args=(call.args[0], call.argument(1, "value"))))


def zeroed(call: Call) -> Any:
    """Zeros on the path are what they are without a constant."""
    return call.path(torch.zeros_like(call.args[0]))


def drawn(call: Call) -> Any:
    """Random numbers, of a distribution without the image in it, are constants."""
    x, *rest = call.args
    if any(mark_of(one) is not None for one in (*rest, *call.kwargs.values())):
        return call.held()
    return call.path(constant(call.func(x.detach(), *rest, **call.kwargs), x.shape, x))
