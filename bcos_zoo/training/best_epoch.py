"""Which epoch is the best so far, and when to stop waiting for a better one."""

from __future__ import annotations

import math
from typing import Any

from ..errors import InputError


class BestEpoch:
    """The best value of one score, and the epoch that had it; among equal scores the lower loss wins.

    metric: what the score is called. direction: "max" or "min", the good end.
    patience: how many epochs in a row without a better score end the run; None for never. All epochs count,
    validated or not: so it means the same however often the run validates. An equal score does not restart
    the count, whatever its loss.
    """

    def __init__(self, metric: str, direction: str, patience: int | None = None) -> None:
        if direction not in ("max", "min"):
            raise InputError(f"direction={direction!r} of {metric}: allowed are max and min")
        if patience is not None and patience < 1:
            raise InputError(f"patience={patience}: allowed are 1 and more, or none to never stop early")
        self.metric, self.direction, self.patience = metric, direction, patience
        self.epoch: int | None = None  # the best one
        self.value = math.nan
        self.loss = math.nan  # of the best epoch
        self.reached: int | None = None  # the first epoch with that value
        self.last: int | None = None  # the epoch that was seen last

    def update(self, epoch: int, value: float, loss: float = math.nan) -> bool:
        """Take the score of an epoch; returns whether it is better than all before. nan never is.

        loss: of the same images. Among equal scores the lower loss is better (a number is better than nan),
        and among equal losses the first.
        """
        self.last = epoch
        if math.isnan(value):
            return False
        higher = self.epoch is None or (value > self.value if self.direction == "max" else value < self.value)
        equal = self.epoch is not None and value == self.value
        lower = loss < self.loss or (math.isnan(self.loss) and not math.isnan(loss))
        if higher:
            self.reached = epoch
        if better := higher or (equal and lower):
            self.epoch, self.value, self.loss = epoch, value, loss
        return better

    @property
    def stop(self) -> bool:
        """Whether `patience` epochs have passed since the best score (or since the first epoch)."""
        if self.patience is None or self.last is None:
            return False
        return self.last - (self.reached or 0) >= self.patience

    def state_dict(self) -> dict[str, Any]:
        names = ("metric", "epoch", "value", "loss", "reached", "last")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`. Raises InputError if it is of another score."""
        if state["metric"] != self.metric:
            raise InputError(
                f"the run was watched by {state['metric']}, and now by {self.metric}; resume with the same "
                "run.monitor"
            )
        self.epoch, self.value, self.last = state["epoch"], state["value"], state["last"]
        self.loss = state.get("loss", math.nan)  # older states have none
        self.reached = state.get("reached", self.epoch)
