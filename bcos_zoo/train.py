"""Training from a TOML file, resumable to the bit: each random draw is a function of seed and step."""

from __future__ import annotations

import csv
import json
import sys
import time
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2, muon
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn

from . import data, state_dicts
from .errors import InputError
from .files import replacing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a run is made of; a TOML file in `configs/` gives these keys and no others."""

    model: str
    epochs: int
    batch_size: int = 128
    optimizer: str = "adam"  # any of timm's
    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup_epochs: float = 0.0
    min_lr: float = 0.0
    clip: float | None = None
    clip_mode: str = "agc"  # adaptive gradient clipping, or timm's "norm", "value"
    off_label: float = 0.0  # target of the classes that are not shown; the published ImageNet recipe has 1/C
    shift: int = 4
    ema_decay: float | None = None
    seed: int = 42
    compile: bool = True
    channels_last: bool = False
    autocast: bool = False  # bfloat16; pays only where the processor multiplies it in hardware
    validate_epochs: int = 1  # validate after every so many epochs, and after the last
    save_minutes: float = 5.0


def read_config(path: str | Path) -> TrainConfig:
    """Read a TOML file. Raises InputError if it is missing, broken, or has unknown or too few keys."""
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a TOML file such as those in configs/") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    known = {field.name for field in fields(TrainConfig)}
    if unknown := raw.keys() - known:
        raise InputError(f"{path}: unknown keys {sorted(unknown)}; known: {', '.join(sorted(known))}")
    if missing := {"model", "epochs"} - raw.keys():
        raise InputError(
            f"{path}: {', '.join(sorted(missing))} not given; a run needs at least model and epochs"
        )
    return TrainConfig(**raw)


def off_label_bce(logits: Tensor | tuple[Tensor, ...], labels: Tensor, off: float) -> Tensor:
    """Mean binary cross-entropy against 1 for the label and `off` for every other class.

    logits: (N, C); or several of them, those of auxiliary heads, whose losses are added.
    labels: (N,) indices. Boehle et al. 2024, section 4 (with off = 1/C).
    """
    if isinstance(logits, tuple):
        return torch.stack([off_label_bce(one, labels, off) for one in logits]).sum()
    logits = logits.float()
    targets = F.one_hot(labels, logits.shape[1]).to(logits.dtype).clamp_min(off)
    return F.binary_cross_entropy_with_logits(logits, targets)


@torch.no_grad()
def accuracy(model: nn.Module, images: data.ImageSet, batch_size: int = 500) -> float:
    """Top-1 accuracy in percent over the whole set."""
    was = model.training
    model.eval()
    right = 0
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        predicted = model(images.images[batch].float() / 255).argmax(1)
        right += int((predicted == images.labels[batch]).sum())
    model.train(was)
    return 100 * right / len(images)


def train(
    config: TrainConfig, root: str | Path, run: str | Path, *, resume: bool = False, log: Any = print
) -> Path:
    """Train on `root/train`, validate on `root/val` after each epoch, and write `run/model.safetensors`.

    The run folder also gets `last.pt` (what `resume` continues from), `metrics.csv` and `config.json`. A run
    that was interrupted and resumed ends with the same bits as one that was not, on the same machine.
    Raises InputError if the run folder holds a run already and `resume` is not asked for, or vice versa.
    """
    run = Path(run)
    last = run / "last.pt"
    if last.exists() and not resume:
        raise InputError(f"{run} holds a run already; continue it with --resume or give another folder")
    size = timm.get_pretrained_cfg(config.model).input_size[-1]
    train_set, val_set = (data.load_in_memory(Path(root) / split, size) for split in ("train", "val"))
    if train_set.class_names != val_set.class_names:
        raise InputError(f"{root}: the classes of train and val differ; give both the same sub-folders")
    steps = len(train_set) // config.batch_size
    if steps == 0:
        raise InputError(
            f"{len(train_set)} images do not fill a batch of {config.batch_size}; lower batch_size"
        )

    torch.manual_seed(config.seed)
    model = timm.create_model(config.model, num_classes=len(train_set.class_names))
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    model = model.to(memory_format=memory_format)
    ema = ModelEmaV3(model, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
    if "muon" in config.optimizer:
        _orthogonalize_in_float32()
    optimizer = create_optimizer_v2(
        model, opt=config.optimizer, lr=config.lr, weight_decay=config.weight_decay
    )
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=config.epochs,
        warmup_epochs=config.warmup_epochs,
        min_lr=config.min_lr,
        warmup_lr=config.lr / 100,
        warmup_prefix=True,
        step_on_epochs=False,
        updates_per_epoch=steps,
    )
    forward = torch.compile(model) if config.compile else model

    done, loss_sum = 0, 0.0
    history: list[dict[str, float]] = []
    run.mkdir(parents=True, exist_ok=True)
    if resume:
        done, loss_sum, history = _restore(last, config, model, ema, optimizer)
        log(f"resumed at step {done} of {config.epochs * steps}")
    with replacing(run / "config.json") as temporary:
        temporary.write_text(json.dumps(asdict(config), indent=2))

    saved = started = time.monotonic()
    model.train()
    while done < config.epochs * steps:
        epoch, step = divmod(done, steps)
        order = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(config.seed + epoch))
        picked = order[step * config.batch_size : (step + 1) * config.batch_size]
        torch.manual_seed(config.seed * 1_000_003 + done)
        x = data.shift_and_flip(train_set.images[picked], config.shift).float() / 255
        scheduler.step_update(done)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.autocast):
            logits = forward(x.contiguous(memory_format=memory_format))
        loss = off_label_bce(logits, train_set.labels[picked], config.off_label)
        if not loss.isfinite():
            raise InputError(
                f"the loss became {loss.item()} at step {done}; lower lr. The last good state is {last}"
            )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        if config.clip is not None:
            dispatch_clip_grad(model.parameters(), config.clip, mode=config.clip_mode)
        optimizer.step()
        if ema is not None:
            ema.update(model, done)
        done, loss_sum = done + 1, loss_sum + loss.item()

        if done % steps == 0:
            row = {"epoch": epoch + 1, "lr": optimizer.param_groups[0]["lr"], "loss": loss_sum / steps}
            if (epoch + 1) % config.validate_epochs == 0 or done == config.epochs * steps:
                row["top1"] = accuracy(ema.module if ema is not None else model, val_set)
            history, loss_sum = [*history, row], 0.0
            log(
                " ".join(f"{key} {value:.5g}" for key, value in row.items())
                + f" {time.monotonic() - started:.0f} s"
            )
            _write_metrics(run / "metrics.csv", history)
        if done % steps == 0 or time.monotonic() - saved > 60 * config.save_minutes:
            _save(last, config, model, ema, optimizer, done, loss_sum, history)
            saved = time.monotonic()

    final = ema.module if ema is not None else model
    state_dicts.save(final.state_dict(), run / "model.safetensors")
    return run / "model.safetensors"


def _orthogonalize_in_float32() -> None:
    """Make timm's Muon iterate in float32: it is set to bfloat16, which many processors only emulate."""
    if not isinstance(muon.zeropower_via_newtonschulz, partial):
        muon.zeropower_via_newtonschulz = partial(muon.zeropower_via_newtonschulz, dtype=torch.float32)


def _save(
    path: Path,
    config: TrainConfig,
    model: nn.Module,
    ema: ModelEmaV3 | None,
    optimizer: torch.optim.Optimizer,
    done: int,
    loss_sum: float,
    history: list[dict[str, float]],
) -> None:
    state = {
        "config": asdict(config),
        "model": model.state_dict(),
        "ema": ema.module.state_dict() if ema else None,
        "optimizer": optimizer.state_dict(),
        "done": done,
        "loss_sum": loss_sum,
        "history": history,
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def _restore(
    path: Path,
    config: TrainConfig,
    model: nn.Module,
    ema: ModelEmaV3 | None,
    optimizer: torch.optim.Optimizer,
) -> tuple[int, float, list[dict[str, float]]]:
    if not path.exists():
        raise InputError(f"{path}: nothing to resume; start the run without --resume")
    state = torch.load(path, weights_only=True)
    if state["config"] != asdict(config):
        changed = sorted(key for key, value in asdict(config).items() if state["config"].get(key) != value)
        raise InputError(
            f"{path} was made with another config ({', '.join(changed)}); resume with the same one"
        )
    model.load_state_dict(state["model"])
    if ema is not None:
        ema.module.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    return state["done"], state["loss_sum"], state["history"]


def _write_metrics(path: Path, history: list[dict[str, float]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "lr", "loss", "top1"])
        writer.writeheader()
        writer.writerows(history)
