"""How a converted network changes while it learns: the table `[conversion]` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..conversion import Converted
from ..data import bounds
from ..errors import InputError


@dataclass(frozen=True, kw_only=True)
class Course:
    """What changes step by step in a network that `bcosify` made, so that its function is not lost at once.

    constants: the share of every bias that adds a constant to the logits which is left in the end; 1 leaves
    them as they learn, 0 takes them away.
    constants_epochs: over how many epochs they shrink to it, linearly; all epochs unless given.
    b_from: the exponent at the start; from there it rises, in equal parts after each epoch, to the network's
    own. With run.compile each value is compiled anew.
    b_epochs: the epoch that is the first with the network's own exponent, counted from 0.
    """

    constants: float = 1.0
    constants_epochs: float | None = None
    b_from: float | None = None
    b_epochs: int = 1
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    def __post_init__(self) -> None:
        if faults := bounds.faults("conversion", vars(self)):
            raise InputError("; ".join(faults))

    @property
    def changes(self) -> bool:
        """Whether anything changes."""
        return self.constants != 1 or self.b_from is not None


class Changing:
    """A converted network that is changed after each step, as a `Course` says.

    epochs: of the run. steps: of an epoch. Raises InputError for a network that was not converted.
    """

    def __init__(self, course: Course, network: nn.Module, *, epochs: int, steps: int) -> None:
        if not isinstance(network, Converted):
            raise InputError(
                f"[conversion] is for networks that bcosify made, and this is a {type(network).__name__}; "
                "leave the table out, or give model.name='bcos_converted'"
            )
        self.course, self.network, self.steps = course, network, steps
        self.last = (epochs if course.constants_epochs is None else course.constants_epochs) * steps
        self.exponents = {name: layer.b for name, layer in network.bcos_layers().items()}

    def left(self, done: int) -> float:
        """The share of the constants that is left after so many steps."""
        part = min(done / self.last, 1.0) if self.last else 1.0
        return 1 - (1 - self.course.constants) * part

    def before(self, done: int) -> None:
        """Set the exponents for the step after `done` steps."""
        start = self.course.b_from
        if start is None:
            return
        part = min(done // self.steps / self.course.b_epochs, 1.0)
        for name, b in self.exponents.items():
            layer: Any = self.network.get_submodule(name)
            layer.b = start + part * (b - start)

    @torch.no_grad()
    def after(self, done: int, parameters: dict[str, Tensor]) -> None:
        """Shrink the constants after step number `done`, from 1. parameters: those that learn, by name."""
        if self.course.constants == 1:
            return
        before, now = self.left(done - 1), self.left(done)
        for name in self.network.biases & parameters.keys():
            parameters[name].mul_(now / before if before else 0.0)
