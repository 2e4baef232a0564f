"""The training engine: one loop for fine-tuning and for training from scratch, over accelerate.

Each random draw is a function of the seed and of its position in the run, so no generator's state is kept: a
run that was killed and resumed ends with the same bits as one that was not, at least on the CPU.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..data import Task
from . import classes, constants, pace, runs, runtime, states
from .history import EpochRow
from .network_folder import refuse_another
from .recipe import Recipe
from .records import Records
from .snapshots import why_none
from .trainer import Trainer

Log = Callable[[str], None]
Progress = Callable[[int, int, float], None]  # steps done, steps of the run, loss


def train(
    recipe: Recipe,
    task: Task,
    folder: str | Path,
    *,
    resume: bool = False,
    source: str | None = None,
    log: Log = print,
    progress: Progress = lambda done, total, loss: None,
) -> Result:
    """Train as a recipe says, on the images of a task, and leave everything in a folder.

    The folder gets states to resume from, and, after each epoch, metrics, curves, pictures of explanations
    and the network so far, as `bcos_zoo.load` and `timm.create_model("local-dir:FOLDER")` take it. At the end
    it gets `index.html`, one page of all this, with the worst mistakes on the validation images explained.
    resume: go on from the newest state. source: what the network's card calls the images.
    log: called with a line for each epoch. progress: called after each step. Of several processes only the
    first calls them.

    Raises InputError if the folder already holds a run without `resume`, or holds none with it; for a recipe
    that does not fit the images; if the loss is no longer a number, memory runs out, the disk is full, or too
    many images cannot be read. What was saved before stays.
    """
    began = time.monotonic()  # a budget of time holds from here
    folder = Path(folder)
    runs.check_name(folder)
    alone = runs.claimed(folder) if runtime.is_main() else contextlib.nullcontext()
    with runtime.leaving_no_trace(), alone, runtime.explaining_memory(recipe):
        found = states.to_go_on(folder, resume)
        if not found and runtime.is_main():
            refuse_another(folder)
        if recipe.teacher.classes == "teacher":
            task = classes.among(task, classes.of_teacher(recipe.teacher))
        if found:
            task = task.as_before(found[1].get("images", {}), found[0])
        trainer = Trainer(recipe, task, folder, resumed=found, began=began)
        return _run(trainer, folder, source, log, progress)


def _run(trainer: Trainer, folder: Path, source: str | None, log: Log, progress: Progress) -> Result:
    """Train to the end. Of several processes the first one writes; all take the same branches."""
    run, at, accelerator = trainer.recipe.run, trainer.at, trainer.accelerator
    records = None
    if runtime.is_main():
        records = Records(folder, trainer.recipe, trainer.task, trainer.learner.outputs, source)
    accelerator.init_trackers("bcos_zoo", config=runtime.plain(trainer.recipe))
    clock = states.Clock(run.save_minutes, run.save_steps, at.done)

    def save(*, between_steps: bool = False) -> None:
        began = time.monotonic()
        trainer.check_weights()  # a state with such weights could not go on
        state = trainer.state()
        if records is not None:
            states.save(folder, state, at.done, keep=run.keep)
        clock.saved(at.done)
        trainer.pace.saved(time.monotonic() - began, between_steps=between_steps)

    def leave_epoch() -> None:
        # On every process, because the weights may be sharded over them.
        began = time.monotonic()
        now, best = trainer.learner.network(), trainer.kept()
        if records is not None:
            records.epoch(at.rows, now, best, at.failed, trainer.finished)
        trainer.pace.wrote(time.monotonic() - began)
        if run.minutes is not None and trainer.pace.asks_for_explanation and not trainer.finished:
            trainer.pace.has_explained(constants.seconds(now, trainer.task.val))

    if records is not None:
        log(f"resumed at step {at.done} of {at.total}" if at.done else trainer.describe())
        if run.snapshots and (why := why_none(trainer.learner.template)):
            log(why)
    if trainer.learner.began is not None:  # a run that goes on has measured this before
        row = trainer.measure_start()
        accelerator.log({key: value for key, value in row.items() if key != "epoch"}, step=0)
        if records is not None:
            log(trainer.learner.began)
            log(_line(row))
        save()  # before the network is written, as after every epoch
    if at.rows and at.rows[-1]["step"] == at.done:  # it may have been killed before it left the epoch's files
        leave_epoch()
    while not trainer.finished:
        began, first = time.monotonic(), at.done
        for loss in trainer.epoch():
            if records is not None:
                progress(at.done, at.total, loss)
            due = trainer.learner.weights.agreed(clock.due(at.done))
            if due and not trainer.at_end_of_epoch:  # at the end, a state also holds the scores
                save(between_steps=True)
        trainer.check_weights()
        row = trainer.close_epoch(time.monotonic() - began, at.done - first)
        accelerator.log({key: value for key, value in row.items() if key != "epoch"}, step=row["epoch"])
        if records is not None:
            log(_line(row) + ("" if trainer.finished else f"; about {pace.said(trainer.left)} left"))
        save()  # first: a folder with a network, but no state, could neither go on nor begin anew
        leave_epoch()
    network = trainer.kept()
    found = trainer.validate(network)
    tested, images = trainer.test(network) or (None, 0)  # once, after all choices are made
    told = trainer.measure_teacher()
    if tested is not None:
        accelerator.log({f"test_{name}": value for name, value in tested.items()}, step=trainer.kept_epoch)
    accelerator.end_training()
    if records is not None:
        for part, of in {"validation": found.scores, "test": tested}.items():
            if of is not None:
                said = " ".join(f"{name} {value:.5g}" for name, value in of.items())
                log(f"{part}, network of epoch {trainer.kept_epoch}: {said}")
        records.unreadable(at.failed)
        records.end(at.rows, network, trainer.kept_epoch, found, tested, images, told)
    unreadable = len(trainer.task.unreadable) + len(at.failed)
    return Result(folder, int(at.rows[-1]["epoch"]), trainer.kept_epoch, found.scores, unreadable, tested)


def _line(row: EpochRow) -> str:
    return " ".join(f"{key} {value:.5g}" for key, value in row.items())


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    folder: Path
    epochs: int  # trained in all, before and after resuming
    best_epoch: int  # the one whose network was kept
    scores: dict[str, float]  # of that network, on the validation images, which may have chosen it
    unreadable: int  # images left out, from the start or when they broke
    test: dict[str, float] | None = None  # on the test images, which chose nothing; None without a test part
