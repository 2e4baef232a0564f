"""What `bcos-zoo finetune` does unless told otherwise, from five images a class up.

The numbers were chosen by `benchmarks/trials.py`; `benchmarks/finetune.py` compares the whole with what else
one could do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from PIL.Image import Image

from ..data import Augment, Samples, Task
from ..data.samples import decoded
from . import networks, recipe
from .losses import Loss
from .recipe import Model, Optimizer, Recipe, Run

STEPS = 400  # of the optimiser, at least, unless that takes more than MOST_EPOCHS
EPOCHS, MOST_EPOCHS = 10, 60  # at least, and at most
BATCHES = (8, 64)  # the smallest and the largest batch
MEMORY, LOOKS = 2e9, 20  # bytes of decoded images to keep; how many images the estimate looks at
RATE = 2e-2  # by which a step turns a row of weights, at the most: about a degree
WARMUP = 1.0  # epochs, or a tenth of a short run
FILM = 8  # pictures of each image over the epochs
SCALE = (0.35, 1.0)  # share of an image's area in a crop
SMALL = 64  # pixels: images up to that size are shifted, larger ones cropped


def finetuning(model: str, train: str = "full", changes: Iterable[str] = ()) -> Recipe:
    """The recipe, except for what depends on the images; see `for_task`.

    model: what to begin with, as `--model` takes it. train: as `recipe.Model`. changes: as `recipe.read`.
    """
    wanted = Recipe(
        model=Model(name=model, pretrained=True, head="fitted", train=train),
        loss=Loss(),
        optimizer=Optimizer(name="adam", lr=RATE, relative=True),
        run=Run(epochs=EPOCHS, keep_best=True),
    )
    changes = list(changes)
    if not recipe.with_changes(wanted, changes).model.pretrained:
        wanted = replace(wanted, model=replace(wanted.model, head="random"))
    return recipe.with_changes(wanted, changes)


def for_task(wanted: Recipe, task: Task, changes: Iterable[str] = ()) -> Recipe:
    """The recipe with what follows from the images: batch, epochs, crop, cache. changes: override these."""
    changes = list(changes)
    images = len(task.train)
    batch = batch_size(images)
    epochs = min(max(math.ceil(STEPS * batch / images), EPOCHS), MOST_EPOCHS)
    size = wanted.data.input_size or _size(wanted.model)
    crop = recipe.changed({}, changes).get("augment", {}).get("crop")
    crop = crop or ("shift" if size <= SMALL else "resized")
    augment = replace(
        wanted.augment,
        crop=crop,
        scale=SCALE if crop == "resized" else Augment.scale,  # no other crop has a scale
        shift=max(size // 10, 1) if crop == "shift" else Augment.shift,
    )
    run = replace(wanted.run, batch_size=batch, epochs=epochs)
    data = replace(wanted.data, cache=_bytes(task) <= MEMORY)
    full = recipe.with_changes(replace(wanted, data=data, augment=augment, run=run), changes)
    optimizer, run = full.optimizer, full.run
    if optimizer.schedule != "none":
        optimizer = replace(optimizer, warmup_epochs=min(WARMUP, run.epochs / 10))
    if run.snapshots:
        run = replace(run, snapshot_every=max(run.epochs // FILM, 1))
    return recipe.with_changes(replace(full, optimizer=optimizer, run=run), changes)


def batch_size(images: int) -> int:
    """Images of a step: a sixteenth of the training images, as a power of two, within `BATCHES`."""
    least, most = BATCHES
    return min(max(2 ** int(math.log2(max(images // 16, 1))), least), most)


def _bytes(task: Task) -> float:
    """Roughly the memory that the decoded images take, estimated from a few; infinite for a stream."""
    if not isinstance(task.train, Samples):
        return math.inf
    few = range(0, len(task.train), max(len(task.train) // LOOKS, 1))
    sizes = [
        3 * math.prod(image.size)
        for image in decoded(task.train.select(list(few)))
        if isinstance(image, Image)
    ]
    return sum(sizes) / max(len(sizes), 1) * (len(task.train) + len(task.val))


def _size(part: Model) -> int:
    arguments = {key: value for key, value in part.args.items() if key != "num_classes"}
    model = networks.skeleton(part.name, arguments)
    size: int = model.pretrained_cfg["input_size"][-1]
    return size
