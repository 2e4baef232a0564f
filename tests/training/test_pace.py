"""How much of a run is left, what fits into a time, and that a budget of time is kept."""

import math
import time

import pytest
from small_runs import Stop, make, paint, quiet, stop_at

from bcos_zoo import InputError
from bcos_zoo.data import open_task
from bcos_zoo.training import engine, states
from bcos_zoo.training.pace import PAGE, Pace, said
from bcos_zoo.training.trainer import Trainer


def simulated(pace, done, total, *, step, validation, files):
    """Seconds of the rest of a run, event by event."""
    clock = 0.0
    for now in range(done + 1, total + 1):
        clock += step
        if now % pace.steps == 0 or now == total:
            number = -(-now // pace.steps)
            if number % pace.every == 0 or now == total:
                clock += validation
            clock += files
    return clock + validation + validation * pace.test / pace.held_out + files + PAGE * files


@pytest.mark.parametrize("done, total", [(0, 40), (0, 37), (13, 40), (20, 40), (39, 40), (0, 3), (0, 200)])
@pytest.mark.parametrize("every", [1, 3])
def test_what_is_left_is_the_sum_of_all_that_is_to_come(done, total, every):
    pace = Pace(steps=10, batch=8, held_out=30, test=60, every=every)
    for seconds in (9.0, 2.0, 4.0):  # the first, which compiles, is no measure of others
        pace.stepped(seconds)
    pace.validated(5.0)
    pace.wrote(0.5)
    expected = simulated(pace, done, total, step=3.0, validation=5.0, files=0.5)
    assert pace.left(done, total) == pytest.approx(expected)


def test_before_it_is_measured_validation_is_guessed_from_the_steps():
    pace = Pace(steps=10, batch=8, held_out=80, test=0)
    assert math.isnan(pace.left(0, 10))
    pace.stepped(2.0)
    assert pace.validation == pytest.approx(10 * 2.0 / 2)


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


class Clock:
    """A clock that only goes on when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def slow_steps(monkeypatch):
    """Steps take ten seconds each by the run's clock, whatever they take."""
    clock = Clock(monkeypatch)
    step = Trainer._step

    def slow(self, pieces):
        clock.now += 10
        return step(self, pieces)

    monkeypatch.setattr(Trainer, "_step", slow)
    return clock


def test_a_budget_is_kept_and_the_rates_still_fall_to_their_end(task, tmp_path, slow_steps):
    """Six steps an epoch, of ten seconds each: 50 epochs would take 50 minutes."""
    rates, lines = [], []

    def progress(done, total, loss):
        rates.append(done / total)

    result = engine.train(
        make(run__epochs=50, run__minutes=10.0), task, tmp_path, log=lines.append, progress=progress
    )
    assert 8 * 60 <= slow_steps.now <= 10 * 60
    assert result.epochs < 11
    assert rates[-1] == 1 and len(rates) == round(slow_steps.now / 10)
    assert any(line.endswith(" left") for line in lines)
    last = [float(line.split(" lr ")[1].split()[0]) for line in lines if line.startswith("epoch ")][-1]
    assert last < 5e-3 / 100  # of the cosine from 5e-3 to 0


def test_a_time_that_is_not_enough_for_an_epoch_ends_inside_it(task, tmp_path, slow_steps):
    result = engine.train(make(run__epochs=5, run__minutes=0.5), task, tmp_path, log=quiet)
    assert slow_steps.now <= 30 and result.epochs == 1
    assert states.step_of(states.list_(tmp_path)[-1]) == slow_steps.now / 10
    assert 0 <= result.scores["top1"] <= 100


def test_time_that_is_enough_changes_nothing(task, tmp_path, slow_steps):
    one = engine.train(make(), task, tmp_path / "without", log=quiet)
    other = engine.train(make(run__minutes=60.0), task, tmp_path / "with", log=quiet)
    assert one.scores == other.scores and one.epochs == other.epochs == 2


def test_what_was_spent_before_counts_when_a_run_goes_on(task, tmp_path, slow_steps):
    wanted = make(run__epochs=50, run__minutes=5.0)
    with pytest.raises(Stop):
        engine.train(wanted, task, tmp_path, log=quiet, progress=stop_at(15))
    slow_steps.now += 3600  # nothing ran meanwhile
    lost = slow_steps.now
    engine.train(wanted, task, tmp_path, resume=True, log=quiet)
    assert 150 - 10 + (slow_steps.now - lost) <= 300  # a step was lost, and its time with it


def test_a_budget_is_a_number_above_zero(task, tmp_path):
    with pytest.raises(InputError, match=r"run.minutes=0.0: allowed are numbers above 0"):
        make(run__minutes=0)
