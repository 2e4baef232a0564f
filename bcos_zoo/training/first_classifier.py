"""The classifier that a run begins with: the checkpoint's own rows, or fitted to the checkpoint's features.

Training all layers at once behind a random classifier distorts what they have learnt (Kumar et al. 2022,
"Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Samples, Task, val_loader
from ..errors import InputError
from ..extras import required
from ..models.interface import Network
from . import known_classes, networks
from .losses import for_task
from .parameters import to_unit_rows
from .recipe import Recipe

STEPS, BATCH = 300, 512
RATE = 0.5  # of Adam, relative to the size of a weight: a row of any length turns equally fast
IMAGES, MEMORY = 4096, 1e9  # at most, and bytes of their features


def begin(model: Network, recipe: Recipe, task: Task, accelerator: Any) -> str:
    """Give the network its first classifier; returns what was done, for the log.

    Classes that the checkpoint knows by name keep their rows. If there are others, all rows are then fitted
    to the features of the training images as the checkpoint gives them, with the loss of the recipe.
    Raises InputError for others where the rows are to be kept.
    """
    known = _keep_rows(model, recipe, task)
    to_unit_rows(model.get_classifier())  # a checkpoint's rows are long, and would outweigh the others
    if known == len(task.class_names):
        return f"the checkpoint knows all {known} classes, and begins with its own classifier"
    if recipe.model.head == "kept":
        raise InputError(
            f"model.head='kept', but {recipe.model.name} knows {known} of {len(task.class_names)} classes "
            "by name; give 'fitted' or 'random'"
        )
    if not isinstance(task.train, Samples):
        return "the classifier begins at random: a stream has no images to fit it to beforehand"
    images = _fit(model, recipe, task, task.train, accelerator)
    to_unit_rows(model.get_classifier())
    if not images:
        return "the classifier begins at random: what the network does after it is not known"
    kept = f", of which the checkpoint knows {known}" if known else ""
    return f"the classifier of {len(task.class_names)} classes{kept} was fitted to {images} images"


@torch.no_grad()
def _keep_rows(model: Network, recipe: Recipe, task: Task) -> int:
    """Copy the checkpoint's rows of the classes that it knows; returns how many these are."""
    if model.num_classes != len(task.class_names):
        return 0
    before = networks.original_of(recipe.model)
    names = known_classes.names_of(before)
    new, old = model.get_classifier(), before.get_classifier()
    if not names or [p.shape[1:] for p in new.parameters()] != [p.shape[1:] for p in old.parameters()]:
        return 0
    places = known_classes.places(task.class_names, names)
    pairs = [(i, place) for i, place in enumerate(places) if place is not None]
    for target, source in zip(new.parameters(), old.parameters(), strict=True):
        each, its = len(target) // model.num_classes, len(source) // before.num_classes
        if each != its:
            return 0
        for to, at in pairs:
            target[to * each : (to + 1) * each] = source[at * each : (at + 1) * each]
    return len(pairs)


def _fit(model: Network, recipe: Recipe, task: Task, samples: Samples, accelerator: Any) -> int:
    """Fit the classifier to cached features; returns to how many images: 0 if it is not possible."""
    generator = torch.Generator().manual_seed(recipe.run.seed)
    order = torch.randperm(len(samples), generator=generator).tolist()
    found = _features(model, recipe, samples, order, accelerator)
    if found is None:
        return 0
    inputs, labels, classify = found
    criterion = for_task(recipe.loss, task, model.num_classes).to(inputs.device)
    groups = [
        {"params": [p], "lr": RATE * float(p.detach().square().mean().sqrt()) or 1e-2}
        for p in model.get_classifier().parameters()
    ]
    optimizer = torch.optim.Adam(groups)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / STEPS)
    )
    with torch.enable_grad():
        for _ in range(STEPS):
            few = torch.randperm(len(inputs), generator=generator)[:BATCH].to(inputs.device)
            loss = criterion(classify(inputs[few]), labels[few])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
    optimizer.zero_grad()  # the run's first step would add to what is left
    if accelerator.num_processes > 1:  # of machines that add in different orders, the first decides
        broadcast = required("accelerate.utils", "accelerate", "train").broadcast
        for p in model.get_classifier().parameters():
            p.data.copy_(broadcast(p.data))
    return len(inputs)


@torch.no_grad()
def _features(
    model: Network, recipe: Recipe, samples: Samples, order: Sequence[int], accelerator: Any
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]] | None:
    """What the classifier sees of each image, the labels, and what makes logits of it.

    None if the rest of the network is not what our networks, and most of timm's, do after the classifier.
    """
    classifier = model.get_classifier()
    rest: Callable[[Tensor], Tensor] = getattr(model, "from_classifier", nn.Identity())

    def classify(x: Tensor) -> Tensor:
        return rest(classifier(x))

    seen: list[Tensor] = []
    labels: list[Tensor] = []
    transform = networks.val_transform(model)
    device, training = accelerator.device, model.training
    hook = classifier.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    model.eval()
    try:
        some = samples.select(list(order[:IMAGES]))
        for batch in val_loader(some, transform, 32, workers=recipe.data.workers):
            if not len(batch.images):
                continue
            logits = model(batch.images.to(device))
            if not labels and not _same(classify, seen, logits):
                return None
            labels.append(batch.labels)
            if sum(one.numel() * one.element_size() for one in seen) > MEMORY:
                break
    finally:
        hook.remove()
        model.train(training)
    if not labels:
        return None
    return torch.cat(seen), torch.cat(labels).to(device), classify


def _same(classify: Callable[[Tensor], Tensor], seen: list[Tensor], logits: Tensor) -> bool:
    """Whether the classifier was called once, and `classify` gives the network's own logits."""
    if len(seen) != 1:
        return False
    again = classify(seen[0])
    del seen[1:]  # this call was noted, too
    return again.shape == logits.shape and torch.allclose(again, logits, rtol=1e-3, atol=1e-4)
