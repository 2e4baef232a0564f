"""Attention as a dynamic linear map: in linear mode the attention weights are constants."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _fast
from ._switch import layer
from .linear_mode import hold, is_linear


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, with the softmax held in linear mode. All (N, heads, L, D).

    ```python
    import torch

    from bcos_zoo.layers import attend

    q, k, v = torch.rand(3, 2, 4, 9, 8)
    assert attend(q, k, v).shape == (2, 4, 9, 8)
    ```
    """
    if not is_linear() and _fast.attends():
        return F.scaled_dot_product_attention(q, k, v)
    return hold(lambda: torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)) @ v


@layer
class Attention(nn.Module):
    """Multi-head self-attention, preceded by its norm. (N, L, D) -> (N, L, D).

    norm: the norm of tokens. to_qkv: a plain linear layer to 3D. to_out: the output layer, a B-cos one.
    heads: must divide D.

    Source: Boehle et al. 2024, section 3.4.
    """

    def __init__(self, norm: nn.Module, to_qkv: nn.Linear, to_out: nn.Module, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.to_qkv, self.to_out = norm, to_qkv, to_out

    def forward(self, x: Tensor) -> Tensor:
        qkv = _fast.project(self.to_qkv, self.norm(x))
        q, k, v = torch.unflatten(qkv, -1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y: Tensor = self.to_out(attend(q, k, v).transpose(1, 2).flatten(2))
        return y

    def extra_repr(self) -> str:
        return f"heads={self.heads}"
