"""A recipe's optimiser and schedule, made by timm."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn

from .._compat import muon_in_float32
from ..errors import InputError
from . import parameters
from .recipe import Optimizer


def make_optimizer(
    model: nn.Module, part: Optimizer, sizes: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """The optimiser for the weights of a model that learn. sizes: as `parameters.groups` takes them.

    Raises InputError if timm has no such one, and for relative rates of one whose steps are relative by
    themselves.
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
    if part.relative and not _is_absolute(part):
        raise InputError(
            f"optimizer.relative=true with optimizer.name={part.name!r}, whose steps depend on a weight's "
            "size or shape already, and would be scaled twice; set optimizer.relative=false, or take adam"
        )
    return optimizer


def _is_absolute(part: Optimizer) -> bool:
    """Whether the first step from like gradients is as long for large and for small weights of any shape.

    Lamb multiplies it by the norm of the weight, but timm's only where weights decay; Muon, unless it is told
    otherwise, makes it as long as Adam's. There are over a hundred optimisers, and `args` and versions change
    what they do: so it is tried, with one weight at a time.
    """
    weights = (((8, 8), 1.0), ((8, 8), 16.0), ((8, 128), 1.0))
    steps = [_first_step(part, shape, size) for shape, size in weights]
    return max(steps) <= 2 * min(steps)


def _first_step(part: Optimizer, shape: tuple[int, int], size: float) -> float:
    """How far a weight moves, as a root mean square. size: its own."""
    drawn = torch.Generator().manual_seed(0)
    weight = nn.Parameter(size * torch.randn(shape, generator=drawn))
    before: Tensor = weight.detach().clone()
    weight.grad = torch.randn(shape, generator=drawn)
    # Some are relative only where weights decay; that the weight itself decays is not what is asked here.
    group = {"params": [weight], "weight_decay": 1e-8 if part.weight_decay else 0.0}
    optimizer = create_optimizer_v2([group], opt=part.name, lr=1e-2, **part.args)
    optimizer.step()
    return float((weight.detach() - before).square().mean().sqrt())


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
