"""Which epoch is the best one so far, and when there is no hope of a better one."""

from __future__ import annotations

import math
from typing import Any

from ..errors import InputError


class Best:
    """The best value of one score, and the epoch that had it.

    metric: what the score is called. direction: "max" or "min", the good end.
    patience: how many epochs without a better one, one after the other, end the run; None for never. Epochs
    count, validated or not: so it means the same however often there is a validation.
    """

    def __init__(self, metric: str, direction: str, patience: int | None = None) -> None:
        if direction not in ("max", "min"):
            raise InputError(f"direction={direction!r} of {metric}: allowed are max and min")
        if patience is not None and patience < 1:
            raise InputError(f"patience={patience}: allowed are 1 and more, or none to never stop early")
        self.metric, self.direction, self.patience = metric, direction, patience
        self.epoch: int | None = None  # the best one
        self.value = math.nan
        self.last: int | None = None  # the epoch that was seen last

    def update(self, epoch: int, value: float) -> bool:
        """Take the score of an epoch; returns whether it is better than all before. nan never is.

        Of equal ones the first is the best.
        """
        self.last = epoch
        better = not math.isnan(value) and (
            self.epoch is None or (value > self.value if self.direction == "max" else value < self.value)
        )
        if better:
            self.epoch, self.value = epoch, value
        return better

    @property
    def stop(self) -> bool:
        """Whether `patience` epochs have gone by since the best one (since the first, where none was)."""
        if self.patience is None or self.last is None:
            return False
        return self.last - (self.epoch or 0) >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "epoch": self.epoch, "value": self.value, "last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`. Raises InputError if it is of another score."""
        if state["metric"] != self.metric:
            raise InputError(
                f"the run was watched by {state['metric']}, and now by {self.metric}; resume with the same "
                "run.monitor"
            )
        self.epoch, self.value, self.last = state["epoch"], state["value"], state["last"]
