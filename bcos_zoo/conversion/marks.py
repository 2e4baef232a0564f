"""Which tensors of a pass depend on the image, and how: a mark on the tensor itself.

A tensor without a mark is a constant: made of weights and numbers alone. One that depends on the image is
either on the path, which means that it is a linear function of the encoded image plus constants on the tape
of linear mode, all of it in autograd's graph; or it is held: a factor that linear mode takes as a number.
A held tensor may multiply the path. If it were added to it, a part of the logit would be unexplained, so
what comes of that is held as a whole; a network whose logits are held is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._compat import viewed


@dataclass(frozen=True)
class Mark:
    """How a tensor depends on the image.

    held: whether it is a factor; otherwise it is on the path.
    gate: on the path, but straight from an activation, so that it is the factor in a product of two paths.
    mixed: held, because the network wrote factors beside the path in one tensor, so that parts of it are
    still in the graph. why: of a held tensor: the function that held it, and the module where.
    """

    held: bool = False
    gate: bool = False
    mixed: bool = False
    why: str = ""


PATH = Mark()
_MARK = "_bcos_zoo_mark"  # the attribute of a tensor


def mark_of(x: Any) -> Mark | None:
    """The mark of a tensor; None of a constant, and of anything else.

    A view of constants, or of what was held, is mixed or on the path once its tensor has become that.
    """
    if not isinstance(x, Tensor):
        return None
    mark: Mark | None = getattr(x, _MARK, None)
    if mark is None or mark.held:
        whole: Mark | None = getattr(viewed(x), _MARK, None)
        if mark is None or (whole is not None and whole.mixed):
            return whole
    return mark


def on_path(x: Any) -> bool:
    """Whether x is a tensor on the path."""
    mark = mark_of(x)
    return mark is not None and not mark.held


def is_held(x: Any) -> bool:
    """Whether x is a tensor that depends on the image and is held."""
    mark = mark_of(x)
    return mark is not None and mark.held


def marked(value: Any, mark: Mark) -> Any:
    """`value`, with every tensor in it marked; what is not made of real numbers, such as indices, as held."""
    for x in tensors_in(value):
        real = x.is_floating_point() or x.is_complex()
        setattr(x, _MARK, mark if real else replace(mark, held=True))
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors_in(one)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def with_tensors(value: Any, change: Any) -> Any:
    """The same nested tuples, lists and dicts, with each tensor replaced by `change` of it."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: with_tensors(one, change) for key, one in value.items()}
    if isinstance(value, torch.Size) or not isinstance(value, (tuple, list)):
        return value
    made = [with_tensors(one, change) for one in value]
    if isinstance(value, list):
        return made
    return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
