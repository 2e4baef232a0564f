"""A blur ahead of a converted network's strides, whose patterns would otherwise show in its explanations.

Unlike the networks built here, a converted one keeps the strides where they are, and its blurs have none:
so weights that were trained without them see maps of the same size, only smoother.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from ..layers import antialias

LAYERS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def blur_strides(network: nn.Module, only: Collection[str]) -> list[str]:
    """Let layers with a stride see their map blurred; the names of those that do.

    only: the names of the layers to change. Strides that differ between the axes, or are above 4, as of most
    patch embeddings, are left alone.
    """
    changed = []
    for name, layer in strided(network).items():
        if name in only and (taps := antialias.taps_for(layer)):
            if not hasattr(layer, "blur"):  # it may be in several places
                layer.blur = antialias.Blur(taps, 1).train(layer.training)
                layer.register_forward_pre_hook(_blurred)
            changed.append(name)
    return changed


def strided(network: nn.Module) -> dict[str, Any]:
    """Convolutions and poolings with a stride, by their names."""
    every: Any = network.named_modules(remove_duplicate=False)
    return {name: one for name, one in every if isinstance(one, LAYERS) and one.stride not in (1, (1, 1))}


def has_strides(network: nn.Module) -> bool:
    """Whether there may be a layer for `blur_strides` to change."""
    return any(antialias.taps_for(layer) for layer in strided(network).values())


def _blurred(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x: Tensor = inputs[0]
    return layer.blur(x), *inputs[1:]
