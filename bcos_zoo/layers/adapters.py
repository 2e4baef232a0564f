"""Whatever replaces a layer's weights: parametrisations, quantised layers, adapters such as LoRA.

A B-cos layer divides by the row norms of its linear map, however that map is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .._compat import padding_of, unwatched
from ..devices import place_of
from ..errors import InputError
from .functional import full_precision, unit_factors
from .linear_mode import parameter

PATCHES = 1024  # unit patches passed at once
Layer = TypeVar("Layer", bound=nn.Module)


def adapted(module: nn.Module, kind: type[Layer]) -> Layer:
    """The layer of the given kind that `module` adapts: the first one inside it.

    Raises InputError if there is none.
    """
    for inner in module.modules():
        if isinstance(inner, kind):
            return inner
    raise InputError(
        f"{type(module).__name__} stands in the place of a {kind.__name__} and holds none; "
        "an adapter must hold the layer that it adapts"
    )


def row_factors(module: nn.Module, x: Tensor, conv: nn.Conv2d | None = None) -> Tensor:
    """(O,): one over the norm of each row of the linear map that `module` has just applied to x.

    conv: gives the geometry if the module is a convolution. If the module's forward is torch's own, the rows
    are those of its weight, parametrised or not. If not, they are what the module makes of unit patches, with
    their gradient.
    """
    if type(module).forward in (nn.Conv2d.forward, nn.Linear.forward) and "forward" not in vars(module):
        plain: Any = module
        return unit_factors(parameter(plain.weight)).to(x.dtype)
    plain = unwatched(module)  # dropout is off, and whoever looks at the adapter sees no unit patches
    with full_precision(x):
        rows = []
        for patches in _unit_patches(module, x, conv):
            shown = plain(patches) - plain(torch.zeros_like(patches[:1]))
            rows.append(shown if conv is None else shown[(..., *_corner(conv))])
        factors = unit_factors(torch.cat(rows).T)
    return parameter(factors).to(x.dtype)


def _corner(conv: nn.Conv2d) -> tuple[int, int]:
    """The first output position whose window holds no padding."""
    columns, _, rows, _ = padding_of(conv)
    return -(-rows // conv.stride[0]), -(-columns // conv.stride[1])


def _unit_patches(module: nn.Module, x: Tensor, conv: nn.Conv2d | None) -> Iterator[Tensor]:
    """Patches of zeros with a single 1, M at a time: (M, K), or images (M, K, H, W) for a convolution."""
    own = place_of(module)
    options: dict[str, Any] = dict(dtype=x.dtype if own is None else own.dtype, device=x.device)
    if conv is None:
        yield from torch.split(torch.eye(x.shape[-1], **options), PATCHES)
        return
    sides, taps, pads = [], [], padding_of(conv)
    for i, first in enumerate(_corner(conv)):
        before = pads[2 - 2 * i]
        taps.append(first * conv.stride[i] - before + conv.dilation[i] * torch.arange(conv.kernel_size[i]))
        sides.append(int(taps[i][-1]) + 1 + max(pads))  # so the padding on this side lies beyond the window
    places = torch.cartesian_prod(torch.arange(x.shape[-3]), *taps)
    for some in torch.split(places, PATCHES):
        patches = torch.zeros(len(some), x.shape[-3], *sides, **options)
        patches[torch.arange(len(some)), some[:, 0], some[:, 1], some[:, 2]] = 1
        yield patches
