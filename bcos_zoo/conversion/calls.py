"""One call of a torch function in a converted network's linear pass, and what a rule may make of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._compat import viewed
from ..layers import add_constant, hold
from ..layers.linear_mode import aside, graphed
from .marks import PATH, Mark, mark_of, marked, tensors_in, with_tensors


@dataclass
class Log:
    """What a trial pass notes: layers, and the products of two paths with the factor held.

    reached: the modules whose weights meet something of the image; layers: those through whose output a
    gradient flows back to it; pools: the modules that pool, of which that is true.
    """

    reached: list[nn.Module] = field(default_factory=list)
    layers: list[nn.Module] = field(default_factory=list)
    pools: list[nn.Module] = field(default_factory=list)
    choices: list[tuple[str, nn.Module | None]] = field(default_factory=list)

    def note_reached(self) -> None:
        """Note the calling module as one whose weights meet something of the image."""
        module = calling_module()
        if module is not None:
            self.reached.append(module)

    def note_layer(self, y: Tensor, *, pools: bool = False) -> None:
        """Note the calling module once a gradient flows through y, which it gave."""
        module, into = calling_module(), self.pools if pools else self.layers
        if module is not None and y.requires_grad:
            hook_on(y, lambda _: into.append(module))

    def note_choice(self, choice: str, y: Tensor) -> None:
        """Note the choice once a gradient flows through y, the product."""
        if y.requires_grad:
            where = calling_module()
            hook_on(y, lambda _: self.choices.append((choice, where)))


def hook_on(y: Tensor, hook: Callable[[Tensor], None]) -> None:
    """Call `hook` once a gradient flows through y."""
    y.register_hook(hook)  # type: ignore[no-untyped-call]


LAYERS = frozenset("linear respond conv1d conv2d conv3d conv_transpose1d conv_transpose2d".split())
_log: ContextVar[Log | None] = ContextVar("bcos_zoo_conversion_log", default=None)


@contextmanager
def logging() -> Iterator[Log]:
    """Note inside the block what `Log` holds."""
    log = Log()
    token = _log.set(log)
    try:
        yield log
    finally:
        _log.reset(token)


def calling_module() -> nn.Module | None:
    """The innermost module whose method called the torch function at work."""
    frame: Any = inspect.currentframe()
    while frame is not None:
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            return module
        frame = frame.f_back
    return None


@dataclass
class Call:
    """One call of a torch function, at least one of whose arguments depends on the image."""

    dispatch: Callable[..., Any]  # calls another function by its rule
    name: str  # without the underscores of in-place and operator forms
    func: Callable[..., Any]  # leaves its arguments as they are
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument given by place or by name."""
        return self.args[place] if place < len(self.args) else self.kwargs.get(name, default)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself, of its own arguments unless others are given."""
        return self.func(*(args or self.args), **(kwargs or self.kwargs))

    def do(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Another torch function, by its own rule."""
        return self.dispatch(func, args, kwargs)

    def path(self, value: Any, gate: bool = False) -> Any:
        """`value`, which is on the path."""
        return marked(value, Mark(gate=gate))

    def held(self, reason: str = "") -> Any:
        """What the function gives, held as a whole."""
        given = list(tensors_in([self.args, self.kwargs]))
        depends = [mark for mark in map(mark_of, given) if mark is not None]
        known = [mark.why for mark in depends if mark.held]
        with aside():
            value = self.run()
        if len(known) == len(depends):  # made of held factors alone

            def own(x: Tensor) -> Tensor:
                shared = viewed(x) is not None or any(x is one for one in given)
                return x.clone() if graphed() and not shared else x

            return marked(with_tensors(value, own), Mark(held=True, why=known[0]))
        why = known[0] if known else reason or self.name
        if not known and _log.get() is not None:
            why += _place(calling_module())
        return self.as_held(value, why)

    def as_held(self, value: Any, why: str = "") -> Any:
        """`value`, each tensor in it held."""

        def one(x: Tensor) -> Tensor:
            if not (x.is_floating_point() or x.is_complex()):
                return x
            kept = hold(lambda: x)
            return kept.clone() if graphed() else kept  # the recorded factor is not the network's to change

        return marked(with_tensors(value, one), Mark(held=True, why=why))

    def product(self, value: Tensor, held: str) -> Tensor:
        """`value`, the product of two paths, of which the one called `held` was held."""
        y: Tensor = self.path(value)
        self.choice(f"{held} held", y)
        return y

    def note(self) -> None:
        """Note the layer, where a trial pass wants to know of it."""
        log = _log.get()
        if log is not None and self.name in LAYERS:
            log.note_reached()

    def choice(self, choice: str, y: Tensor) -> None:
        """Note a choice, where a trial pass wants to know of it."""
        log = _log.get()
        if log is not None:
            log.note_choice(f"{self.name}: {choice}", y)

    def layer(self, value: Tensor, *, pools: bool = False) -> Tensor:
        """`value`, the linear response of a layer; of one that pools, noted apart."""
        log = _log.get()
        if log is not None:
            log.note_layer(value, pools=pools)
        y: Tensor = self.path(value)
        return y


def constant(value: Any, shape: torch.Size, like: Tensor) -> Tensor:
    """A constant of that shape, on the path; on the tape, but for what is infinite and reaches no logit."""
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    finite = torch.where(value.isfinite(), value, 0)
    y = add_constant(like.new_zeros(shape), finite)
    return marked(torch.where(value.isfinite(), y, value), PATH)


def _place(module: nn.Module | None) -> str:
    return "" if module is None else f" in {type(module).__name__} #{id(module)}"
