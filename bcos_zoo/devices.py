"""Where a network computes: the device that a person names, and the one that holds a model."""

from __future__ import annotations

import os
from itertools import chain

import torch
from torch import Tensor, nn

from .errors import InputError

ALLOWED = "auto, cpu, cuda, cuda:N, mps"


def choose(name: str | torch.device = "auto") -> torch.device:
    """The device of that name, if this machine has it.

    name: "auto" (the accelerator that torch finds, else the CPU), "cpu", "cuda", "cuda:1", "mps", or another
    accelerator that this torch was built for. Without a number, it is the current device of its kind.
    Raises InputError for any other name, and for a device that this machine does not have.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return torch.device("cpu") if accelerator is None else _own_of_process(accelerator.type)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"no device is called {str(name)!r}; allowed are {ALLOWED}") from None
    if device.type == "cpu" and not device.index:
        return torch.device("cpu")
    kinds = [accelerator.type] if accelerator is not None else []
    if device.type not in kinds:
        here = ", ".join(["cpu", *kinds])
        if device.type in ("cpu", "meta"):
            raise InputError(f"no device is called {str(name)!r}; allowed are {ALLOWED}; here: {here}")
        raise InputError(
            f"{name} was asked for, and torch finds no {device.type} device on this machine; here: {here}. "
            "Leave out --device, or install a torch and a driver for it"
        )
    count = torch.accelerator.device_count()
    if device.index is not None and device.index >= count:
        found = ", ".join(f"{device.type}:{i}" for i in range(count))
        raise InputError(
            f"{name} was asked for, and this machine has {count} of the kind; here: cpu, {found}"
        )
    return device if device.index is not None else _own_of_process(device.type)


def _own_of_process(kind: str) -> torch.device:
    """The current device of a kind; processes that torchrun started have one each."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is None:
        return torch.device(kind)
    return torch.device(kind, int(rank) % torch.accelerator.device_count())


def place_of(model: nn.Module) -> Tensor | None:
    """A tensor that shows the device and the precision of a model; None if the model has none.

    It is the first floating-point parameter or, without such parameters, buffer.
    """
    tensors = chain(model.parameters(), model.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


def moved(x: Tensor, model: nn.Module) -> Tensor:
    """`x` on the device and in the precision of the model; unchanged if the model holds no numbers."""
    own = place_of(model)
    return x if own is None else x.to(own.device, own.dtype)
