"""How long a run's steps and the ends of its epochs take: what is left of it, and what fits into a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

PAGE = 3  # times the files of an epoch: 12 images explained for two classes each, where a sheet has 8 for one
FORWARD = 0.5  # of a training step's time, to see as many images in validation: a guess until it is measured
FILES = 2.0  # seconds that an epoch's files take, until it is measured


@dataclass
class Pace:
    """What parts of a run have taken so far, in seconds.

    steps: of the optimiser in an epoch. batch: images of a step. held_out, test: images that validation and
    the final test see. every: epochs from one validation to the next.
    """

    steps: int
    batch: int
    held_out: int
    test: int
    every: int = 1
    measured: int = 0  # how many steps were timed
    _first: float = math.nan  # by the first step, in which things are compiled
    _others: float = 0.0  # by all other steps, with the states that were saved between them
    _validation: float | None = None  # the newest one
    _state: float = 0.0  # the slowest that was saved
    _files: float | None = None  # the slowest that an epoch left in the run's folder: later ones write less

    def stepped(self, seconds: float) -> None:
        if self.measured:
            self._others += seconds
        else:
            self._first = seconds
        self.measured += 1

    def validated(self, seconds: float) -> None:
        self._validation = seconds

    def saved(self, seconds: float, *, between_steps: bool = False) -> None:
        """A state was saved: after an epoch, or between two of its steps, as others will be."""
        self._state = max(self._state, seconds)
        if between_steps:
            self._others += seconds

    def wrote(self, seconds: float) -> None:
        self._files = max(self._files or 0.0, seconds)

    @property
    def step(self) -> float:
        """Mean seconds of a step, the first apart unless it is the only one; nan before it."""
        return self._others / (self.measured - 1) if self.measured > 1 else self._first + self._others

    @property
    def after_epoch(self) -> float:
        """Seconds for what is left in the run's folder after an epoch: its state and its files."""
        return self._state + self._in_folder

    @property
    def _in_folder(self) -> float:
        return FILES if self._files is None else self._files

    @property
    def validation(self) -> float:
        """Seconds to see the validation images; a guess from the steps before the first time."""
        if self._validation is not None:
            return self._validation
        return FORWARD * self.step * self.held_out / self.batch

    @property
    def closing(self) -> float:
        """Seconds from the last step to the end: validation after the epoch, once more, test, files, page."""
        again = 1 + self.test / max(self.held_out, 1)
        return (1 + again) * self.validation + self.after_epoch + (1 + PAGE) * self._in_folder

    def left(self, done: int, total: int) -> float:
        """Seconds from step `done` to the end of a run of `total` steps; nan before the first step."""
        epochs = range(done // self.steps + 1, math.ceil(total / self.steps))  # that end before the last
        validations = sum(number % self.every == 0 for number in epochs)
        middle = validations * self.validation + len(epochs) * self.after_epoch
        return (total - done) * self.step + middle + self.closing

    def fits(self, seconds: float, done: int, most: int) -> int:
        """The largest total of steps, from `done` to `most`, after which the run ends within `seconds`."""
        low, high = done, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.left(done, middle) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low


def said(seconds: float) -> str:
    """A time in words: "40 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
