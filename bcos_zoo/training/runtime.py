"""Where a run runs: processes, precision, memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from .. import _compat, devices
from ..data import Task, seeds
from ..errors import InputError
from ..extras import required
from .recipe import Recipe

MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}  # accelerate's words
FREE = {  # keys that change neither weights nor scores
    *("data.workers", "data.cache", "data.check", "data.bad_share", "run.save_minutes", "run.save_steps"),
    *("run.keep", "run.trackers", "run.snapshots", "run.snapshot_every", "run.device"),
}


def accelerator(recipe: Recipe, folder: str | os.PathLike[str]) -> Any:
    """accelerate's object for this process, as `torchrun` or `accelerate launch` started it, or alone.

    Raises InputError for a device or a precision that the machine does not have, for accelerate's own FSDP,
    and if accelerate is missing.
    """
    device = devices.choose(recipe.run.device)
    named = recipe.run.device != "auto" and torch.device(recipe.run.device).index is not None
    if named and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError(
            f"run.device={recipe.run.device!r} is one device, but there are several processes, each "
            "with its own; "
            f"give {device.type!r}"
        )
    accelerate = required("accelerate", "accelerate", "train")
    # accelerate would keep the precision of a process's first run for all later ones.
    _compat.forget_precision()
    try:
        made = accelerate.Accelerator(
            cpu=device.type == "cpu",  # otherwise processes without a GPU would not be connected
            mixed_precision=MIXED[recipe.run.precision],
            log_with=list(recipe.run.trackers) or None,
            project_dir=os.path.join(folder, "trackers"),
        )
    except (ValueError, ImportError) as error:
        raise InputError(
            f"run.precision={recipe.run.precision!r}, trackers={list(recipe.run.trackers)}: {error}"
        ) from error
    if made.num_processes < (processes := int(os.environ.get("WORLD_SIZE", 1))):
        raise InputError(
            f"WORLD_SIZE={processes}, but accelerate found {made.num_processes} process; start them with "
            "torchrun or accelerate launch"
        )
    if recipe.run.device != "auto" and made.num_processes == 1:
        made.state.device = device  # by itself it takes the first one
    if absent := sorted(set(recipe.run.trackers) - {str(one.value) for one in made.log_with}):
        raise InputError(  # accelerate would go on without them
            f"run.trackers: {', '.join(absent)} cannot be imported; install it, or leave it out"
        )
    if str(made.distributed_type).endswith("FSDP"):
        raise InputError("launched with --use_fsdp; leave it out, and give --set run.shard=true instead")
    return made


@contextmanager
def leaving_no_trace() -> Iterator[None]:
    """Restore, after the block, what a run changes for the whole process.

    These are the random generators, the environment, warning filters, what accelerate keeps for all
    Accelerators of a process, and the function of timm's that `make_optimizer` replaces.
    """
    required("accelerate", "accelerate", "train")
    theirs = [(state, dict(state)) for state in _compat.accelerate_states()]
    environment, iteration = dict(os.environ), _compat.muon_iteration()
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    others = range(torch.accelerator.device_count()) if kind else ()
    of = kind.type if kind else "cuda"
    try:
        with seeds.kept(), torch.random.fork_rng(others, device_type=of), warnings.catch_warnings():
            yield
    finally:
        _compat.set_muon_iteration(iteration)
        for state, before in theirs:
            state.clear()
            state.update(before)
        for key in environment.keys() | os.environ.keys():  # one by one: other threads may read it meanwhile
            if key not in environment:
                del os.environ[key]
            elif os.environ.get(key) != environment[key]:
                os.environ[key] = environment[key]


def is_main() -> bool:
    """Whether this process, of those that torchrun or `accelerate launch` started, is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def plain(recipe: Recipe) -> dict[str, Any]:
    """The keys of a recipe, "table.key", with values that trackers accept."""
    scalar = (bool, int, float, str)
    return {key: value if isinstance(value, scalar) else str(value) for key, value in _flat(recipe).items()}


def _flat(recipe: Recipe) -> dict[str, Any]:
    return {f"{table}.{key}": value for table, part in asdict(recipe).items() for key, value in part.items()}


def deciding(recipe: Recipe, task: Task) -> dict[str, Any]:
    """All that decides how a run ends, as plain data: the recipe's keys, and which images."""
    kept = {key: value for key, value in _flat(recipe).items() if key not in FREE}
    return kept | {"set of images": task.fingerprint}


def memory_format(recipe: Recipe) -> torch.memory_format:
    """The memory format of a run's images."""
    return torch.channels_last if recipe.run.channels_last else torch.contiguous_format


@contextmanager
def explaining_memory(recipe: Recipe) -> Iterator[None]:
    """Turn an out-of-memory error into an InputError that says which batch to try."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        short = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(
            error
        )
        if not short:
            raise
        batch, pieces = recipe.run.batch_size, recipe.run.accumulate
        raise InputError(
            f"out of memory with batches of {batch} in {pieces} pieces; start anew, in another folder, with "
            f"--set run.accumulate={2 * pieces} or --set run.batch_size={max(batch // 2, 1)}"
        ) from error
