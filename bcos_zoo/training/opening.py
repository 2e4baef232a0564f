"""The images of a run, opened as its recipe says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .. import devices
from ..data import Task, open_task
from . import classes, effects
from .recipe import Recipe


def open_for(
    wanted: Recipe, source: str | Path, *, check: bool = True, log: Callable[[str], object] = print
) -> Task:
    """The task of a recipe. check: whether to decode every image once, where the recipe says so.

    Raises what `open_task` does, and InputError for a device that the machine does not have.
    """
    devices.choose(wanted.run.device)  # before the images are opened, which may take long
    part = wanted.data
    answers = None
    if not part.labels:
        effects.check(wanted)  # whether there is a teacher to ask
        answers = classes.of_teacher(wanted.teacher)
    return open_task(
        source, val_share=part.val_share, folds=part.folds, fold=part.fold, seed=part.seed, group=part.group,
        train_split=part.train_split, val_split=part.val_split, image_key=part.image_key,
        label_key=part.label_key, root=part.root, download=part.download, check=part.check and check,
        bad_share=part.bad_share, answers=answers, log=log,
    )  # fmt: skip
