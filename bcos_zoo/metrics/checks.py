"""Checks of input that all metrics share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import InputError


def wide(values: Tensor) -> Tensor:
    """The same values, detached, in the widest floating-point type of the device."""
    return values.detach().to(torch.float32 if values.device.type == "mps" else torch.float64)


def check_values(name: str, values: Tensor, axes: str) -> None:
    """Raise InputError unless `values` are finite floats, at least one, with the named axes.

    axes: such as "(N, C)" or, if more axes may precede them, "(..., H, W)".
    """
    if not isinstance(values, Tensor):
        raise InputError(
            f"got {name} as {type(values).__name__}; allowed are tensors: torch.as_tensor() makes them of "
            "arrays, and an explanation has its maps in .contributions"
        )
    named = [axis for axis in axes.strip("()").split(", ") if axis != "..."]
    fits = values.ndim >= len(named) if "..." in axes else values.ndim == len(named)
    if not fits or values.numel() == 0:
        raise InputError(
            f"{name} of shape {tuple(values.shape)}; allowed is {axes}, with no axis of length 0"
        )
    if not values.is_floating_point():
        raise InputError(f"{name} of type {values.dtype}; allowed are floats: convert with .float()")
    if not values.isfinite().all():
        raise InputError(f"NaN or infinity in {name}; allowed are finite values: look for a division by zero")


def maps(name: str, values: Tensor) -> Tensor:
    """Maps (..., H, W), checked and in the widest type."""
    check_values(name, values, "(..., H, W)")
    return wide(values)


def check_labels(labels: Tensor, scores: Tensor) -> None:
    """Raise InputError unless `labels` are N class indices for scores (N, C)."""
    n, c = scores.shape
    if not isinstance(labels, Tensor):
        raise InputError(
            f"got labels as {type(labels).__name__}; allowed are tensors: torch.as_tensor(labels)"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != (n,):
        raise InputError(
            f"labels of shape {tuple(labels.shape)} and type {labels.dtype}; "
            f"allowed for {n} images is ({n},), of integers"
        )
    if (labels < 0).any() or (labels >= c).any():
        raise InputError(
            f"labels from {int(labels.min())} to {int(labels.max())}; "
            f"with {c} classes allowed are 0 to {c - 1}: use the classes' indices"
        )


def check_eval(model: object) -> None:
    """Raise InputError if any part of the model is in training mode."""
    if isinstance(model, nn.Module) and any(module.training for module in model.modules()):
        raise InputError(
            "the model is in training mode, where the images of a batch mix; call model.eval() first"
        )
