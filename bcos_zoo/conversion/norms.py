"""What a conversion changes, or may change, about norms, biases, poolings and activations."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from timm.layers import (
    AvgPool2dSame,
    BatchNormAct2d,
    GroupNorm1,
    GroupNorm1Act,
    GroupNormAct,
    HardMish,
    LayerNorm2d,
    LayerNorm2dFp32,
    LayerNormAct,
    LayerNormAct2d,
    LayerNormAct2dFp32,
    LayerNormActFp32,
    LayerNormFp32,
    create_pool2d,
    get_act_layer,
)
from timm.layers import GroupNorm as TimmGroupNorm
from timm.layers import LayerNorm as TimmLayerNorm
from torch import Tensor, nn

from .._compat import AnyBatchNorm
from ..layers import BatchNorm2d
from .fading import FadingBatchNorm1d, FadingBatchNorm2d, FadingBatchNormAct2d
from .layers import DEPTHWISE_OF


class UncentredBatchNorm1d(BatchNorm2d):
    """The uncentred batch norm of tokens: (N, K) or (N, K, L)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(*x.shape[:2], -1, 1)).reshape(x.shape)


class UncentredBatchNormAct2d(BatchNorm2d):
    """timm's BatchNormAct2d without mean and bias: an uncentred batch norm, then dropout and activation."""

    def __init__(self, num_features: int, drop: nn.Module, act: nn.Module, **options: Any) -> None:
        super().__init__(num_features, **options)
        self.drop, self.act = drop, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class UncentredLayerNorm(nn.LayerNorm):
    """Layer norm that divides by the standard deviation but subtracts no mean."""

    def forward(self, x: Tensor) -> Tensor:
        dims = tuple(range(-len(self.normalized_shape), 0))
        y = x * (x.var(dims, correction=0, keepdim=True) + self.eps).rsqrt()
        if self.weight is not None:
            y = y * self.weight
        return y if self.bias is None else y + self.bias


class UncentredLayerNorm2d(UncentredLayerNorm):
    """The same over the channels of maps (N, K, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class UncentredGroupNorm(nn.GroupNorm):
    """Group norm that divides by each group's standard deviation but subtracts no mean."""

    def forward(self, x: Tensor) -> Tensor:
        groups = x.reshape(x.shape[0], self.num_groups, -1)
        y = (groups * (groups.var(-1, correction=0, keepdim=True) + self.eps).rsqrt()).reshape(x.shape)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        if self.weight is not None:
            y = y * self.weight.view(shape)
        return y if self.bias is None else y + self.bias.view(shape)


class UncentredLayerNormAct(UncentredLayerNorm):
    """With timm's dropout and activation behind it, as the two below."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(super().forward(x)))
        return y


class UncentredLayerNormAct2d(UncentredLayerNorm2d):
    def forward(self: Any, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(super().forward(x)))
        return y


class UncentredGroupNormAct(UncentredGroupNorm):
    def forward(self: Any, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(super().forward(x)))
        return y


# By the code that a norm runs, so that subclasses that only differ in their options are found too.
FORMS: dict[Callable[..., Any], type[nn.Module]] = {
    **dict.fromkeys([nn.LayerNorm.forward, TimmLayerNorm.forward, LayerNormFp32.forward], UncentredLayerNorm),
    **dict.fromkeys([LayerNorm2d.forward, LayerNorm2dFp32.forward], UncentredLayerNorm2d),
    **dict.fromkeys([LayerNormAct.forward, LayerNormActFp32.forward], UncentredLayerNormAct),
    **dict.fromkeys([LayerNormAct2d.forward, LayerNormAct2dFp32.forward], UncentredLayerNormAct2d),
    **dict.fromkeys([nn.GroupNorm.forward, TimmGroupNorm.forward, GroupNorm1.forward], UncentredGroupNorm),
    **dict.fromkeys([GroupNormAct.forward, GroupNorm1Act.forward], UncentredGroupNormAct),
}
CENTRING = (AnyBatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
MAXIMA = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
# Torch's layers do without a bias; other code may need it to be there.
OPTIONAL_BIAS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, AnyBatchNorm, nn.LayerNorm, nn.GroupNorm)


# timm's hard_mish has a backward pass of its own, which linear mode cannot see into; this is its plain code.
SPELT_OUT: dict[Any, type[nn.Module]] = {get_act_layer("hard_mish"): HardMish}
MaxPool2dSame = type(create_pool2d("max", 2, padding="same"))


def spell_out(network: nn.Module) -> None:
    """Put plain code in the place of activations with a backward pass of their own, which linear mode cannot
    see into; and a faster backward pass into depthwise convolutions.
    """

    def plain(module: nn.Module) -> nn.Module | None:
        kind = SPELT_OUT.get(type(module))
        return kind() if kind else None

    _replace(network, tuple(SPELT_OUT), plain)
    every: list[Any] = list(network.modules())
    for module in every:
        faster = DEPTHWISE_OF.get(type(module))
        if faster is not None and module.groups == module.in_channels == module.out_channels > 1:
            module.__class__ = faster


def is_bias(key: str) -> bool:
    """Whether a parameter of that name is a bias: "bias" alone, or with what it is of, as v_bias."""
    name = key.rpartition(".")[2]
    return name == "bias" or name.endswith("_bias")


def drop_biases(network: nn.Module, names: Collection[str]) -> None:
    """Take these biases away: what stays of one that some code needs is a zero that is no parameter."""
    for name in names:
        owner, _, key = name.rpartition(".")
        module = network.get_submodule(owner)
        bias = module.get_parameter(key)
        if key == "bias" and isinstance(module, OPTIONAL_BIAS):
            module.register_parameter(key, None)
        else:
            delattr(module, key)
            module.register_buffer(key, torch.zeros_like(bias, requires_grad=False), persistent=False)


def uncentre(network: nn.Module, only: Collection[str] | None = None) -> tuple[list[str], int]:
    """Let norms subtract no mean; the names of those changed, and how many are of other kinds and still do.

    What a running mean did is left out, not made up for. only: the names of those to change; all if not
    given.
    """
    return _replace(network, CENTRING, _uncentred, only)


def fade(network: nn.Module, only: Collection[str] | None = None) -> tuple[list[str], int]:
    """Let batch norms subtract a share of the mean: all of it, until training lowers it.

    Other norms, whose means are linear in the image, are left alone.
    Returns the names of those changed, and how many batch norms are of kinds that cannot be. only: the names
    of those to change; all if not given.
    """
    return _replace(network, AnyBatchNorm, _fading, only)


def end_fading(network: nn.Module, names: Collection[str]) -> None:
    """Make fading norms that subtract nothing any more uncentred ones."""
    plain: dict[Any, Any] = {form: kind for kind, form in FADING.items()}
    for norm in {network.get_submodule(name) for name in names}:
        norm.__class__ = plain[type(norm)]
        del norm.share
    uncentre(network, names)


def average(network: nn.Module, only: Collection[str] | None = None) -> tuple[list[str], int]:
    """Put average pooling in the place of maxima; the names of those changed, and how many are left.

    only: the names of those to change; all if not given.
    """
    return _replace(network, MAXIMA, _averaged, only)


def _replace(
    network: nn.Module,
    kinds: Any,
    make: Callable[[Any], nn.Module | None],
    only: Collection[str] | None = None,
) -> tuple[list[str], int]:
    every = list(network.named_modules(remove_duplicate=False))
    found = {id(module): module for name, module in every if isinstance(module, kinds) and name}
    if only is not None:
        found = {id(module): module for name, module in every if name in only}
    made = {key: make(module) for key, module in found.items()}
    changed = []
    for name, module in every:
        form = made.get(id(module))
        if form is not None:
            network.set_submodule(name, form.train(module.training))
            changed.append(name)
    return changed, sum(form is None for form in made.values())


def _uncentred(norm: Any) -> nn.Module | None:
    """The norm in its uncentred form; None if it has none."""
    form = FORMS.get(type(norm).forward)
    if form is not None:
        norm.__class__ = form
        made: nn.Module = norm
        return made
    if not isinstance(norm, AnyBatchNorm) or isinstance(norm, BatchNorm2d):
        return None
    options: dict[str, Any] = dict(eps=norm.eps, momentum=norm.momentum)
    if isinstance(norm, BatchNormAct2d) and type(norm).forward is BatchNormAct2d.forward:
        made = UncentredBatchNormAct2d(norm.num_features, norm.drop, norm.act, **options)
    elif type(norm).forward is not nn.BatchNorm2d.forward or isinstance(norm, nn.BatchNorm3d):
        return None
    else:
        kind = UncentredBatchNorm1d if isinstance(norm, nn.BatchNorm1d) else BatchNorm2d
        made = kind(norm.num_features, **options)
    if norm.running_var is not None:
        made.to(norm.running_var)
    made.load_state_dict({k: v for k, v in norm.state_dict().items() if k != "bias"}, strict=False)
    return made


FADING = {  # by the code that a norm runs, as above
    nn.BatchNorm1d: FadingBatchNorm1d,
    nn.BatchNorm2d: FadingBatchNorm2d,
    BatchNormAct2d: FadingBatchNormAct2d,
}


def _fading(norm: Any) -> nn.Module | None:
    """A batch norm in its fading form; None for one without running statistics or of another kind."""
    kinds = (kind for kind in FADING if isinstance(norm, kind) and type(norm).forward is kind.forward)
    kind = next(iter(sorted(kinds, key=lambda one: -len(one.__mro__))), None)
    if kind is None or norm.running_mean is None:
        return None
    norm.__class__ = FADING[kind]
    norm.register_buffer("share", torch.ones_like(norm.running_var[0]))
    made: nn.Module = norm
    return made


class AveragePool2d(nn.AvgPool2d):
    """Average pooling in the place of a maximum, over as many pixels; padding counts as zeros."""


def _averaged(pool: Any) -> nn.Module | None:
    """Average pooling in the place of a maximum; None for one that has no such form."""
    if pool.__class__ not in (nn.MaxPool2d, MaxPool2dSame) or pool.dilation not in (1, (1, 1)):
        return None
    if type(pool) is MaxPool2dSame:
        same: nn.Module = AvgPool2dSame(pool.kernel_size, pool.stride, 0, pool.ceil_mode)
        return same
    return AveragePool2d(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)
