"""How much of a run is left, what fits into a time, and that a budget of time is kept."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from small_runs import Stop, make, paint, quiet, stop_at

from bcos_zoo import InputError
from bcos_zoo.conversion import Converted
from bcos_zoo.data import open_task
from bcos_zoo.training import constants, engine, states, trainer
from bcos_zoo.training.changing import Changing
from bcos_zoo.training.pace import EXPLAINED, PAGE, Pace, said
from bcos_zoo.training.records import Records
from bcos_zoo.training.trainer import Trainer


def simulated(pace, done, total, *, step, validation, state, files, explanation=0.0):
    """Seconds of the rest of a run, event by event."""
    clock = 0.0
    for now in range(done + 1, total + 1):
        clock += step
        if now % pace.steps == 0 or now == total:
            number = -(-now // pace.steps)
            if number % pace.every == 0 or now == total:
                clock += validation
            clock += state + files
    clock += validation + validation * pace.test / pace.held_out + files + PAGE * files
    if pace.taught:
        clock += validation
    return clock + pace.explained * explanation


@pytest.mark.parametrize("done, total", [(0, 40), (0, 37), (13, 40), (20, 40), (39, 40), (0, 3), (0, 200)])
@pytest.mark.parametrize("every", [1, 3])
def test_what_is_left_is_the_sum_of_all_that_is_to_come(done, total, every):
    pace = Pace(steps=10, batch=8, held_out=30, test=60, every=every, taught=every == 3, explained=every - 1)
    pace.has_explained(4.0)
    for seconds in (9.0, 2.0, 4.0):  # the first, which compiles, is no measure of others
        pace.stepped(seconds)
    pace.validated(5.0)
    for seconds in (0.3, 0.7, 0.2):  # of files, the slowest counts: an epoch may write the network, or not
        pace.saved(seconds)
        pace.wrote(seconds - 0.2)
    expected = simulated(pace, done, total, step=3.0, validation=5.0, state=0.7, files=0.5, explanation=4.0)
    assert pace.left(done, total) == pytest.approx(expected)


def test_before_it_is_measured_validation_is_guessed_from_the_steps():
    pace = Pace(steps=10, batch=8, held_out=80, test=0)
    assert math.isnan(pace.left(0, 10))
    pace.stepped(2.0)
    assert pace.validation == pytest.approx(10 * 2.0 / 2)


def test_before_they_are_measured_explanations_are_guessed_from_the_steps():
    with_none, with_some = (Pace(steps=10, batch=8, held_out=80, test=0, explained=n) for n in (0, 64))
    for pace in (with_none, with_some):
        pace.stepped(2.0)
    assert with_some.closing - with_none.closing == pytest.approx(EXPLAINED * 64 * 2.0 / 8)
    assert with_some.asks_for_explanation and not with_none.asks_for_explanation


def test_a_resumed_run_knows_its_pace_and_soon_that_of_another_machine():
    before, after = (Pace(steps=10, batch=8, held_out=80, test=0) for _ in range(2))
    for seconds in [30.0, *100 * [2.0]]:
        before.stepped(seconds)
    before.validated(7.0)
    before.saved(0.5)
    before.wrote(0.25)
    after.load_state_dict(before.state_dict())
    assert (after.step, after.validation, after.after_epoch) == (before.step, 7.0, 0.75)
    after.stepped(50.0)  # the first of this process, in which workers start
    assert after.step == 2.0
    for _ in range(20):
        after.stepped(0.5)
    assert after.step == pytest.approx((4 * 2.0 + 20 * 0.5) / 24)


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
    first: float = 0.0  # more than other steps, of the first step in a process
    image: float = 0.0  # of validation
    state: float = 0.0
    files: float = 0.0
    end: float = 0.0
    explanation: float = 0.0  # of one image


class Clock:
    """A clock that only goes on when a part of a run is done, each time by what that part costs."""

    def __init__(self, monkeypatch):
        self.now, self.costs, self.fresh = 0.0, Costs(), True
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        for owner, name, cost in (
            (trainer, "make_learner", lambda *a: self.costs.learner),
            (Trainer, "_step", lambda *a: self.costs.step + self._first()),
            (Trainer, "_measure", lambda own, *a: self.costs.image * len(own.task.val)),
            (states, "save", lambda *a: self.costs.state),
            (Records, "epoch", lambda *a: self.costs.files),
            (Records, "end", lambda *a: self.costs.end),
            (constants, "explain", lambda network, x: self.costs.explanation * len(x)),
        ):
            monkeypatch.setattr(owner, name, self._slow(getattr(owner, name), cost))

    def _first(self) -> float:
        more, self.fresh = self.costs.first if self.fresh else 0.0, False
        return more

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


@pytest.fixture(scope="module")
def original(task, tmp_path_factory):
    """A conventional network that knows the classes."""
    folder = tmp_path_factory.mktemp("original") / "run"
    wanted = make(model__name="test_resnet", model__args={}, data__input_size=32, run__epochs=1)
    engine.train(wanted, task, folder, log=quiet)
    return folder


def converting(original, **changes):
    settings = {
        "model__name": "bcos_converted",
        "model__pretrained": True,
        "model__args": {"original": str(original), "b": 1.5},
        "teacher__name": str(original),
        "run__snapshots": 0,
        "run__epochs": 10,
    }
    return make(**(settings | changes))


@pytest.mark.parametrize("costs", [Costs(image=7), Costs(explanation=12)], ids=["teacher", "explanations"])
def test_a_budget_counts_the_teacher_and_the_constants_that_the_end_measures(
    task, original, tmp_path, clock, costs
):
    clock.costs = costs
    engine.train(converting(original, run__epochs=50, run__minutes=10.0), task, tmp_path, log=quiet)
    assert 450 <= clock.now <= 600
    check_rows(tmp_path)


def shares_of(monkeypatch):
    """What the constants were scaled by, all in all, and the exponents, as a list that fills in a run."""
    seen = {"left": 1.0, "b": []}
    of_b, scale = Changing.before, Converted.scale_constants

    def scaled(own, factor):
        seen["left"] *= factor
        scale(own, factor)

    def before(own, done):
        of_b(own, done)
        seen["b"].append(own.exponents[0][0].b)

    monkeypatch.setattr(Converted, "scale_constants", scaled)
    monkeypatch.setattr(Changing, "before", before)
    return seen


def test_a_shortened_run_goes_through_the_whole_conversion(task, original, tmp_path, clock, monkeypatch):
    """Sixty steps of 10 s are cut to less than three epochs: no constant is left, and b has risen."""
    seen = shares_of(monkeypatch)
    wanted = converting(
        original, conversion__constants=0.25, conversion__constants_epochs=6.0, conversion__b_from=1.0,
        conversion__b_epochs=5, run__minutes=3.0, optimizer__ema_decay=None,
    )  # fmt: skip
    with pytest.raises(Stop):
        engine.train(wanted, task, tmp_path, log=quiet, progress=stop_at(9))
    saved = states.newest(tmp_path)[1]["position"]
    assert saved["done"] == 8 and 0.25 < saved["constants"] < 1
    seen["left"] = saved["constants"]
    result = engine.train(wanted, task, tmp_path, resume=True, log=quiet)
    assert result.epochs <= 3
    assert seen["left"] == pytest.approx(0.25)
    assert seen["b"][0] == 1.0 and seen["b"][-1] == 1.5 and seen["b"] == sorted(seen["b"])


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


def test_a_slow_first_step_does_not_end_a_run(task, tmp_path, clock):
    """Fifty epochs of six steps take 45 s: the first step 15 s, which is no measure of the others."""
    clock.costs = Costs(step=0.1, first=14.9)
    result = engine.train(make(run__epochs=50, run__minutes=1.0), task, tmp_path, log=quiet)
    assert result.epochs == 50 and clock.now == pytest.approx(15 + 299 * 0.1)


def test_nor_does_the_slow_first_step_of_a_resumed_run(task, tmp_path, clock):
    clock.costs = Costs(step=0.1, first=14.9)
    wanted = make(run__epochs=50, run__minutes=1.0)
    with pytest.raises(Stop):
        engine.train(wanted, task, tmp_path, log=quiet, progress=stop_at(15))
    clock.fresh = True
    result = engine.train(wanted, task, tmp_path, resume=True, log=quiet)
    assert result.epochs == 50


def test_a_first_step_that_takes_all_the_time_is_the_last(task, tmp_path, clock):
    clock.costs = Costs(step=0.1, first=70.0)
    result = engine.train(make(run__epochs=50, run__minutes=1.0), task, tmp_path, log=quiet)
    assert result.epochs == 1 and states.step_of(states.list_(tmp_path)[-1]) == 1


def test_a_budget_is_a_number_above_zero(task, tmp_path):
    with pytest.raises(InputError, match=r"run.minutes=0.0: allowed are numbers above 0"):
        make(run__minutes=0)
