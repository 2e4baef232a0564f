"""Batch norms whose means can go little by little, as `centring="fading"` makes them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from .._compat import version
from ..layers import is_linear
from ..layers._switch import free, on
from ..layers.functional import at_least_float32
from ..layers.processes import moments_of_all, several_processes


class _Faded(torch.autograd.Function):
    """Normalise (N, K, ...) on a CPU by its own statistics, subtracting a share of the mean.

    On a CPU torch.var_mean takes forty times as long as a batch norm's own statistics.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, share: Tensor,
        running_mean: Tensor | None, running_var: Tensor | None, momentum: float, eps: float,
    ) -> Tensor:  # fmt: skip
        mean, var = torch.batch_norm_update_stats(x, running_mean, running_var, momentum)
        ctx.save_for_backward(x, weight, bias, share, mean, var)
        ctx.eps = eps
        return F.batch_norm(x, share * mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, share, mean, var = ctx.saved_tensors
        rest = (None,) * 5
        if torch.is_grad_enabled():  # the gradient is to be differentiated itself
            return *_by_formula(ctx, gradient), *rest
        wide = at_least_float32(mean)
        deviated = (at_least_float32(var) + ctx.eps).rsqrt()
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, deviated.to(mean.dtype), True, ctx.eps, (True, True, True)
        )
        if weight is None or bias is None:
            of_bias = gradient.sum([0, *range(2, x.ndim)], dtype=wide.dtype)
        # The rest of what the norm gives is (1 - share) weight mean / deviation, the same for each position.
        kept = (1 - share) * at_least_float32(of_bias)
        gained = kept * deviated if weight is None else kept * deviated * weight
        each = x.shape[1] / x.numel()
        slope = -gained * wide * deviated**2 * each
        of_x = of_x + F.batch_norm(  # slope (x - mean) + gained / n, without a rounding in between
            x,
            mean,
            torch.ones_like(mean),
            slope.to(mean.dtype),
            (gained * each).to(mean.dtype),
            False,
            0.0,
            0.0,
        )
        of_weight = None if weight is None else of_weight + (kept * wide * deviated).to(weight.dtype)
        of_bias = None if bias is None else of_bias.to(bias.dtype)
        return of_x, of_weight, of_bias, *rest


def _by_formula(ctx: Any, gradient: Tensor) -> list[Tensor | None]:
    """Gradients of x, weight and bias, as far as they are asked for, that can be differentiated."""
    x, weight, bias, share, _, _ = ctx.saved_tensors
    shape = (-1, *[1] * (x.ndim - 2))
    var, mean = torch.var_mean(at_least_float32(x), [0, *range(2, x.ndim)], correction=0)
    gain = (var + ctx.eps).rsqrt()
    gain = gain if weight is None else gain * weight
    y = (at_least_float32(x) - (share * mean).view(shape)) * gain.view(shape)
    y = y if bias is None else y + bias.view(shape)
    asked = [one for one, needed in zip((x, weight, bias), ctx.needs_input_grad, strict=False) if needed]
    found = iter(torch.autograd.grad(y.to(x.dtype), asked, gradient, create_graph=True))
    return [next(found) if needed else None for needed in ctx.needs_input_grad[:3]]


def _many_on_cpu(x: Tensor) -> bool:
    """Whether x is on a CPU, with more than one value a channel, as statistics need."""
    return x.device.type == "cpu" and x.numel() > x.shape[1]


class Fading:
    """A batch norm of torch's or timm's that subtracts a share of the mean: all of it to begin with.

    share: a buffer, which training lowers; at 0 the norm is uncentred, and only its bias is a constant.
    synchronised: an attribute, as of `BatchNorm2d`: statistics in training are taken over all processes.
    """

    share: Tensor
    synchronised = False
    _seen: tuple[Tensor, int, bool] | None = None  # `share`, its version, and whether it was 1 then

    def faded(self: Any, x: Tensor) -> Tensor:
        """(N, K, ...) -> the same, before any activation."""
        tracks = self.running_mean is not None  # torch.func takes the buffers away
        if tracks and not self.training:
            mean = self.running_mean * self.share
            return F.batch_norm(x, mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if tracks and self.synchronised and not is_linear() and several_processes():
            return self._of_all(x)
        at, bias, added = (-1, *[1] * (x.ndim - 2)), self.bias, None
        if not self._whole() and on("statistics") and free(x) and _many_on_cpu(x):
            y: Tensor = _Faded.apply(
                x, self.weight, bias, self.share, self.running_mean, self.running_var, self._momentum(),
                self.eps,
            )  # fmt: skip
            return y
        if not self._whole():
            var, mean = torch.var_mean(at_least_float32(x), [0, *range(2, x.ndim)], correction=0)
            added = (1 - self.share) * mean * self._gain(var)
        if added is not None and not is_linear():  # in the bias, it costs no pass and no rounding of its own
            bias = added if bias is None else added + bias
            bias, added = bias if self.weight is None else bias.to(self.weight.dtype), None
        y = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, bias, True, self._momentum(), self.eps
        )
        return y if added is None else y + added.to(y.dtype).view(at)

    def _momentum(self: Any) -> float:
        """That of one more batch, which is counted."""
        if self.running_mean is None:
            return 0.0
        self.num_batches_tracked.add_(1)
        return 1 / float(self.num_batches_tracked) if self.momentum is None else float(self.momentum)

    def _whole(self) -> bool:
        """Whether all of the mean is subtracted. An accelerator is asked once for each value of `share`."""
        if torch.compiler.is_compiling():  # the graph is that of any share; what it computes twice is merged
            return False
        seen, now = self._seen, version(self.share)
        if seen is None or seen[0] is not self.share or seen[1] != now:
            self._seen = seen = (self.share, now, bool(self.share == 1))
        return seen[2]

    def _gain(self: Any, var: Tensor) -> Tensor:
        gain = (var + self.eps).rsqrt()
        return gain if self.weight is None else gain * self.weight

    def _of_all(self: Any, x: Tensor) -> Tensor:
        """The same in training, x being this process's part of the batch."""
        wide, at = at_least_float32(x), (-1, *[1] * (x.ndim - 2))
        var, mean = torch.var_mean(wide, [0, *range(2, x.ndim)], correction=0)
        var, mean, count = moments_of_all(var, mean, x.numel() // x.shape[1])
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = self.momentum
            if momentum is None:
                momentum = self.num_batches_tracked.to(self.running_var.dtype).reciprocal()
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_((var * (count / (count - 1))).to(self.running_var.dtype), momentum)
        y = (wide - (self.share * mean).view(at)) * self._gain(var).view(at)
        return (y if self.bias is None else y + self.bias.view(at)).to(x.dtype)


class FadingBatchNorm1d(Fading, nn.BatchNorm1d):
    """(N, K) or (N, K, L) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        return self.faded(x)


class FadingBatchNorm2d(Fading, nn.BatchNorm2d):
    """(N, K, H, W) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        return self.faded(x)


class FadingBatchNormAct2d(Fading, BatchNormAct2d):  # type: ignore[misc]
    """With timm's dropout and activation behind it."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(self.faded(x)))
        return y
