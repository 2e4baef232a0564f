"""The activations that B-cosified networks keep. Their gates are factors, held constant in linear mode."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ._switch import layer
from .linear_mode import hold, is_linear


@layer
class GatedGELU(nn.Module):
    """GELU(x) = x Phi(x), with the gate Phi(x) held in linear mode. Hendrycks & Gimpel 2016."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_linear():
            return F.gelu(x)
        return x * hold(lambda: (torch.erf(x * math.sqrt(0.5)) + 1) / 2)


def make_activation(name: str | None) -> nn.Module:
    """The activation of that name; `None` is the identity. ReLU's gate is piecewise constant anyway.

    Raises InputError for any name but "relu" and "gelu".

    ```python
    import torch

    from bcos_zoo.layers import make_activation

    assert make_activation("relu")(torch.tensor(-1.0)) == 0
    ```
    """
    if name is None:
        return nn.Identity()
    if name == "relu":
        return nn.ReLU()
    if name == "gelu":
        return GatedGELU()
    raise InputError(f"no activation named {name!r}; known: 'relu', 'gelu', or None for no activation")
