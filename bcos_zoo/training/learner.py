"""What learns in a run: a network, its loss, and what moves its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..data import SeededBatchSampler, Task, make_mixup
from ..layers import synchronise_norms
from ..layers._switch import training_step
from ..models.interface import Network
from ..outputs import Outputs
from . import changing, first_classifier, networks, parameters, runtime
from .losses import for_task
from .optimization import make_optimizer, make_schedule
from .recipe import Recipe
from .sharding import Sharded, Whole
from .teacher import Guide, make_guide


@dataclass(frozen=True)
class Learner:
    """A network with its loss, and what moves its weights."""

    template: Network  # a copy in eval mode, whole on this process; with averaging, it holds the average
    outputs: Outputs
    weights: Whole | Sharded  # those of the network that learns
    forward: Callable[[Tensor], Tensor]  # that network, compiled if the recipe says so
    criterion: nn.Module
    optimizer: Any  # as accelerate prepared it
    sizes: Mapping[str, float] | None  # of the weights before the first step, where rates are relative
    set_rates: Callable[[int], None]  # takes the number of steps done
    mixup: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None
    ema: ModelEmaV3 | None
    guide: Guide | None  # what a teacher adds to the loss, or puts in its place
    began: str | None  # how the classifier began, if it was not at random
    apart: tuple[str, ...]  # norms whose statistics are not synchronised over processes

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """What a batch adds to the step. x: (N, K, H, W). y: labels, as `criterion` takes them."""
        with training_step():
            given = self.forward(x)
        if self.guide is None:
            loss: Tensor = self.criterion(given, y)
            return loss
        return self.guide.loss(given, x, y, self.criterion)

    def network(self) -> Network:
        """The network as it is now, in eval mode: the average if there is one, else a copy."""
        if self.ema is not None:
            return self.ema.module.eval()
        network = networks.still(self.template)
        network.load_state_dict(self.weights.state_dict())
        return network


def make_sampler(recipe: Recipe, task: Task, accelerator: Any) -> SeededBatchSampler:
    """Which training images make up each batch, on this process."""
    run = recipe.run
    return SeededBatchSampler(
        len(task.train), run.batch_size, seed=run.seed,
        rank=accelerator.process_index, processes=accelerator.num_processes, accumulate=run.accumulate,
        weights=task.draw_weights() if recipe.data.balanced else None, repeats=recipe.augment.repeats,
    )  # fmt: skip


def make_learner(
    recipe: Recipe, task: Task, accelerator: Any, steps: int, *, resumed: Mapping[str, Any] | None = None
) -> Learner:
    """Build what a recipe names. steps: per epoch, for the schedule.

    resumed: the state that will be loaded into it, if the run goes on: what was drawn or measured before the
    first step, and is not among its tensors, is taken from there.

    Raises InputError for a recipe that does not fit the images.
    """
    run = recipe.run
    layout = runtime.memory_format(recipe)
    torch.manual_seed(run.seed)
    model, outputs = networks.build(recipe, task)
    parameters.freeze(model, recipe.model.train)
    if recipe.model.pretrained:
        parameters.to_unit_rows(model)
    changing.check(model, recipe, task)
    model = model.to(accelerator.device)
    if resumed is None and recipe.conversion.estimate:
        changing.estimate(model, recipe, task, accelerator)
    apart: list[str] = []
    if run.synchronise and accelerator.num_processes > 1:
        apart = synchronise_norms(model)
    kept_as = torch.contiguous_format if run.shard else layout  # FSDP takes only this
    model = model.to(memory_format=kept_as)
    begins = resumed is None and recipe.model.head != "random"
    began = first_classifier.begin(model, recipe, task, accelerator) if begins else None
    decay = recipe.optimizer.ema_decay
    ema = ModelEmaV3(model, decay=decay, use_warmup=True) if decay else None
    template = networks.still(model) if ema is None else ema.module
    criterion = for_task(recipe.loss, task, template.num_classes).to(accelerator.device)
    guide = make_guide(recipe, task, model, criterion, accelerator)
    through = None if guide is None else guide.student
    weights = (Sharded if run.shard else Whole)(accelerator, model, through)
    sizes = (resumed or {}).get("sizes")
    if sizes is None and recipe.optimizer.relative:
        sizes = parameters.learning_sizes(model)
    optimizer = make_optimizer(model, recipe.optimizer, sizes)
    return Learner(
        template=template,
        outputs=outputs,
        weights=weights,
        forward=torch.compile(weights.called) if run.compile else weights.called,
        criterion=criterion,
        optimizer=accelerator.prepare_optimizer(optimizer),
        sizes=sizes,
        set_rates=make_schedule(optimizer, recipe.optimizer, epochs=run.epochs, steps=steps),
        mixup=make_mixup(recipe.augment, len(task.class_names), multilabel=task.multilabel),
        ema=ema,
        guide=guide,
        began=began,
        apart=tuple(apart),
    )
