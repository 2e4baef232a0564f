"""How far a run is, and what it has found: all of its state but the learner's and the optimiser's tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from .history import EpochRow


@dataclass
class RunState:
    """What changes from step to step."""

    total: int  # optimiser steps of the run, as planned
    done: int = 0
    losses: list[float] = field(default_factory=list)  # for the steps of this epoch
    rows: list[EpochRow] = field(default_factory=list)  # one per epoch
    failed: list[str] = field(default_factory=list)  # images that could not be read while training
    best: dict[str, Any] | None = None  # a state of `best_epoch.BestEpoch`
    best_weights: dict[str, Tensor] | None = None  # of the best epoch, where the recipe keeps it
    stopped: bool = False  # before its last epoch
    constants: float = 1.0  # the share of them that is left, of a network whose constants shrink
    seconds: float = 0.0  # that the run took before it was resumed

    def step(self, loss: float) -> None:
        self.done += 1
        self.losses.append(loss)

    def fail(self, images: list[str]) -> None:
        self.failed += [one for one in dict.fromkeys(images) if one not in self.failed]

    def state_dict(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}
