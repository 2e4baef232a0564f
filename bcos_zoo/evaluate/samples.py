"""The images that a comparison is made on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import metrics
from ..classifier import Classifier
from ..errors import InputError
from ..outputs import Outputs
from .accuracy import BATCH_SIZE, labelled_files, logits_of
from .objects import Boxes, Objects

CONFIDENT = 0.5  # an image is used if the probability of its class is above this


@dataclass(frozen=True)
class Sample:
    """One image, or the several of a grid, each with its class."""

    paths: list[Path]
    targets: Tensor  # (T,)


@dataclass(frozen=True)
class Pool:
    """Images to draw from, with their classes and the network's answers."""

    paths: list[Path]
    truth: Tensor  # (M,)
    logits: Tensor  # (M, C)
    outputs: Outputs

    @staticmethod
    def of(
        classifier: Classifier, paths: list[Path], labels: list[int], *, batch_size: int = BATCH_SIZE
    ) -> Pool:
        """Run the network on these images. Raises InputError if one cannot be read."""
        logits, truth = logits_of(classifier, paths, labels, batch_size=batch_size)
        return Pool(paths, truth, logits, classifier.outputs)

    def grids(self, n: int, count: int, seed: int) -> list[Sample]:
        """Grids of n x n images of different classes. Raises InputError if there are not enough."""
        confidence: Any = self.outputs.kind
        chosen = metrics.make_grids(self.logits, self.truth, n, count, confidence=confidence, seed=seed)
        return [Sample([self.paths[i] for i in grid.tolist()], self.truth[grid]) for grid in chosen]

    def singles(
        self, count: int, seed: int, fits: Callable[[Sample], bool] = lambda sample: True
    ) -> list[Sample]:
        """Images that the network classifies correctly and confidently, and that fit, in the seed's order.

        Raises InputError if there are not enough.
        """
        # By the logits: the probabilities of several classes may all round to 1.
        predicted = self.outputs.class_logits(self.logits).argmax(1)
        top = self.outputs.probabilities(self.logits).gather(1, predicted[:, None])[:, 0]
        usable = ((predicted == self.truth) & (top > CONFIDENT)).nonzero().flatten()
        order = usable[torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed))].tolist()
        found: list[Sample] = []
        for i in order:
            sample = Sample([self.paths[i]], self.truth[i : i + 1])
            if fits(sample):
                found.append(sample)
            if len(found) == count:
                return found
        unfit = len(order) - len(found)
        without = f" ({unfit} more have their object outside of the crop)" if unfit else ""
        raise InputError(
            f"{len(found)} images are right with confidence above {CONFIDENT:g}, not {count}{without}; "
            "add images or ask for fewer samples"
        )


def energy_pool(
    classifier: Classifier, objects: Objects, root: str | Path, *, batch_size: int = BATCH_SIZE
) -> Pool:
    """The images that have objects, with the classes of labelled boxes, or else of their folders.

    Raises InputError if there are none.
    """
    if isinstance(objects, Boxes) and objects.labelled:
        return Pool.of(classifier, *objects.pairs(classifier), batch_size=batch_size)
    labelled = zip(*labelled_files(classifier, root), strict=True)
    found = [(path, label) for path, label in labelled if objects.has(path)]
    if not found:
        raise InputError(f"{root}: no image has an object; masks are PNG files under the names of the images")
    paths, truth = [path for path, _ in found], [label for _, label in found]
    return Pool.of(classifier, paths, truth, batch_size=batch_size)
