"""What a run leaves in its folder besides states: recipe, metrics, pictures, and the network."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from ..data import Samples, Task
from ..errors import InputError
from ..files import replacing
from ..models.interface import Network
from ..outputs import Outputs
from ..weights.config_json import Training
from . import confusion, curves, history, networks, recipe
from .history import EpochRow
from .network_folder import NetworkFolder, classifier_of
from .recipe import Recipe
from .runs import writing
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
        self._write(RECIPE, recipe.to_toml(wanted))
        self.unreadable(())
        base = networks.public_name(wanted.model.name) if wanted.model.pretrained else None
        said = Training(base=base, data=source, recipe=RECIPE, multilabel=task.multilabel)
        self.network = NetworkFolder(folder, outputs, training=said, sample=_one_of(task.val))
        self.updated = -math.inf  # when the network in the folder was written
        count = wanted.run.snapshots
        self.snapshots = Snapshots.of(folder, task.val, task.class_names, count) if count else None

    def epoch(
        self, rows: Sequence[EpochRow], now: Network, network: Network, unreadable: Sequence[str]
    ) -> None:
        """After an epoch. rows: of all so far. now, network: the current and the best one, in eval mode."""
        history.write(self.folder, rows)
        curves.draw(self.folder, rows)
        self.unreadable(unreadable)
        epoch = int(rows[-1]["epoch"])
        if (
            self.snapshots is not None
            and why_none(now) is None
            and epoch % self.recipe.run.snapshot_every == 0
        ):
            self.snapshots.draw(classifier_of(now, self.network.outputs), epoch)
        if time.monotonic() - self.updated > UPDATE:
            self.network.update(network)
            self.updated = time.monotonic()

    def end(
        self,
        rows: Sequence[EpochRow],
        network: Network,
        epoch: int,
        scores: Mapping[str, float],
        logits: Tensor,
        targets: Tensor,
        test: Mapping[str, float] | None = None,
        images: int = 0,
    ) -> None:
        """At the end. network: the one that is kept. epoch: the one it is from. scores, logits (M, C),
        targets: on the validation images. test: its scores on the test images, if there are any; images: the
        number of these.
        """
        history.write(self.folder, rows)
        curves.draw(self.folder, rows, best=epoch)
        names = self.task.class_names
        if self.task.multilabel:
            confusion.write_several(self.folder, logits, targets, names)
        else:
            confusion.write(self.folder, counted(logits, targets), names)
        self.network.finish(network, epoch=epoch, scores=scores, test=test)
        if test is not None:
            said = {"epoch": epoch, "images": images} | history.plain(test)
            self._write(TEST, json.dumps(said, indent=1, allow_nan=False) + "\n")

    def unreadable(self, met: Sequence[str]) -> None:
        """List the images that cannot be read. met: those met while training."""
        if lines := [*self.task.unreadable, *met]:
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
