"""Units inside a network: their activation for an image, and the linear map that makes it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ..errors import InputError, check_integer, closest
from ..layers import BcosLinear, LayerNorm, PatchEmbed
from ..metrics.checks import check_eval
from .engine import explain_output
from .explanation import Explanation
from .inputs import Images, checked_images, settings_of, unwrapped
from .precision import computing


def explain_unit(
    model: nn.Module,
    x: Images,
    layer: str,
    unit: int,
    *,
    position: int | Sequence[int] | None = None,
    call: int | None = None,
    dtype: torch.dtype | None = None,
    max_batch: int | None = None,
    create_graph: bool = False,
) -> Explanation:
    """Explain one unit inside the network, by the linear map from the image to it, `W_{1->l}(x)`.

    layer: a name in `model.named_modules()`, such as "layer3.1.conv2"; the module's output is explained.
    unit: a channel of that output. position: (row, column) in its map, or the index of a token; None for the
    mean over all. call: which call, from 0 on, if the network calls the layer several times in a pass.
    Returns an `Explanation` with one target, whose `logits` are the activations (N, 1).
    Everything else is as in `explain`. Raises InputError for a layer, unit or position that does not exist.

    ```python
    import torch

    import bcos_zoo

    model = bcos_zoo.load("bcos_resnet20.cifar10").model
    x = torch.rand(2, 3, 32, 32)
    e = bcos_zoo.explain_unit(model, x, "layer3.1.conv2", 39)
    assert e.logits.shape == (2, 1) and e.output == "activation"
    ```
    """
    images = checked_images(x)
    check_layer(unwrapped(model), layer)
    at = _position(position)

    def forward(network: nn.Module, images: Tensor) -> Tensor:
        return _activation(network, images, layer, unit, at, call)

    explanation = explain_output(
        forward, model, images, 0, dtype=dtype, max_batch=max_batch, create_graph=create_graph
    )
    where = ("" if call is None else f" call {call}") + ("" if at is None else f" at {at}")
    labels = ((f"{layer}[{unit}]{where}",),) * len(images)
    return replace(explanation, labels=labels, output="activation", **settings_of(model))


def activations(
    model: nn.Module,
    x: Images,
    layer: str,
    unit: int,
    *,
    position: int | Sequence[int] | None = None,
    call: int | None = None,
) -> Tensor:
    """(N,): what `explain_unit` would explain, in its precision. Raises InputError as it does."""
    network = unwrapped(model)
    check_eval(network)
    images = checked_images(x)
    check_layer(network, layer)
    at = _position(position)
    with computing(network, images) as (twin, move), torch.no_grad():
        return _activation(twin, move(images.detach().clone()), layer, unit, at, call)[:, 0]


def _position(given: object) -> int | tuple[int, ...] | None:
    """One index, or several as a tuple. Raises InputError for anything but integers."""
    several = isinstance(given, Sequence) and not isinstance(given, str)
    indices: Any = given if several else () if given is None else (given,)
    if not all(isinstance(one, Integral) and not isinstance(one, bool) for one in indices):
        raise InputError(
            f"position={given!r}: allowed are integers, (row, column) of a map or the index of a token"
        )
    whole = tuple(int(one) for one in indices)
    return None if given is None else whole if several else whole[0]


def check_layer(network: nn.Module, layer: str) -> None:
    """Raise InputError if no module of that name is in the network."""
    if isinstance(layer, nn.Module):
        names = [name for name, module in network.named_modules() if module is layer and name]
        called = f", such as {names[0]!r}" if names else ""
        raise InputError(f"the layer is a module; allowed are names as named_modules() has them{called}")
    known = [name for name, _ in network.named_modules() if name]
    if layer not in known:
        near = closest(str(layer), known)
        raise InputError(f"no layer named {layer!r}; closest: {near}. named_modules() has all")


def _activation(
    network: nn.Module,
    images: Tensor,
    layer: str,
    unit: int,
    position: int | tuple[int, ...] | None,
    call: int | None,
) -> Tensor:
    """(N, 1): one unit of a layer, at one position or averaged over all."""
    units = _chosen(_outputs(network, images, layer), layer, call)
    if units.ndim == 4 and not _units_last(network.get_submodule(layer)):
        units = units.movedim(1, -1)
    if not isinstance(unit, Integral) or isinstance(unit, bool) or not 0 <= unit < units.shape[-1]:
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


def _outputs(network: nn.Module, images: Tensor, layer: str) -> list[object]:
    """The output of each call of a layer in a pass, copied before later modules can write to it."""
    given: list[object] = []
    this_thread = threading.get_ident()

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        if threading.get_ident() == this_thread:  # other threads may be running the same network
            given.append(output.clone() if isinstance(output, Tensor) else output)

    handle = network.get_submodule(layer).register_forward_hook(keep)
    try:
        network(images)
    finally:
        handle.remove()
    return given


def _chosen(given: list[object], layer: str, call: int | None) -> Tensor:
    """The output that is meant. Raises InputError if that is ambiguous, or if it is not a tensor of units."""
    if not given:
        raise InputError(f"{layer} is not called in a pass; name the layer that holds it, or one inside it")
    most = len(given) - 1
    if call is not None:
        check_integer("call", call, 0)
    if call is None and most:
        raise InputError(f"{layer} is called {len(given)} times in a pass; say call=0 to {most}")
    if call is not None and call > most:
        raise InputError(f"{layer} has no call {call} in a pass; allowed are 0 to {most}")
    units = given[call or 0]
    if not isinstance(units, Tensor):
        raise InputError(f"{layer} gives a {type(units).__name__}; name a layer that gives one tensor")
    if not 2 <= units.ndim <= 4:
        raise InputError(
            f"{layer} gives {tuple(units.shape)}; name a layer that gives (N, K), (N, K, H, W) or (N, L, D)"
        )
    return units


def _units_last(module: nn.Module) -> bool:
    """Whether a module's four-dimensional output is (N, H, W, D)."""
    last = (PatchEmbed, BcosLinear, nn.Linear, LayerNorm, nn.LayerNorm)
    return isinstance(module, last) and not isinstance(module, LayerNorm2d)
