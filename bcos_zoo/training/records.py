"""What a run leaves in its folder besides states: recipe, metrics, pictures, the network, and a page."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from ..conversion import Converted
from ..data import Samples, Task
from ..errors import InputError
from ..files import as_text, replacing
from ..models.interface import Network
from ..outputs import Outputs
from ..weights.config_json import Training
from . import confusion, curves, history, page, recipe, teacher_name
from .constants import median_share
from .history import EpochRow
from .network_folder import NetworkFolder, classifier_of
from .recipe import Recipe
from .runs import writing
from .scores import Answers
from .scores import confusion as counted
from .snapshots import Snapshots, choose, why_none

RECIPE, UNREADABLE, TEST = "recipe.toml", "unreadable.txt", "test.json"
UPDATE = 60.0  # minimum seconds between two writings of the network


class Records:
    """The files of one run. outputs: the network's. source: what its card calls the images."""

    def __init__(
        self, folder: Path, wanted: Recipe, task: Task, outputs: Outputs, source: str | None
    ) -> None:
        self.folder, self.recipe, self.task = folder, wanted, task
        self.left_out = 0  # images that cannot be read
        self._write(RECIPE, recipe.to_toml(wanted))
        self.unreadable(())
        shown = None if source is None else as_text(source)
        said = Training(
            base=teacher_name.begun_with(wanted.model),
            data=shown,
            recipe=RECIPE,
            multilabel=task.multilabel,
            agreement=not wanted.data.labels,
            teacher=teacher_name.public(wanted.teacher) if wanted.teacher.name else None,
            teacher_licence=teacher_name.licence(wanted.teacher) if wanted.teacher.name else None,
        )
        self.network = NetworkFolder(folder, outputs, training=said, sample=_one_of(task.val))
        self.updated = -math.inf  # when the network in the folder was written
        count = wanted.run.snapshots
        self.snapshots = Snapshots.of(folder, task.val, task.class_names, count) if count else None

    def epoch(
        self,
        rows: Sequence[EpochRow],
        now: Network,
        network: Network,
        unreadable: Sequence[str],
        last: bool = False,
    ) -> None:
        """After an epoch. rows: of all so far. now, network: the current and the best one, in eval mode.

        last: whether no other epoch follows.
        """
        history.write(self.folder, rows)
        curves.draw(self.folder, rows)
        self.unreadable(unreadable)
        epoch = int(rows[-1]["epoch"])
        due = last or epoch % self.recipe.run.snapshot_every == 0
        if due and self.snapshots is not None and why_none(now) is None:
            self.snapshots.draw(classifier_of(now, self.network.outputs), epoch)
        if time.monotonic() - self.updated > UPDATE:
            self.network.update(network)
            self.updated = time.monotonic()

    def end(
        self,
        rows: Sequence[EpochRow],
        network: Network,
        epoch: int,
        answers: Answers,
        test: Mapping[str, float] | None = None,
        images: int = 0,
        teacher: Mapping[str, float] | None = None,
    ) -> None:
        """At the end. network: the one that is kept. epoch: the one it is from. answers: its own, on the
        validation images. test: its scores on the test images, if there are any; images: the number of these.
        teacher: its teacher's scores on the validation images.
        """
        if isinstance(network, Converted):
            network = copy.deepcopy(network)  # the run may go on with its own
            network.drop_constants()
        history.write(self.folder, rows)
        curves.draw(self.folder, rows, best=epoch)
        names = self.task.class_names
        if self.task.multilabel:
            confusion.write_several(self.folder, answers.logits, answers.targets, names)
        else:
            confusion.write(self.folder, counted(answers.logits, answers.targets), names)
        constants = median_share(network, self.task.val, self.recipe.data.workers)
        self.network.finish(
            network, epoch=epoch, scores=answers.scores, test=test, teacher=teacher, constants=constants
        )
        if test is not None:
            said = {"epoch": epoch, "images": images} | history.plain(test)
            self._write(TEST, json.dumps(said, indent=1, allow_nan=False) + "\n")
        classifier = classifier_of(network, self.network.outputs)
        film = None
        if self.snapshots is not None and why_none(network) is None:
            film = self.snapshots.end(classifier, epoch)
        parts = page.Parts(
            self.folder, self.recipe, self.task, self.network.training, classifier, rows, epoch, answers,
            test, images, film, self.left_out,
        )  # fmt: skip
        self._write(page.PAGE, page.make(parts))

    def unreadable(self, met: Sequence[str]) -> None:
        """List the images that cannot be read. met: those met while training."""
        lines = [as_text(line) for line in (*self.task.unreadable, *met)]
        self.left_out = len(lines)
        if lines:
            self._write(UNREADABLE, "\n".join(lines) + "\n")

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        with writing(path), replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _one_of(samples: Samples) -> Image.Image | None:
    """An image that was held out of training, for the card; None if none of ten can be read."""
    for pick in choose(samples.labels, 10):
        try:
            return samples.load(pick.index)
        except InputError:  # validation meets it too, and lists it
            continue
    return None
