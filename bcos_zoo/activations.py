"""Units inside a network: how much they answer to an image, and the linear map that makes the answer."""

from __future__ import annotations

import difflib
import threading
from dataclasses import replace

import torch
from torch import Tensor, nn

from .errors import InputError
from .explain import explain_output
from .explanation import Explanation
from .inputs import check_eval, check_images, unwrapped
from .layers import BcosLinear, LayerNorm, PatchEmbed


def explain_unit(
    model: nn.Module,
    x: Tensor,
    layer: str,
    unit: int,
    *,
    position: int | tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
    max_batch: int | None = None,
    create_graph: bool = False,
) -> Explanation:
    """Explain one unit inside the network, by the linear map from the image to it, `W_{1->l}(x)`.

    layer: a name in `model.named_modules()`, such as "layer3.1.conv2"; what that module gives is explained.
    unit: a channel of its output. position: (row, column) in its map, or the index of a token; None for the
    mean over all.
    Returns an `Explanation` of one target, whose `logits` are the activations (N, 1).
    All else as in `explain`. Raises InputError for a layer, unit or position that is not there.
    """
    check_images(x)
    _check_layer(unwrapped(model), layer)

    def forward(network: nn.Module, images: Tensor) -> Tensor:
        return _activation(network, images, layer, unit, position)

    explanation = explain_output(
        forward, model, x, 0, dtype=dtype, max_batch=max_batch, create_graph=create_graph
    )
    where = "" if position is None else f" at {position}"
    return replace(explanation, labels=((f"{layer}[{unit}]{where}",),) * len(x))


def activations(
    model: nn.Module, x: Tensor, layer: str, unit: int, *, position: int | tuple[int, int] | None = None
) -> Tensor:
    """(N,): what `explain_unit` would explain. Raises InputError as it does."""
    network = unwrapped(model)
    check_eval(network)
    check_images(x)
    _check_layer(network, layer)
    own = next(network.parameters(), x)
    with torch.no_grad():
        return _activation(network, x.to(own.device, own.dtype), layer, unit, position)[:, 0]


def _check_layer(network: nn.Module, layer: str) -> None:
    known = [name for name, _ in network.named_modules() if name]
    if layer not in known:
        close = difflib.get_close_matches(layer, known)
        raise InputError(
            f"no layer named {layer!r}; closest: {', '.join(close) or 'none'}. named_modules() has all"
        )


def _activation(
    network: nn.Module, images: Tensor, layer: str, unit: int, position: int | tuple[int, int] | None
) -> Tensor:
    """(N, 1): one unit of a layer, at one position or averaged over all."""
    given: list[object] = []
    this_thread = threading.get_ident()

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        if threading.get_ident() == this_thread:  # others may be running the same network
            given.append(output)

    handle = network.get_submodule(layer).register_forward_hook(keep)
    try:
        network(images)
    finally:
        handle.remove()
    if len(given) != 1 or not isinstance(given[0], Tensor) or given[0].ndim < 2:
        raise InputError(
            f"{layer} gave {len(given)} outputs in one pass, and not one tensor of units; name a layer that "
            "is called once and gives (N, K), (N, K, H, W) or (N, L, D)"
        )
    units = given[0]
    if units.ndim == 4 and not _units_last(network.get_submodule(layer)):
        units = units.movedim(1, -1)
    if not 0 <= unit < units.shape[-1]:
        raise InputError(f"unit {unit} is not in {layer}; allowed are 0 to {units.shape[-1] - 1}")
    places, chosen = units.shape[1:-1], units[..., unit]
    if position is None:
        return chosen.reshape(len(chosen), -1).mean(1, keepdim=True)
    at = position if isinstance(position, tuple) else (position,)
    if len(at) != len(places) or not all(0 <= i < size for i, size in zip(at, places, strict=True)):
        raise InputError(
            f"position {position} is not in {layer}, a map of {tuple(places)}; None averages over it"
        )
    return chosen[(slice(None), *at)][:, None]


def _units_last(module: nn.Module) -> bool:
    """Whether a module's four-dimensional output is (N, H, W, D)."""
    return isinstance(module, (PatchEmbed, BcosLinear, nn.Linear, LayerNorm))
