"""Statistics of a batch that is spread over processes, whatever backend connects them (gloo, nccl)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor


def several_processes() -> bool:
    """Whether this process belongs to a group of more than one."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class _AllReduce(torch.autograd.Function):
    """The sum over all processes.

    The losses of all processes depend on it, so the gradient of a part is the sum of the gradients of all.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _AllReduce.forward(ctx, gradients[0])


def _all_reduce(x: Tensor) -> Tensor:
    total: Tensor = _AllReduce.apply(x)
    return total


# It cannot be compiled: the graph breaks around it.
_sum_of_all: Callable[[Tensor], Tensor] = torch.compiler.disable(_all_reduce)  # type: ignore[no-untyped-call]


def moments_of_all(var: Tensor, mean: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Biased variance, mean and number of values of the whole batch, from those of this process's part.

    var, mean: of the same shape. count: of values in this part, at least 1; parts may differ in size. The
    number comes as a (1,) tensor. A gradient flows back to the parts of all processes, so every process must
    run the backward pass through this, as it ran the forward.

    A part of n values with mean m and variance v = E[x^2] - m^2 has the sums sum(x) = n m and
    sum(x^2) = n (v + m^2). Sums and counts add up over processes; with N = sum(n), the whole batch has
    M = sum(n m) / N and V = sum(n (v + m^2)) / N - M^2.
    """
    # In double precision, as subtracting the square of a large mean would cancel a small variance.
    wide_var, wide_mean = var.double(), mean.double()
    parts = torch.stack([wide_mean, wide_var + wide_mean.square(), torch.ones_like(wide_mean)]) * count
    sum_of_values, sum_of_squares, total = _sum_of_all(parts)
    all_mean = sum_of_values / total
    all_var = (sum_of_squares / total - all_mean.square()).clamp_min(0)
    return all_var.to(var.dtype), all_mean.to(mean.dtype), total.flatten()[:1].to(mean.dtype)
