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
exceptions, reaches layers that were put into the model after the block was entered, and costs one look-up
per layer when off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .._compat import version
from ..errors import InputError
from ._switch import transformed

DIFFERENT_PASSES = (
    "the network took different ways in two passes over the same images, so its factors cannot be played "
    "back; with create_graph=True give one whose passes repeat"
)


@dataclass(frozen=True, eq=False)
class Encoding:
    """One image that a network encoded."""

    encoded: Tensor  # (N, 2K, H, W): an input of the linear map
    by: nn.Module
    of_the_image: bool  # whether what was encoded is the very image on the tape, `given`

    @property
    def image(self) -> Tensor:
        """(N, K, H, W): what was encoded."""
        return self.encoded[:, : self.encoded.shape[1] // 2]


@dataclass
class Tape:
    """What one forward pass in linear mode leaves behind for the backward pass."""

    freeze_parameters: bool
    given: tuple[Tensor, int] | None = None  # the network's image, and its version counter
    encodings: list[Encoding] = field(default_factory=list)  # all of a pass, set by the encoding layers
    constants: list[Tensor] = field(default_factory=list)  # what layers added, expanded to its full shape
    factors: deque[Tensor] | None = None  # with graphs: being recorded, or played back
    recording: bool = False


_tape: ContextVar[Tape | None] = ContextVar("bcos_zoo_linear_mode", default=None)


@contextmanager
def linear_mode(*, freeze_parameters: bool = False, factors: deque[Tensor] | None = None) -> Iterator[Tape]:
    """Hold every dynamic factor constant inside the block; yields the tape of the block.

    freeze_parameters: also cut the weights out of the graph. It makes the backward pass leaner; leave it off
    where a gradient with respect to the weights is wanted.
    factors: those of a `recording` of the same network on the same images, used instead of new ones.

    ```python
    import torch

    import bcos_zoo

    model = bcos_zoo.load("bcos_resnet20.cifar10").model
    x = torch.rand(2, 3, 32, 32)
    with bcos_zoo.linear_mode():
        logits = model(x)  # the same numbers, with every factor held constant
    assert torch.allclose(logits, model(x), atol=1e-4)
    ```
    """
    with _on(Tape(freeze_parameters, factors=factors)) as tape:
        yield tape


@contextmanager
def recording() -> Iterator[deque[Tensor]]:
    """Run as in linear mode, but with every dynamic factor in the graph; yields the list they are put on.

    ```python
    import torch

    import bcos_zoo
    from bcos_zoo.layers import recording

    model = bcos_zoo.load("bcos_resnet20.cifar10").model
    with recording() as factors:
        model(torch.rand(1, 3, 32, 32))
    assert factors  # in the order in which the layers were called
    ```
    """
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
    """Whether the calling thread is inside a `linear_mode` block.

    ```python
    from bcos_zoo.layers import is_linear, linear_mode

    assert not is_linear()
    with linear_mode():
        assert is_linear()
    ```
    """
    return _tape.get() is not None


def hold(factor: Callable[[], Tensor]) -> Tensor:
    """`factor()`, which depends on the input, as a constant in linear mode.

    ```python
    import torch

    from bcos_zoo.layers import hold, linear_mode

    x = torch.rand(4, requires_grad=True)
    with linear_mode():
        y = x * hold(lambda: x.sigmoid())
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, x.sigmoid())  # no gradient went through the factor
    ```
    """
    tape = _tape.get()
    if tape is None:
        return factor()
    if tape.factors is None:
        with torch.no_grad():
            return factor().detach()  # forward-mode differentiation does not heed no_grad
    if tape.recording:
        tape.factors.append(factor())
        return tape.factors[-1]
    if not tape.factors:
        raise InputError(DIFFERENT_PASSES)
    return tape.factors.popleft()


def graphed() -> bool:
    """Whether factors have graphs: whether they are being recorded, or played back."""
    tape = _tape.get()
    return tape is not None and tape.factors is not None


@contextmanager
def aside() -> Iterator[None]:
    """Outside linear mode, for what is made of factors that are held already, and so is constant too.

    It has a graph only where the factors have one.
    """
    tape = _tape.get()
    token = _tape.set(None)
    try:
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and tape is not None and tape.factors is not None
        ):
            yield
    finally:
        _tape.reset(token)


def parameter(p: Tensor) -> Tensor:
    """`p`, cut out of the graph if linear mode freezes parameters.

    ```python
    import torch

    from bcos_zoo.layers import linear_mode, parameter

    w = torch.nn.Parameter(torch.rand(3))
    assert parameter(w).requires_grad
    with linear_mode(freeze_parameters=True):
        assert not parameter(w).requires_grad
    ```
    """
    tape = _tape.get()
    return p.detach() if tape is not None and tape.freeze_parameters else p


def add_constant(x: Tensor, constant: Tensor | float) -> Tensor:
    """`x + constant`, in the dtype of x; in linear mode the constant goes on the tape.

    constant: a number, or a tensor that broadcasts to the shape of x.

    ```python
    import torch

    from bcos_zoo.layers import add_constant, linear_mode

    with linear_mode() as tape:
        y = add_constant(torch.rand(2, 3), 0.5)
    assert len(tape.constants) == 1
    ```
    """
    if isinstance(constant, Tensor):
        constant = constant.to(x.dtype)
    tape = _tape.get()
    if tape is None:
        return x + constant
    if not isinstance(constant, Tensor):
        constant = torch.full((), constant, dtype=x.dtype, device=x.device)
    added = constant.expand_as(x)
    if not (added.requires_grad or transformed()):  # made of weights, it requires one already
        added = added.requires_grad_()
    tape.constants.append(added)
    return x + added


def record_encoded(encoded: Tensor, image: Tensor, by: nn.Module) -> Tensor:
    """Mark `encoded` as an input of the linear map: what `W(x)` is taken with respect to.

    image: what was encoded, as the module `by` received it.
    """
    tape = _tape.get()
    if tape is None:
        return encoded
    if not (encoded.requires_grad or transformed()):
        encoded = encoded.requires_grad_()
    itself = tape.given is not None and image is tape.given[0] and version(image) == tape.given[1]
    tape.encodings.append(Encoding(encoded, by, itself))
    return encoded
