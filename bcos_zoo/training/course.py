"""How a converted network changes while it learns: the table `[conversion]` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..data import bounds
from ..errors import InputError


@dataclass(frozen=True, kw_only=True)
class Course:
    """What changes step by step in a network that `bcosify` made, so that its function is not lost at once.

    A run that run.minutes shortens goes through all of it in fewer steps. One that ends earlier than planned,
    by run.patience or because its time is used up, keeps the constants that are left then.

    constants: the share which is left in the end of every bias that adds a constant to the logits, and of the
    means that fading norms subtract; 1 leaves them as they learn, 0 takes them away. Other constants stay:
    position embeddings, class and register tokens, the means of batch norms that do not fade.
    constants_epochs: over how many epochs they shrink to it, linearly; all epochs unless given.
    b_from: the exponent at the start; from there it rises, in equal parts after each epoch, to the network's
    own. Validation measures the network with its own exponent from the first epoch on, so scores before
    b_epochs are not those of the function that learns. With run.compile each value is compiled anew.
    b_epochs: the epoch that is the first with the network's own exponent, counted from 0.
    estimate: with how many training images the statistics of batch norms, which are the original's, are
    estimated anew before the first step.
    """

    constants: float = 1.0
    constants_epochs: float | None = None
    b_from: float | None = None
    b_epochs: int = 1
    estimate: int = 0
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    def __post_init__(self) -> None:
        if faults := bounds.faults("conversion", vars(self)):
            raise InputError("; ".join(faults))

    @property
    def changes(self) -> bool:
        """Whether anything changes."""
        return self.constants != 1 or self.b_from is not None
