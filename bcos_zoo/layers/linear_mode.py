"""Linear mode: a forward pass whose every input-dependent factor is held constant.

A B-cos layer computes `scale(x) * (w_hat . x)`. For one image the scale is a number, so the network is the
product of its layers' matrices: exactly one linear map `W(x)` of that image, plus whatever constants its
layers add. In linear mode the layers hold their scales, so autograd returns `W(x)` itself, and put the
constants they add on a tape, so that their share in a logit can be read off in the same backward pass.

A held scale has no graph, so `W(x)` has none either. Where it must have one (to train with explanations), the
network runs twice: once in `recording`, with a gradient, which leaves the scales on a tape, and once in
`linear_mode(factors=...)`, which plays them back. What is then linear in the second run's input is still a
function of the first run's input and of the weights.

The mode is a context variable. It therefore belongs to one thread (or task) alone, nests, is undone by
exceptions, reaches layers that were put into the model after the block was entered, and costs one look-up a
layer when off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Tape:
    """What one forward pass in linear mode leaves behind for the backward pass."""

    freeze_parameters: bool
    encoded: Tensor | None = None  # (N, 2K, H, W): the input of the linear map, set by the encoding layer
    constants: list[Tensor] = field(default_factory=list)  # what layers added, expanded to the shape added to
    factors: deque[Tensor] | None = None  # with their graphs: being recorded, or to be played back
    recording: bool = False


_tape: ContextVar[Tape | None] = ContextVar("bcos_zoo_linear_mode", default=None)


@contextmanager
def linear_mode(*, freeze_parameters: bool = False, factors: deque[Tensor] | None = None) -> Iterator[Tape]:
    """Hold every dynamic factor constant inside the block; yields the tape of the block.

    freeze_parameters: also cut the weights out of the graph. It makes the backward pass leaner; leave it off
    where a gradient with respect to the weights is wanted.
    factors: those of a `recording` of the same network on the same images, used in the place of new ones.
    """
    with _on(Tape(freeze_parameters, factors=factors)) as tape:
        yield tape


@contextmanager
def recording() -> Iterator[deque[Tensor]]:
    """Run as in linear mode, but with every dynamic factor in the graph; yields the list they are put on."""
    factors: deque[Tensor] = deque()
    with _on(Tape(False, factors=factors, recording=True)):
        yield factors


@contextmanager
def _on(tape: Tape) -> Iterator[Tape]:
    token = _tape.set(tape)
    try:
        yield tape
    finally:
        _tape.reset(token)


def is_linear() -> bool:
    """Whether the calling thread is inside a `linear_mode` block."""
    return _tape.get() is not None


def hold(factor: Callable[[], Tensor]) -> Tensor:
    """`factor()`, which depends on the input, as a constant in linear mode."""
    tape = _tape.get()
    if tape is None:
        return factor()
    if tape.factors is None:
        with torch.no_grad():
            return factor()
    if tape.recording:
        tape.factors.append(factor())
        return tape.factors[-1]
    return tape.factors.popleft()


def parameter(p: Tensor) -> Tensor:
    """`p`, cut out of the graph if linear mode freezes parameters."""
    tape = _tape.get()
    return p.detach() if tape is not None and tape.freeze_parameters else p


def add_constant(x: Tensor, constant: Tensor | float) -> Tensor:
    """`x + constant`, in the dtype of x; in linear mode the constant goes on the tape.

    constant: a number, or a tensor that broadcasts to the shape of x.
    """
    if isinstance(constant, Tensor):
        constant = constant.to(x.dtype)
    tape = _tape.get()
    if tape is None:
        return x + constant
    added = torch.as_tensor(constant, dtype=x.dtype, device=x.device).expand_as(x)
    if not added.requires_grad:  # one that depends on weights does, unless parameters are frozen
        added = added.requires_grad_()
    tape.constants.append(added)
    return x + added


def record_encoded(x: Tensor) -> Tensor:
    """Mark `x` as the input of the linear map: the leaf that `W(x)` is taken with respect to."""
    tape = _tape.get()
    if tape is None:
        return x
    if not x.requires_grad:
        x = x.requires_grad_()
    tape.encoded = x
    return x
