"""What a run would do, without doing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import devices
from ..data import Task, train_transform
from . import changing, effects, networks, parameters, runs, runtime, states
from .learner import make_sampler
from .losses import for_task
from .network_folder import refuse_another
from .optimization import make_optimizer, make_schedule
from .recipe import Recipe
from .scores import to_watch
from .teacher import make_guide


def dry_run(recipe: Recipe, task: Task, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """What a run would do, as plain data: images, steps, network, what learns. Nothing is written.

    resume: as of `engine.train`.
    Raises what the run would raise before its first step: for a recipe that does not fit, for weights that
    cannot be had, and for a folder that holds something else.
    """
    runs.check_name(folder)
    with runtime.leaving_no_trace():
        return _facts(recipe, task, folder, resume)


def _facts(recipe: Recipe, task: Task, folder: Path, resume: bool) -> dict[str, Any]:
    found = states.to_go_on(folder, resume)
    if not found:
        refuse_another(folder)
    effects.check(recipe, task)
    accelerator = runtime.accelerator(recipe, folder)
    order = make_sampler(recipe, task, accelerator)
    model, outputs = networks.build(recipe, task)
    changing.check(model, recipe, task)
    parameters.freeze(model, recipe.model.train)
    model = model.to(accelerator.device)
    criterion = for_task(recipe.loss, task, model.num_classes).to(accelerator.device)
    make_guide(recipe, task, model, criterion, accelerator)
    optimizer = make_optimizer(model, recipe.optimizer)
    make_schedule(optimizer, recipe.optimizer, epochs=recipe.run.epochs, steps=order.steps)
    to_watch(recipe.run.monitor, model.num_classes, task.multilabel)
    train_transform(networks.data_config(model, recipe.data.input_size), recipe.augment)
    weights = list(model.parameters())
    latest = states.list_(folder)
    return {
        "folder": str(folder),
        "resumable_at_step": states.step_of(latest[-1]) if latest else None,
        "images": len(task.train),
        "validation_images": len(task.val),
        "validation": "held out of the training images" if task.drawn else "a part of its own",
        "test_images": len(task.test or ()),
        "notes": list(task.notes),
        "unreadable": len(task.unreadable),
        "classes": len(outputs.class_names),
        "outputs": outputs.kind,
        "class_names": list(task.class_names),
        "multilabel": task.multilabel,
        "batch_size": order.batch_size,
        "steps_an_epoch": order.steps,
        "steps": order.steps * recipe.run.epochs,
        "device": str(devices.choose(recipe.run.device)),
        "input_size": list(networks.data_config(model, recipe.data.input_size)["input_size"]),
        "parameters": sum(p.numel() for p in weights),
        "learning": sum(p.numel() for p in weights if p.requires_grad),
    }
