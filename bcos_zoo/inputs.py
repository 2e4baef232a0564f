"""What explanations are asked for with: a network, its images, and the logits it gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import InputError


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside what torch.compile, DataParallel and DistributedDataParallel make of it."""
    model = getattr(model, "_orig_mod", model)
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return unwrapped(model.module) if isinstance(model, parallel) else model


def class_logits(network: nn.Module, images: Tensor) -> Tensor:
    """`network(images)`, (N, C). Raises InputError if it is of another rank."""
    logits: Tensor = network(images)
    if logits.ndim != 2:
        raise InputError(
            f"the model gives {tuple(logits.shape)}; to explain it must give logits (N, C): "
            "keep its pooling and classifier"
        )
    return logits


def check_eval(model: nn.Module) -> None:
    """Raise InputError for a model of which any part is in training mode."""
    if any(module.training for module in model.modules()):
        raise InputError(
            "the model is in training mode, where the images of a batch mix; call model.eval() first"
        )


def check_images(x: Tensor) -> None:
    """Raise InputError unless x is a non-empty batch (N, K, H, W) of finite values in [0, 1]."""
    if x.ndim != 4:
        hint = "; add the batch axis with x[None]" if x.ndim == 3 else ""
        raise InputError(f"got a tensor of shape {tuple(x.shape)}; images come as (N, K, H, W){hint}")
    if not x.is_floating_point():
        raise InputError(f"got {x.dtype} images; allowed are floats in [0, 1]: divide 8-bit values by 255")
    if x.numel() == 0:
        raise InputError(
            f"got a tensor of shape {tuple(x.shape)}, which holds no pixel; give at least one image"
        )
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # written so that NaN fails too
        if low != low or high != high:
            raise InputError(
                "the images hold NaN; allowed are finite values in [0, 1]: look for what divided by zero"
            )
        raise InputError(
            f"the images hold values from {low:.3g} to {high:.3g}; allowed is [0, 1]: "
            "leave out mean/std normalisation"
        )


def card_names(model: nn.Module) -> Sequence[str] | None:
    card = getattr(model, "pretrained_cfg", None) or {}
    names = card.get("label_names")
    return names if names and len(names) == getattr(model, "num_classes", None) else None
