"""How much of a run is left, what fits into a time, and that a budget of time is kept."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from small_runs import Stop, make, paint, quiet, stop_at

from bcos_zoo import InputError
from bcos_zoo.data import open_task
from bcos_zoo.training import engine, states, trainer
from bcos_zoo.training.pace import PAGE, Pace, said
from bcos_zoo.training.records import Records
from bcos_zoo.training.trainer import Trainer


def simulated(pace, done, total, *, step, validation, state, files):
    """Seconds of the rest of a run, event by event."""
    clock = 0.0
    for now in range(done + 1, total + 1):
        clock += step
        if now % pace.steps == 0 or now == total:
            number = -(-now // pace.steps)
            if number % pace.every == 0 or now == total:
                clock += validation
            clock += state + files
    return clock + validation + validation * pace.test / pace.held_out + files + PAGE * files


@pytest.mark.parametrize("done, total", [(0, 40), (0, 37), (13, 40), (20, 40), (39, 40), (0, 3), (0, 200)])
@pytest.mark.parametrize("every", [1, 3])
def test_what_is_left_is_the_sum_of_all_that_is_to_come(done, total, every):
    pace = Pace(steps=10, batch=8, held_out=30, test=60, every=every)
    for seconds in (9.0, 2.0, 4.0):  # the first, which compiles, is no measure of others
        pace.stepped(seconds)
    pace.validated(5.0)
    for seconds in (0.3, 0.7, 0.2):  # of files, the slowest counts: an epoch may write the network, or not
        pace.saved(seconds)
        pace.wrote(seconds - 0.2)
    expected = simulated(pace, done, total, step=3.0, validation=5.0, state=0.7, files=0.5)
    assert pace.left(done, total) == pytest.approx(expected)


def test_before_it_is_measured_validation_is_guessed_from_the_steps():
    pace = Pace(steps=10, batch=8, held_out=80, test=0)
    assert math.isnan(pace.left(0, 10))
    pace.stepped(2.0)
    assert pace.validation == pytest.approx(10 * 2.0 / 2)


def test_states_between_steps_are_part_of_them():
    pace = Pace(steps=10, batch=8, held_out=80, test=0)
    for seconds in (30.0, 2.0, 4.0):
        pace.stepped(seconds)
    pace.saved(3.0, between_steps=True)
    assert pace.step == pytest.approx((2 + 4 + 3) / 2)


@pytest.mark.parametrize("seconds", [0.0, 10.0, 30.0, 99.5, 100.0, 1e6])
def test_the_largest_number_of_steps_that_fits(seconds):
    pace = Pace(steps=7, batch=8, held_out=30, test=10, every=2)
    pace.stepped(1.0)
    pace.validated(3.0)
    fitting = [n for n in range(5, 101) if pace.left(5, n) <= seconds]
    assert pace.fits(seconds, 5, 100) == max(fitting, default=5)


@pytest.mark.parametrize(
    "seconds, words",
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_times_are_said_in_words(seconds, words):
    assert said(seconds) == words


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return open_task(paint(tmp_path_factory.mktemp("images"), {"train": 24, "val": 4}), log=quiet)


@dataclass
class Costs:
    """Seconds that the parts of a run take by its clock, whatever they take."""

    learner: float = 0.0
    step: float = 10.0
    image: float = 0.0  # of validation
    state: float = 0.0
    files: float = 0.0
    end: float = 0.0


class Clock:
    """A clock that only goes on when a part of a run is done, each time by what that part costs."""

    def __init__(self, monkeypatch):
        self.now, self.costs = 0.0, Costs()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        for owner, name, cost in (
            (trainer, "make_learner", lambda *a: self.costs.learner),
            (Trainer, "_step", lambda *a: self.costs.step),
            (Trainer, "_measure", lambda own, *a: self.costs.image * len(own.task.val)),
            (states, "save", lambda *a: self.costs.state),
            (Records, "epoch", lambda *a: self.costs.files),
            (Records, "end", lambda *a: self.costs.end),
        ):
            monkeypatch.setattr(owner, name, self._slow(getattr(owner, name), cost))

    def _slow(self, part: Callable, cost: Callable) -> Callable:
        def slow(*given, **named):
            self.now += cost(*given)
            return part(*given, **named)

        return slow


@pytest.fixture
def clock(monkeypatch):
    """Steps take ten seconds each by the run's clock, and all else nothing."""
    return Clock(monkeypatch)


def rows(folder):
    return json.loads((folder / "metrics.json").read_text())


def check_rows(folder):
    """Every epoch once, and the last one judged."""
    found = rows(folder)
    epochs, steps = [row["epoch"] for row in found], [row["step"] for row in found]
    assert all(a < b for a, b in zip(epochs, epochs[1:], strict=False))
    assert all(a < b for a, b in zip(steps, steps[1:], strict=False))
    assert found[-1]["top1"] is not None and found[-1]["val_loss"] is not None


def test_a_budget_is_kept_and_the_rates_still_fall_to_their_end(task, tmp_path, clock):
    """Six steps an epoch, of ten seconds each: 50 epochs would take 50 minutes."""
    rates, lines = [], []

    def progress(done, total, loss):
        rates.append(done / total)

    result = engine.train(
        make(run__epochs=50, run__minutes=10.0), task, tmp_path, log=lines.append, progress=progress
    )
    assert 8 * 60 <= clock.now <= 10 * 60
    assert result.epochs < 11
    assert rates[-1] == 1 and len(rates) == round(clock.now / 10)
    assert any(line.endswith(" left") for line in lines)
    last = [float(line.split(" lr ")[1].split()[0]) for line in lines if line.startswith("epoch ")][-1]
    assert last < 5e-3 / 100  # of the cosine from 5e-3 to 0
    check_rows(tmp_path)


@pytest.mark.parametrize(
    "costs, least",
    [
        (Costs(learner=200), 500),
        (Costs(image=5), 450),
        (Costs(state=30, step=5), 450),
        (Costs(files=20, end=60), 400),
        (Costs(learner=60, image=2, state=10, files=5, end=15, step=3), 450),
    ],
    ids=["learner", "validation", "states", "files", "all"],
)
@pytest.mark.parametrize(
    "changes",
    [{}, {"run__validate_every": 3}, {"run__keep_best": True, "run__save_steps": 0}],
    ids=["plain", "every-third", "best"],
)
def test_a_budget_counts_all_that_a_run_does(task, tmp_path, clock, costs, least, changes):
    clock.costs = costs
    engine.train(
        make(run__epochs=50, run__minutes=10.0, run__snapshots=0, **changes), task, tmp_path, log=quiet
    )
    assert least <= clock.now <= 600
    check_rows(tmp_path)


@pytest.mark.parametrize("minutes", [3.0, 3.1, 3.5, 4.0, 4.2, 4.9])
@pytest.mark.parametrize("every", [1, 2])
def test_wherever_the_time_ends_each_epoch_is_there_once_and_the_last_is_judged(
    task, tmp_path, clock, minutes, every
):
    clock.costs = Costs(step=10, image=1, files=1)
    wanted = make(run__epochs=50, run__minutes=minutes, run__validate_every=every, run__snapshots=0)
    engine.train(wanted, task, tmp_path, log=quiet)
    assert clock.now <= 60 * minutes
    check_rows(tmp_path)


def test_validation_that_turns_out_slow_ends_the_run_after_it(task, tmp_path, clock):
    """A guess from the steps would be 5 s; it takes 160 s, and there must be time for another at the end."""
    clock.costs = Costs(step=10, image=20)
    engine.train(make(run__epochs=50, run__minutes=7.0), task, tmp_path, log=quiet)
    assert clock.now == 60 + 2 * 160 and [row["epoch"] for row in rows(tmp_path)] == [1]


def test_a_time_that_is_not_enough_for_an_epoch_ends_inside_it(task, tmp_path, clock):
    result = engine.train(make(run__epochs=5, run__minutes=0.5), task, tmp_path, log=quiet)
    assert clock.now <= 30 and result.epochs == 1
    assert states.step_of(states.list_(tmp_path)[-1]) == clock.now / 10
    assert 0 <= result.scores["top1"] <= 100
    check_rows(tmp_path)


def test_time_that_is_enough_changes_nothing(task, tmp_path, clock):
    one = engine.train(make(), task, tmp_path / "without", log=quiet)
    other = engine.train(make(run__minutes=60.0), task, tmp_path / "with", log=quiet)
    assert one.scores == other.scores and one.epochs == other.epochs == 2


def test_what_was_spent_before_counts_when_a_run_goes_on(task, tmp_path, clock):
    clock.costs = Costs(learner=20)
    wanted = make(run__epochs=50, run__minutes=5.0)
    with pytest.raises(Stop):
        engine.train(wanted, task, tmp_path, log=quiet, progress=stop_at(15))
    clock.now += 3600  # nothing ran meanwhile
    lost = clock.now
    engine.train(wanted, task, tmp_path, resume=True, log=quiet)
    assert 20 + 150 - 10 + (clock.now - lost) <= 300  # a step was lost, and its time with it
    check_rows(tmp_path)


def test_a_budget_is_a_number_above_zero(task, tmp_path):
    with pytest.raises(InputError, match=r"run.minutes=0.0: allowed are numbers above 0"):
        make(run__minutes=0)
