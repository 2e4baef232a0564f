"""A recipe's optimiser and schedule, made by timm."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn

from .._compat import muon_in_float32
from ..errors import InputError
from . import parameters
from .recipe import Optimizer


def make_optimizer(
    model: nn.Module, part: Optimizer, sizes: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """The optimiser for the weights of a model that learn. sizes: as `parameters.groups` takes them.

    Raises InputError if timm has no such one.
    """
    groups = parameters.groups(
        model,
        lr=part.lr,
        head_lr=part.head_lr,
        weight_decay=part.weight_decay,
        layer_decay=part.layer_decay,
        relative=part.relative,
        sizes=sizes,
    )
    if "muon" in part.name and next(model.parameters()).device.type == "cpu" and not _has_bfloat16():
        muon_in_float32()
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(groups, opt=part.name, lr=part.lr, **part.args)
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(f"optimizer.name={part.name!r}, args={part.args}: {error}") from error
    return optimizer


def make_schedule(
    optimizer: torch.optim.Optimizer, part: Optimizer, *, epochs: int, steps: int
) -> Callable[[int], None]:
    """A function that sets the learning rates for a step, by its number in the run. steps: per epoch.

    Raises InputError if timm does not know the schedule, or the warm-up is as long as the run.
    """
    if part.warmup_epochs >= epochs and part.warmup_epochs:
        raise InputError(f"optimizer.warmup_epochs={part.warmup_epochs} of {epochs} epochs; give fewer")
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=part.schedule,
            num_epochs=epochs - part.warmup_epochs,  # timm counts the warm-up's epochs separately
            warmup_epochs=part.warmup_epochs,
            warmup_lr=part.lr * part.warmup_factor,
            warmup_prefix=True,
            min_lr=part.min_lr,
            decay_milestones=list(part.milestones),
            decay_epochs=part.decay_epochs,
            decay_rate=part.decay_rate,
            step_on_epochs=part.by_epoch,
            updates_per_epoch=steps,
        )
    except ValueError as error:
        raise InputError(f"optimizer.schedule={part.schedule!r}: {error} Give one of timm's") from error

    def set_rates(done: int) -> None:
        if scheduler is None:
            for group in optimizer.param_groups:  # as timm's schedules do
                group["lr"] = part.lr * group.get("lr_scale", 1.0)
            return
        if part.by_epoch:
            scheduler.step(done // steps)
        else:
            scheduler.step_update(done)

    return set_rates


def _has_bfloat16() -> bool:
    """Whether the processor is known to multiply in bfloat16 natively."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
