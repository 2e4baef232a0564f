"""Whatever a run was about to write when it was killed, the next command goes on or says what to do."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from small_runs import make, paint, quiet, same, weights

from bcos_zoo import InputError
from bcos_zoo.data import open_task
from bcos_zoo.training import engine
from bcos_zoo.training.records import Records

WANTED = dict(run__epochs=2, run__snapshots=1, run__save_steps=0, model__args={"layers": [1, 1]})


class Killed(BaseException):
    """Passes all that catches exceptions, as a killed process does."""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    root = paint(tmp_path_factory.mktemp("colours"), {"train": 8, "val": 4, "test": 2})
    return open_task(root, log=quiet)


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    engine.train(make(**WANTED), task, folder, log=quiet)
    return folder


def killed_before(monkeypatch, number):
    """Let the process die before the file of that number, from 0, gets its name; returns the names so far."""
    names, replace = [], os.replace

    def counted(source, target, **options):
        if len(names) == number:
            raise Killed
        names.append(os.fspath(target))
        return replace(source, target, **options)

    monkeypatch.setattr(os, "replace", counted)
    return names


def begin(task, run, *, resume=False):
    return engine.train(make(**WANTED), task, run, resume=resume, log=quiet)


def left(run):
    """All that a run left, but for clocks and the names of states."""
    clocks = ("seconds", "images_per_second")
    rows = json.loads((run / "metrics.json").read_text())
    scores = [{key: value for key, value in row.items() if key not in clocks} for row in rows]
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    return scores, names, (run / "test.json").read_text()


def go_on(task, run, first):
    """What a user does: the same words, or --resume, and then the other, if the answer says so."""
    try:
        return begin(task, run, resume=first)
    except InputError as error:
        said = str(error)
    assert ("leave out --resume" if first else "continue it with --resume") in said
    return begin(task, run, resume=not first)


def check(task, run, whole):
    copy = run.with_name(f"{run.name}-copy")
    if run.exists():
        shutil.copytree(run, copy, symlinks=True)
    for folder, first in ((run, False), (copy, True)):
        go_on(task, folder, first)
        assert left(folder) == left(whole)
        assert same(weights(folder), weights(whole))


@pytest.mark.slow
def test_a_run_killed_before_any_of_its_files_gets_its_name_goes_on(task, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        names = killed_before(patch, -1)
        begin(task, tmp_path / "all")
    assert {"recipe.toml", "config.json", "model.safetensors", "metrics.csv", "test.json"} <= {
        os.path.basename(name) for name in names
    }
    for number in range(len(names)):
        run = tmp_path / f"before-{number}"
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed_before(patch, number)
            begin(task, run)
        check(task, run, whole)


@pytest.mark.parametrize("moment", ["before any step", "first step", "after its files", "before its files"])
def test_a_run_killed_at_its_first_epoch_goes_on(task, whole, tmp_path, monkeypatch, moment):
    run, epoch = tmp_path / "run", Records.epoch
    after = moment == "after its files"

    def dies(self, *arguments):
        if after:
            epoch(self, *arguments)
        raise Killed

    def progress(done, total, loss):
        if moment == "first step":
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Records, "epoch", dies)
        if moment == "before any step":
            patch.setattr(engine.Trainer, "epoch", lambda self: dies(self) if not after else None)
        engine.train(make(**WANTED), task, run, log=quiet, progress=progress)
    check(task, run, whole)


def test_weights_that_are_no_numbers_are_not_kept_as_a_state(task, tmp_path):
    """The loss of the last step of an epoch says nothing about the weights that this step makes."""
    from bcos_zoo.training import states

    wanted = make(optimizer__name="sgd", optimizer__lr=1e-3, optimizer__ema_decay=None, run__save_steps=1)
    step = engine.Trainer._step

    def broken(self, pieces):
        value = step(self, pieces)
        if self.at.done == 2:
            next(self.learner.weights.bare.parameters()).data.fill_(float("nan"))
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.Trainer, "_step", broken)
        with pytest.raises(InputError, match="weights became NaN or infinite at step 2; lower optimizer.lr"):
            engine.train(wanted, task, tmp_path, log=quiet)
    path, _ = states.newest(tmp_path)
    assert states.step_of(path) == 1
    engine.train(wanted, task, tmp_path, resume=True, log=quiet)
