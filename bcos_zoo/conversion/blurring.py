"""A blur ahead of a converted network's strides, whose patterns would otherwise show in its explanations.

Unlike the networks built here, a converted one keeps the strides where they are, and its blurs have none:
so weights that were trained without them see nearly what they saw.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from timm.layers import AvgPool2dSame
from torch import Tensor, nn

from ..layers import antialias
from .norms import MaxPool2dSame

LAYERS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, MaxPool2dSame, AvgPool2dSame)


def blur_strides(network: nn.Module, only: Collection[str] | None = None) -> list[str]:
    """Let layers with a stride see their map blurred; the names of those that do.

    only: the names of those to change; all if not given. Strides that differ between the axes, or above 4,
    as of patch embeddings, are left alone.
    """
    every = network.named_modules(remove_duplicate=False)
    found = [(name, layer) for name, layer in every if only is None or name in only]
    changed, like = [], next(network.parameters())
    for name, layer in found:
        if isinstance(layer, LAYERS) and (taps := antialias.taps_for(layer)):
            if not hasattr(layer, "blur"):  # it may be in several places
                layer.blur = antialias.Blur(taps, 1).to(like).train(layer.training)
                layer.register_forward_pre_hook(_blurred)
            changed.append(name)
    return changed


def _blurred(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x: Tensor = inputs[0]
    return layer.blur(x), *inputs[1:]
