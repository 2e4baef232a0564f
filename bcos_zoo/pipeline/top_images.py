"""What a unit inside a network looks for: the images that activate it most."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from .. import images
from ..classifier import Classifier
from ..errors import InputError, check_integer
from ..explanations.units import activations
from .paths import attempt


@dataclass(frozen=True)
class Unit:
    """A channel of a layer's output, as `explain_unit` names it."""

    layer: str
    index: int

    def __str__(self) -> str:
        return f"{self.layer}[{self.index}]"


@dataclass(frozen=True)
class Activation:
    """How strongly one image activates a unit."""

    path: Path
    value: float


def top_images(
    classifier: Classifier,
    sources: Iterable[Path],
    layer: str,
    unit: int,
    *,
    count: int = 9,
    batch_size: int = 32,
) -> tuple[list[Activation], list[InputError]]:
    """The images with the largest activations of a unit, averaged over its map, largest first.

    sources: image files, or folders of them. layer, unit: as in `explain_unit`, which can explain the images.
    Returns them, and an error for each source that cannot be read: one bad file does not stop the others.
    Raises InputError for a layer or unit that does not exist, and for a count or batch_size below 1.
    """
    check_integer("count", count, 1)
    check_integer("batch_size", batch_size, 1)
    files, errors = images.gather(sources)
    found: list[Activation] = []
    waiting: list[Path] = []
    pixels: list[torch.Tensor] = []

    def run() -> None:
        values = activations(classifier.model, torch.stack(pixels), layer, unit).tolist()
        found.extend(Activation(path, value) for path, value in zip(waiting, values, strict=True))
        found[:] = heapq.nlargest(count, found, key=lambda activation: activation.value)
        waiting.clear()
        pixels.clear()

    for path in files:
        one = attempt(path, partial(classifier.preprocess, path))
        if isinstance(one, InputError):
            errors.append(one)
            continue
        pixels.append(one[0])
        waiting.append(path)
        if len(waiting) == batch_size:
            run()
    if waiting:
        run()
    return found, errors
