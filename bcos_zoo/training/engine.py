"""The training engine: one loop for fine-tuning and for training from nothing, over accelerate.

Each random draw is a function of the seed and of where in the run it happens, so no generator's state is
kept: a run that was killed and resumed ends with the same bits as one that was not, on the CPU at least.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..data import (
    Batch,
    Samples,
    SeededBatchSampler,
    Task,
    make_mixup,
    seeds,
    train_loader,
    train_transform,
    val_loader,
)
from ..data.scan import check_share
from ..errors import InputError
from ..extras import required
from ..layers import synchronise_norms
from . import effects, networks, parameters, runs, runtime, scores, states
from .best_epoch import BestEpoch
from .history import EpochRow
from .losses import make_loss
from .network_folder import refuse_another
from .optimization import make_optimizer, make_schedule
from .recipe import Recipe
from .records import Records
from .run_state import RunState
from .sharding import Sharded, Whole
from .snapshots import why_none

T = TypeVar("T")
Log = Callable[[str], None]
Progress = Callable[[int, int, float], None]  # steps done, steps of the run, loss


def train(
    recipe: Recipe,
    task: Task,
    folder: str | Path,
    *,
    resume: bool = False,
    source: str | None = None,
    log: Log = print,
    progress: Progress = lambda done, total, loss: None,
) -> Result:
    """Train as a recipe says, on the images of a task, and leave everything in a folder.

    The folder gets states to resume from, and, after each epoch, metrics, curves, pictures of explanations
    and the network so far, as `bcos_zoo.load` and `timm.create_model("local-dir:FOLDER")` take it.
    resume: go on from the newest state. source: what the network's card calls the images.
    log: gets a line an epoch. progress: called after each step. Of several processes the first one alone
    calls them.

    Raises InputError if the folder holds a run already and `resume` is not asked for, or the other way round;
    for a recipe that does not fit the images; if the loss is no number any more, memory runs out, the disk is
    full, or too many images cannot be read. What was saved before stays.
    """
    folder = Path(folder)
    alone = runs.claimed(folder) if runtime.is_main() else contextlib.nullcontext()
    with runtime.leaving_no_trace(), alone, runtime.explaining_memory(recipe):
        found = states.newest(folder)
        if found and not resume:
            raise InputError(
                f"{folder} holds a run already; continue it with --resume or give another folder"
            )
        if resume and not found:
            raise InputError(f"{folder} holds no state to resume from; start the run without --resume")
        if not found and runtime.is_main():
            refuse_another(folder)
        if found:
            task = task.as_before(found[1].get("images", {}), found[0])
        trainer = Trainer(recipe, task, folder)
        if found:
            trainer.restore(found[1], found[0])
        return _run(trainer, folder, source, log, progress)


def _run(trainer: Trainer, folder: Path, source: str | None, log: Log, progress: Progress) -> Result:
    """Train to the end. Of several processes the first one writes, and all take the same turns."""
    run, at, accelerator = trainer.recipe.run, trainer.at, trainer.accelerator
    records = None
    if runtime.is_main():
        records = Records(folder, trainer.recipe, trainer.task, trainer.outputs, source)
    accelerator.init_trackers("bcos_zoo", config=runtime.plain(trainer.recipe))
    clock = states.Clock(run.save_minutes, run.save_steps, at.done)

    def save() -> None:
        state = trainer.state()
        if records is not None:
            states.save(folder, state, at.done, keep=run.keep)
        clock.saved(at.done)

    if records is not None:
        log(f"resumed at step {at.done} of {trainer.total}" if at.done else trainer.describe())
        if run.snapshots and (why := why_none(trainer.network)):
            log(why)
    while not trainer.finished:
        began, first = time.monotonic(), at.done
        for loss in trainer.epoch():
            if records is not None:
                progress(at.done, trainer.total, loss)
            due = trainer.weights.agreed(clock.due(at.done))
            if due and not trainer.at_end_of_epoch:  # there, a state holds its scores
                save()
        row = trainer.close_epoch(time.monotonic() - began, at.done - first)
        now, best = trainer.current(), trainer.kept()  # on every process: their weights may be shared out
        accelerator.log({key: value for key, value in row.items() if key != "epoch"}, step=row["epoch"])
        if records is not None:
            log(" ".join(f"{key} {value:.5g}" for key, value in row.items()))
            records.epoch(at.rows, now, best, at.failed)
        save()
    network = trainer.kept()
    found, logits, targets = trainer.validate(network)
    tested = trainer.test(network)  # once, when nothing is left to choose
    if tested is not None:
        accelerator.log({f"test_{name}": value for name, value in tested.items()}, step=trainer.kept_epoch)
    accelerator.end_training()
    if records is not None:
        for part, of in {"validation": found, "test": tested}.items():
            if of is not None:
                said = " ".join(f"{name} {value:.5g}" for name, value in of.items())
                log(f"{part}, network of epoch {trainer.kept_epoch}: {said}")
        records.end(at.rows, network, trainer.kept_epoch, found, logits, targets, tested)
    unreadable = len(trainer.task.unreadable) + len(at.failed)
    return Result(folder, int(at.rows[-1]["epoch"]), trainer.kept_epoch, found, unreadable, tested)


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    folder: Path
    epochs: int  # trained, before and after resuming
    best_epoch: int  # the one whose network was kept
    scores: dict[str, float]  # of that network, on the validation images, which may have chosen it
    unreadable: int  # images left out, or replaced while training
    test: dict[str, float] | None = None  # on the test images, which chose nothing; None without a test part


class Trainer:
    """A run in memory: the network, how it learns, and where it is."""

    def __init__(self, recipe: Recipe, task: Task, folder: Path) -> None:
        effects.check(recipe, task)
        self.recipe, self.task = recipe, task
        run, data = recipe.run, recipe.data
        self.accelerator = runtime.accelerator(recipe, folder)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        self.format = torch.channels_last if run.channels_last else torch.contiguous_format

        torch.manual_seed(run.seed)
        model, self.outputs = networks.build(recipe, task)
        logits = model.num_classes
        parameters.freeze(model, recipe.model.train)
        if recipe.model.pretrained:
            parameters.to_unit_rows(model)
        self.apart: list[str] = []  # norms whose statistics stay those of one process
        if run.synchronise and processes > 1:
            self.apart = synchronise_norms(model)
        kept_as = torch.contiguous_format if run.shard else self.format  # FSDP takes no other
        model = model.to(self.accelerator.device, memory_format=kept_as)
        decay = recipe.optimizer.ema_decay
        self.ema = ModelEmaV3(model, decay=decay, use_warmup=True) if decay else None
        self.network = self.ema.module if self.ema else networks.still(model)  # what is validated and kept
        card = networks.data_config(model, data.input_size)

        self.order = SeededBatchSampler(
            len(task.train), run.batch_size, seed=run.seed, rank=rank, processes=processes,
            accumulate=run.accumulate, weights=task.draw_weights() if data.balanced else None,
            repeats=recipe.augment.repeats,
        )  # fmt: skip
        self.loader = train_loader(
            task.train, train_transform(card, recipe.augment), self.order,
            seed=run.seed, workers=data.workers, cache=data.cache,
        )  # fmt: skip
        self.val_loader = self._in_order(task.val, cache=data.cache)
        weighted = recipe.loss.class_weights != "none"
        counts = task.class_counts() if weighted else None
        self.criterion = make_loss(recipe.loss, logits, task.multilabel, counts)
        self.criterion.to(self.accelerator.device)
        self.mixup = make_mixup(recipe.augment, len(task.class_names), multilabel=task.multilabel)

        self.weights = (Sharded if run.shard else Whole)(self.accelerator, model)
        optimizer = make_optimizer(model, recipe.optimizer)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.model = self.weights.called
        self.forward = torch.compile(self.model) if run.compile else self.model
        self.set_rates = make_schedule(optimizer, recipe.optimizer, epochs=run.epochs, steps=self.order.steps)
        self.total = run.epochs * self.order.steps
        self.at = RunState()
        metric = scores.to_watch(run.monitor, logits, task.multilabel)
        self.best = BestEpoch(metric, scores.DIRECTION[metric], run.patience)

    @property
    def finished(self) -> bool:
        return self.at.done >= self.total or self.at.stopped

    @property
    def at_end_of_epoch(self) -> bool:
        return self.at.done % self.order.steps == 0

    def describe(self) -> str:
        task, order = self.task, self.order
        number = self.accelerator.num_processes
        several = f"; {number} processes" if number > 1 else ""
        if self.apart:
            several += f"; {len(self.apart)} norms of torch's do not meet over processes"
        return (
            f"{len(task.train)} images to learn from, {task.said()}; "
            f"{order.steps} steps of {order.batch_size} an epoch{several}"
        )

    def epoch(self) -> Iterator[float]:
        """Train to the end of the epoch; yields the loss of each step."""
        steps, pieces = self.order.steps, self.recipe.run.accumulate
        self.order.set_position(*divmod(self.at.done, steps))
        parameters.set_training(self.weights.bare)
        batches = iter(self.loader)
        while True:
            yield self._step([next(batches) for _ in range(pieces)])
            if self.at_end_of_epoch:
                return

    def _step(self, pieces: list[Batch]) -> float:
        """One optimiser step on the pieces of a batch; the mean loss over all processes."""
        recipe, accelerator = self.recipe, self.accelerator
        place = (recipe.run.seed, self.at.done, accelerator.process_index)
        seeds.seed_all(*place)
        torch.manual_seed(seeds.mix(*place))  # of all devices: dropout draws there
        self.set_rates(self.at.done)
        total = torch.zeros((), device=accelerator.device)
        for left, piece in zip(reversed(range(len(pieces))), pieces, strict=True):
            self._fail(piece.failed)
            x, y = piece.images.to(accelerator.device, memory_format=self.format), piece.labels
            x, y = (x, y.to(accelerator.device)) if self.mixup is None else self.mixup(x, y.to(x.device))
            # Gradients are exchanged with the last piece alone.
            with accelerator.no_sync(self.model) if left else contextlib.nullcontext():
                loss = self.criterion(self.forward(x), y) / len(pieces)
                accelerator.backward(loss)
            total += loss.detach()
        value = float(accelerator.reduce(total, "mean"))
        if not torch.tensor(value).isfinite():
            raise InputError(
                f"the loss became {value} at step {self.at.done}; lower optimizer.lr, or clip gradients with "
                "optimizer.clip. The last good state and the best network so far are kept"
            )
        if recipe.optimizer.clip is not None:
            accelerator.unscale_gradients()
            self.weights.clip(recipe.optimizer.clip, recipe.optimizer.clip_mode)
        self.weights.step(self.optimizer)
        self.optimizer.zero_grad()
        self.at.step(value)
        if self.ema is not None and self.at.done % recipe.optimizer.ema_every == 0:
            self.ema.update(self.weights, self.at.done // recipe.optimizer.ema_every)
        return value

    def _fail(self, images: list[str]) -> None:
        """Count images that could not be read. Raises UnreadableError if they are too many."""
        if images:
            self.at.fail(images)
            total = len(self.task.train) + len(self.task.val) + len(self.task.test or ())
            check_share(tuple(self.at.failed), total, self.recipe.data.bad_share)

    def close_epoch(self, seconds: float, steps: int) -> EpochRow:
        """Measure the epoch that ended, and validate, if the recipe says so; the row of it, also in `at`.

        seconds: that its last so many steps took, those since the run was resumed.
        """
        at, run = self.at, self.recipe.run
        number = at.done // self.order.steps
        self._fail(_gathered(at.failed))  # the share is that of all processes
        row: EpochRow = {
            "epoch": number,
            "step": at.done,
            "lr": max(group["lr"] / group.get("lr_scale", 1) for group in self.optimizer.param_groups),
            "train_loss": sum(at.losses) / len(at.losses),
        }
        if number % run.validate_every == 0 or at.done >= self.total:
            found, _, _ = self.validate(self.current())
            row |= {"val_loss" if name == "loss" else name: value for name, value in found.items()}
            if self.best.update(number, found[self.best.metric], found["loss"]) and run.keep_best:
                at.best_weights = {k: v.cpu().clone() for k, v in self.network.state_dict().items()}
        row |= {
            "seconds": seconds,
            "images_per_second": steps * self.order.batch_size / seconds,
            "unreadable": len(self.task.unreadable) + len(at.failed),
        }
        at.rows.append(row)
        at.losses, at.best, at.stopped = [], self.best.state_dict(), self.best.stop
        return row

    @property
    def kept_epoch(self) -> int:
        """The epoch whose network is kept: the best so far, or the last."""
        best = self.best.epoch if self.recipe.run.keep_best else None
        return best or self.at.done // self.order.steps

    def kept(self) -> nn.Module:
        """The network of the epoch that is kept, in eval mode."""
        if self.at.best_weights is None:
            return self.current()
        network = networks.still(self.network)
        network.load_state_dict(self.at.best_weights)
        return network

    def current(self) -> nn.Module:
        """The network as it is now, in eval mode."""
        if self.ema is None:
            self.network.load_state_dict(self.weights.state_dict())
        return self.network.eval()

    def _in_order(self, samples: Samples, *, cache: bool) -> Iterable[Batch]:
        """Each image once, those of this process."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        return val_loader(
            samples, networks.val_transform(self.network), max(self.recipe.run.batch_size // processes, 1),
            rank=rank, processes=processes, workers=self.recipe.data.workers, cache=cache,
        )  # fmt: skip

    def validate(self, network: nn.Module) -> tuple[dict[str, float], Tensor, Tensor]:
        """Scores of a network on the validation images, its logits (M, C), and their targets."""
        return self._measure(network, self.val_loader)

    def test(self, network: nn.Module) -> dict[str, float] | None:
        """Scores of a network on the test images; None if there is no such part."""
        if self.task.test is None:
            return None
        found, _, _ = self._measure(network, self._in_order(self.task.test, cache=False))
        return found

    @torch.no_grad()
    def _measure(
        self, network: nn.Module, batches: Iterable[Batch]
    ) -> tuple[dict[str, float], Tensor, Tensor]:
        mine: list[tuple[Tensor, Tensor]] = []
        for x, y, failed in batches:
            self._fail(failed)
            with self.accelerator.autocast():
                logits = network(x.to(self.accelerator.device, memory_format=self.format))
            mine.append((logits.float().cpu(), y))
        logits, targets = (torch.cat(parts) for parts in zip(*_gathered(mine), strict=True))
        device = self.accelerator.device
        loss = float(self.criterion(logits.to(device), targets.to(device)))
        return {"loss": loss} | scores.scores(logits, targets, self.task.multilabel), logits, targets

    def state(self) -> dict[str, Any]:
        """All that the run goes on from."""
        scaler = self.accelerator.scaler
        return {
            "recipe": runtime.deciding(self.recipe, self.task),
            "images": self.task.state(),
            "model": self.weights.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizer": self.weights.optimizer_state(self.optimizer),
            "scaler": scaler.state_dict() if scaler else None,
            "position": self.at.state_dict(),
        }

    def restore(self, state: dict[str, Any], where: Path) -> None:
        """Go on from a state. Raises InputError if it is of another recipe, or of other images."""
        asked = runtime.deciding(self.recipe, self.task)
        if changed := sorted(key for key in asked if state["recipe"].get(key) != asked[key]):
            raise InputError(
                f"{where} is of a run with another {', '.join(changed)}; resume with the same, or start anew"
            )
        self.weights.load(state["model"], self.optimizer, state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.at = RunState(**state["position"])
        if self.at.best is not None:
            self.best.load_state_dict(self.at.best)


def _gathered(mine: list[T]) -> list[T]:
    """What all processes have, on each of them."""
    found: list[T] = required("accelerate.utils", "accelerate", "train").gather_object(mine)
    return found
