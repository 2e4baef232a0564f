"""A run in memory: what learns, on which images, and where it is."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..data import Batch, Samples, Task, seeds, train_loader, train_transform, val_loader
from ..data.scan import check_share
from ..errors import InputError
from ..extras import required
from ..models.interface import Network
from . import classes, effects, networks, parameters, runtime, scores
from .best_epoch import BestEpoch
from .changing import Changing
from .constants import counted
from .history import EpochRow
from .learner import make_learner, make_sampler
from .pace import PROBE, Pace
from .recipe import Recipe
from .run_state import RunState
from .scores import Answers

T = TypeVar("T")
AGREED = 10  # steps after which several processes, whose clocks differ, agree again on the end of the run
DIVERGED = (
    "lower optimizer.lr, or clip gradients with optimizer.clip. The last good state and the best network so "
    "far are kept"
)


class Trainer:
    """A run in memory: what learns, on which images, and where it is.

    resumed: the path of a state and the state itself, if the run goes on from it. began: when this process
    began with the run, by `time.monotonic`; now unless given.
    Raises InputError for a recipe that does not fit the images or the machine, and for a state of another
    recipe or of other images.
    """

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        folder: Path,
        *,
        resumed: tuple[Path, dict[str, Any]] | None = None,
        began: float | None = None,
    ) -> None:
        self.began = time.monotonic() if began is None else began
        effects.check(recipe, task)
        if resumed is not None:
            _refuse_another(resumed[1], resumed[0], recipe, task)
        self.recipe, self.task = recipe, task
        run = recipe.run
        self.accelerator = runtime.accelerator(recipe, folder)
        self.format = runtime.memory_format(recipe)
        self.order = make_sampler(recipe, task, self.accelerator)
        self.whole = run.epochs * self.order.steps  # steps, unless a budget of time ends it earlier
        self.learner = make_learner(
            recipe, task, self.accelerator, self.order.steps, resumed=resumed[1] if resumed else None
        )
        if not recipe.data.labels and self.learner.guide is not None:
            task = self.task = classes.answered(task, recipe, self.learner.guide, self.learner.template)
        card = networks.data_config(self.learner.template, recipe.data.input_size)
        self.loader = train_loader(
            task.train, train_transform(card, recipe.augment), self.order,
            seed=run.seed, workers=recipe.data.workers, cache=recipe.data.cache,
        )  # fmt: skip
        self.val_loader = self._in_order(task.val, cache=recipe.data.cache)
        self.at = RunState(total=self.whole)
        self.pace = Pace(
            self.order.steps, self.order.batch_size, len(task.val), len(task.test or ()), run.validate_every,
            taught=self._measures_teacher, explained=counted(self.learner.template, task.val),
        )  # fmt: skip
        metric = scores.to_watch(run.monitor, self.learner.template.num_classes, task.multilabel)
        self.changing = None
        if recipe.conversion.changes:
            learning, ema = self.learner.weights.bare, self.learner.ema
            self.changing = Changing(
                recipe.conversion, learning, epochs=run.epochs, steps=self.order.steps,
                average=None if ema is None else ema.module,
            )  # fmt: skip
        self.best = BestEpoch(metric, scores.DIRECTION[metric], run.patience)
        if resumed is not None:
            self._restore(resumed[1], resumed[0])

    @property
    def finished(self) -> bool:
        return self.at.done >= self.at.total or self.at.stopped

    @property
    def at_end_of_epoch(self) -> bool:
        return self.at.done % self.order.steps == 0 or self.at.done >= self.at.total

    @property
    def number(self) -> int:
        """The epoch that the newest step belongs to, from 1; 0 before the first step."""
        return math.ceil(self.at.done / self.order.steps)

    @property
    def spent(self) -> float:
        """Seconds that the run has taken, before and after resuming."""
        return self.at.seconds + time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds to the end, as far as is known; nan before the first step."""
        return self.pace.left(self.at.done, self.at.total)

    @property
    def _in_whole(self) -> int:
        """Where a run of all steps would be: a shorter one has the same schedule."""
        return self.at.done * self.whole // self.at.total

    def describe(self) -> str:
        task, order = self.task, self.order
        number = self.accelerator.num_processes
        several = f"; {number} processes" if number > 1 else ""
        if self.learner.apart:
            several += f"; {len(self.learner.apart)} norms of torch's do not meet over processes"
        return (
            f"{len(task.train)} images for training, {task.said()}; "
            f"{order.steps} steps of {order.batch_size} an epoch{several}"
        )

    def epoch(self) -> Iterator[float]:
        """Train to the end of the epoch; yields the loss of each step."""
        steps, pieces = self.order.steps, self.recipe.run.accumulate
        self.order.set_position(*divmod(self.at.done, steps))
        parameters.set_training(self.learner.weights.bare)
        began = time.monotonic()
        batches = iter(self.loader)  # starts the processes that load images, which is part of the first step
        first = True
        while True:
            loss = self._step([next(batches) for _ in range(pieces)])
            self.pace.stepped(time.monotonic() - began)
            # The first step of an epoch knows what the end of the one before took.
            self._keep_to_budget(plan=self.pace.measured == PROBE or (first and self.pace.measured > PROBE))
            yield loss
            if self.at_end_of_epoch:
                return
            began, first = time.monotonic(), False

    def _plan_again(self) -> None:
        if self.pace.measured > 1:  # the first step alone, in which things are compiled, is no measure
            self._keep_to_budget(plan=True)

    def _keep_to_budget(self, *, plan: bool) -> None:
        """End the run where its time is used up; one that has come to its end stays there.

        plan: anew, how many steps fit into what is left of it.
        """
        minutes, at, pace = self.recipe.run.minutes, self.at, self.pace
        if minutes is None or at.done >= at.total:
            return
        several = self.accelerator.num_processes > 1
        if several and not plan and at.done % AGREED:
            return
        total = pace.planned(60 * minutes - self.spent, at.done, at.total, self.whole, anew=plan)
        if several:
            (total,) = required("accelerate.utils", "accelerate", "train").broadcast_object_list([total])
        at.total = total

    def _step(self, pieces: list[Batch]) -> float:
        """One optimiser step on the pieces of a batch; the mean loss over all processes."""
        recipe, accelerator, learner = self.recipe, self.accelerator, self.learner
        place = (recipe.run.seed, self.at.done, accelerator.process_index)
        seeds.seed_all(*place)
        torch.manual_seed(seeds.mix(*place))  # on all devices, because dropout draws there
        learner.set_rates(self._in_whole)
        if self.changing is not None:
            self.changing.before(self._in_whole)
        total = torch.zeros((), device=accelerator.device)
        for left, piece in zip(reversed(range(len(pieces))), pieces, strict=True):
            self._fail(piece.failed)
            x, y = piece.images.to(accelerator.device, memory_format=self.format), piece.labels
            y = y.to(accelerator.device)
            if learner.mixup is not None:
                x, y = learner.mixup(x, y)
            # Gradients are exchanged only with the last piece.
            with accelerator.no_sync(learner.weights.called) if left else contextlib.nullcontext():
                loss = learner.loss(x, y) / len(pieces)
                accelerator.backward(loss)
            total += loss.detach()
        value = float(accelerator.reduce(total, "mean"))
        if not torch.tensor(value).isfinite():
            raise InputError(f"the loss became {value} at step {self.at.done}; {DIVERGED}")
        if recipe.optimizer.clip is not None:
            accelerator.unscale_gradients()
            learner.weights.clip(recipe.optimizer.clip, recipe.optimizer.clip_mode)
        learner.weights.step(learner.optimizer)
        learner.optimizer.zero_grad()
        self.at.step(value)
        if self.changing is not None:
            self.at.constants = self.changing.after(self._in_whole, self.at.constants)
        if learner.ema is not None and self.at.done % recipe.optimizer.ema_every == 0:
            learner.ema.update(learner.weights, self.at.done // recipe.optimizer.ema_every)
        return value

    def check_weights(self) -> None:
        """Raise InputError if weights are no longer numbers, which the loss shows one step later only."""
        weights, learning = self.learner.weights.state_dict(), dict(self.learner.template.named_parameters())
        if not all(value.isfinite().all() for name, value in weights.items() if name in learning):
            raise InputError(f"the weights became NaN or infinite at step {self.at.done}; {DIVERGED}")

    def _fail(self, images: list[str]) -> None:
        """Count images that could not be read. Raises UnreadableError if they are too many."""
        if images:
            self.at.fail(images)
            total = len(self.task.train) + len(self.task.val) + len(self.task.test or ())
            check_share(tuple(self.at.failed), total, self.recipe.data.bad_share)

    def close_epoch(self, seconds: float, steps: int) -> EpochRow:
        """Measure the epoch that ended, and validate if the recipe says so; returns the row, also in `at`.

        seconds: how long the last `steps` steps took: those since the start of the epoch or of a resumed run.
        """
        at, run = self.at, self.recipe.run
        number = self.number
        self._fail(_gathered(at.failed))  # the share is over all processes
        groups = self.learner.optimizer.param_groups
        row: EpochRow = {
            "epoch": number,
            "step": at.done,
            "lr": max(group["lr"] / group.get("lr_scale", 1) for group in groups),
            "train_loss": sum(at.losses) / len(at.losses),
        }
        # Whether the run ends here must be known before the epoch is judged: the last one always is. One that
        # is judged may still be the last, now that it is known what judging takes.
        self._plan_again()
        if number % run.validate_every == 0 or at.done >= at.total:
            row |= self._judge(number)
            self._plan_again()
        row |= {
            "seconds": seconds,
            "images_per_second": steps * self.order.batch_size / seconds,
            "unreadable": len(self.task.unreadable) + len(at.failed),
        }
        at.rows.append(row)
        at.losses, at.best, at.stopped = [], self.best.state_dict(), self.best.stop
        return row

    def measure_start(self) -> EpochRow:
        """Validate the network before its first step, as epoch 0; returns the row, also in `at`."""
        began = time.monotonic()
        row: EpochRow = {"epoch": 0, "step": 0} | self._judge(0)
        row |= {"seconds": time.monotonic() - began, "unreadable": len(self.task.unreadable)}
        self.at.rows.append(row)
        self.at.best = self.best.state_dict()
        return row

    def _judge(self, number: int) -> EpochRow:
        """Validate the network as it is, and keep it if it is the best so far; its scores, for a row."""
        began = time.monotonic()
        network = self.learner.network()
        found = self.validate(network).scores
        self.pace.validated(time.monotonic() - began)
        if self.best.update(number, found[self.best.metric], found["loss"]) and self.recipe.run.keep_best:
            self.at.best_weights = {k: v.cpu().clone() for k, v in network.state_dict().items()}
        return {"val_loss" if name == "loss" else name: value for name, value in found.items()}

    @property
    def kept_epoch(self) -> int:
        """The epoch whose network is kept: the best so far or the last."""
        best = self.best.epoch if self.recipe.run.keep_best else None
        return self.number if best is None else best

    def kept(self) -> Network:
        """The network of the epoch that is kept, in eval mode."""
        if self.at.best_weights is None:
            return self.learner.network()
        network = networks.still(self.learner.template)
        network.load_state_dict(self.at.best_weights)
        return network

    def _in_order(self, samples: Samples, *, cache: bool) -> Iterable[Batch]:
        """The images of this process, each once."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        transform = networks.val_transform(self.learner.template)
        return val_loader(
            samples, transform, max(self.recipe.run.batch_size // processes, 1),
            rank=rank, processes=processes, workers=self.recipe.data.workers, cache=cache,
        )  # fmt: skip

    def validate(self, network: nn.Module) -> Answers:
        """What a network says about the validation images."""
        return self._measure(network, self.val_loader, "validation")

    def test(self, network: nn.Module) -> tuple[dict[str, float], int] | None:
        """Scores of a network on the test images, and how many were read; None if there is no such part."""
        if self.task.test is None:
            return None
        found = self._measure(network, self._in_order(self.task.test, cache=False), "the test")
        return found.scores, len(found.targets)

    def measure_teacher(self) -> dict[str, float] | None:
        """Scores of the teacher on the validation images; None without one that knows the classes.

        Nor are there any where its own answers are the labels.
        """
        if self.learner.guide is None or not self._measures_teacher:
            return None
        return self._measure(self.learner.guide.told, self.val_loader, "validation").scores

    @property
    def _measures_teacher(self) -> bool:
        guide, labels = self.learner.guide, self.recipe.data.labels
        return labels and guide is not None and guide.columns is not None

    @torch.no_grad()
    def _measure(self, network: Callable[[Tensor], Tensor], batches: Iterable[Batch], part: str) -> Answers:
        mine: list[tuple[Tensor, Tensor]] = []
        unread: list[str] = []
        known: list[bool] = []  # whether each image could be read
        for x, y, failed, read in batches:
            unread += failed
            known += read
            if not len(x):
                continue
            with self.accelerator.autocast():
                logits = network(x.to(self.accelerator.device, memory_format=self.format))
            mine.append((logits.float().cpu(), y))
        self._fail(_gathered(unread))  # on all processes alike: one that stopped alone would be waited for
        if not (found := _gathered(mine)):
            raise InputError(f"no image of {part} can be read; check the disk")
        logits, targets = (torch.cat(each) for each in zip(*found, strict=True))
        device = self.accelerator.device
        loss = float(self.learner.criterion(logits.to(device), targets.to(device)))
        # Each process has the next part of the images, so what is gathered is in their order.
        indices = torch.tensor(_gathered(known)).nonzero()[:, 0]
        found_scores = {"loss": loss} | scores.scores(logits, targets, self.task.multilabel)
        return Answers(found_scores, logits, targets, indices)

    def state(self) -> dict[str, Any]:
        """Everything needed to resume the run."""
        learner, scaler = self.learner, self.accelerator.scaler
        position = self.at.state_dict() | {"seconds": self.spent}
        return {
            "recipe": runtime.deciding(self.recipe, self.task),
            "images": self.task.state(),
            "model": learner.weights.state_dict(),
            "ema": learner.ema.module.state_dict() if learner.ema else None,
            "optimizer": learner.weights.optimizer_state(learner.optimizer),
            "sizes": learner.sizes,
            "scaler": scaler.state_dict() if scaler else None,
            "position": position,
            "pace": self.pace.state_dict(),
        }

    def _restore(self, state: dict[str, Any], where: Path) -> None:
        learner = self.learner
        try:
            learner.weights.load(state["model"], learner.optimizer, state["optimizer"])
        except ValueError as error:
            if not self.recipe.optimizer.relative or state.get("sizes") is not None:
                raise
            raise InputError(
                f"{where} is of an older version, and does not say the sizes of weights that the rates are "
                "relative to; start anew, in another folder"
            ) from error
        if learner.ema is not None:
            learner.ema.module.load_state_dict(state["ema"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        position: dict[str, Any] = {"total": self.whole} | state["position"]  # older states have no total
        if self.changing is not None and "constants" not in position:  # nor this, which followed the steps
            position["constants"] = self.changing.left(position["done"])
        self.at = RunState(**position)
        self.pace.load_state_dict(state.get("pace", {}))
        if self.at.best is not None:
            self.best.load_state_dict(self.at.best)


def _refuse_another(state: dict[str, Any], where: Path, recipe: Recipe, task: Task) -> None:
    """Raise InputError if a state belongs to another recipe or to other images."""
    asked, known = runtime.deciding(recipe, task), state["recipe"]
    before = {key: known[key] if key in known else _default(recipe, key) for key in asked}
    if changed := sorted(key for key in asked if before[key] != asked[key]):
        raise InputError(
            f"{where} is of a run with another {', '.join(changed)}; resume with the same, or start anew"
        )


def _default(recipe: Recipe, key: str) -> Any:
    """The value of a key that a state does not have: it is from before there was such a key."""
    return effects.default_of(recipe, key) if "." in key else None


def _gathered(mine: list[T]) -> list[T]:
    """The items of all processes, on each of them."""
    found: list[T] = required("accelerate.utils", "accelerate", "train").gather_object(mine)
    return found
