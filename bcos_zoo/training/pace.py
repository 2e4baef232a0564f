"""How long a run's steps and the ends of its epochs take: what is left of it, and what fits into a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PAGE = 3  # times the files of an epoch: 12 images explained for two classes each, where a sheet has 8 for one
FORWARD = 0.5  # of a training step's time, to see as many images in validation: a guess until it is measured
FILES = 2.0  # seconds that an epoch's files take, until it is measured
EXPLAINED = 2.0  # of a training step's time, to explain as many images: a guess until it is measured
PROBE = 5  # steps, the first of which does not count, before a budget of time is shared out
CAREFUL = 0.95  # of the time that is left is planned with: steps differ
INSTANT = 1e-6  # seconds: no step takes less


@dataclass
class Pace:
    """What parts of a run have taken so far, in seconds.

    steps: of the optimiser in an epoch. batch: images of a step. held_out, test: images that validation and
    the final test see. every: epochs from one validation to the next. taught: whether a teacher is measured
    in the end. explained: images of which the end explains one answer each, to measure constants.
    """

    steps: int
    batch: int
    held_out: int
    test: int
    every: int = 1
    taught: bool = False
    explained: int = 0
    measured: int = 0  # how many steps were timed
    _first: float = math.nan  # by the first step, in which things are compiled
    _others: float = 0.0  # by all other steps, with the states that were saved between them
    _validation: float | None = None  # the newest one
    _state: float = 0.0  # the slowest that was saved
    _files: float | None = None  # the slowest that an epoch left in the run's folder: later ones write less
    _explanation: float | None = None  # of one image
    _fresh: bool = True  # whether this process has made no step yet

    def stepped(self, seconds: float) -> None:
        if self._fresh:
            self._first, self._fresh = seconds, False
            self.measured = max(self.measured, 1)
            return
        self._others += seconds
        self.measured += 1

    def state_dict(self) -> dict[str, Any]:
        """What was measured, as plain data."""
        return {key: getattr(self, key) for key in KEPT}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what was measured before a run was resumed.

        The steps of before count as few, so that a machine of another speed is soon known.
        """
        for key in KEPT:
            setattr(self, key, state.get(key, getattr(self, key)))
        if self.measured > PROBE:
            self._others *= (PROBE - 1) / (self.measured - 1)
            self.measured = PROBE

    def validated(self, seconds: float) -> None:
        self._validation = seconds

    def saved(self, seconds: float, *, between_steps: bool = False) -> None:
        """A state was saved: after an epoch, or between two of its steps, as others will be."""
        self._state = max(self._state, seconds)
        if between_steps:
            self._others += seconds

    def wrote(self, seconds: float) -> None:
        self._files = max(self._files or 0.0, seconds)

    def has_explained(self, seconds: float) -> None:
        """Seconds for an image."""
        self._explanation = seconds

    @property
    def asks_for_explanation(self) -> bool:
        """Whether explanations will take a time that was not measured yet."""
        return self.explained > 0 and self._explanation is None

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
        """Seconds from the last step to the end.

        Validation after the epoch, once more, the test, the teacher, explanations, files, page.
        """
        again = 1 + self.test / max(self.held_out, 1) + self.taught
        one = EXPLAINED * self.step / self.batch if self._explanation is None else self._explanation
        explanations = one * self.explained if self.explained else 0.0
        files = self.after_epoch + (1 + PAGE) * self._in_folder
        return (1 + again) * self.validation + explanations + files

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

    def planned(self, seconds: float, done: int, total: int, most: int, *, anew: bool) -> int:
        """How many steps a run makes in all that has `seconds` left: at least `done`, at most `most`.

        total: as it was planned before. anew: plan again; otherwise it is only shortened, and this not before
        a few steps are known, unless no time is left: a first one may take as long as hundreds of others.
        """
        if anew:
            return self.fits(CAREFUL * seconds, done, most)
        if seconds > 0 and self.measured < PROBE:
            return total
        return min(total, done + max(int((seconds - self.closing) / max(self.step, INSTANT)), 0))


KEPT = ("measured", "_first", "_others", "_validation", "_state", "_files", "_explanation")  # in a state


def said(seconds: float) -> str:
    """A time in words: "40 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
