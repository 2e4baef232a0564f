"""What a conversion may change about norms, biases and poolings; and batch norm's statistics, anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from timm.layers import BatchNormAct2d, LayerNorm2d
from timm.layers import LayerNorm as TimmLayerNorm
from torch import Tensor, nn

from .._compat import AnyBatchNorm
from ..errors import InputError
from ..layers import BatchNorm2d


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


def drop_biases(network: nn.Module) -> None:
    """Take the bias of every layer and norm away."""
    for module in network.modules():
        if "bias" in dict(module.named_parameters(recurse=False)):
            module.register_parameter("bias", None)


def uncentre(network: nn.Module) -> None:
    """Let batch and layer norms subtract no mean. What a running mean did is left out, not made up for."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            made = _uncentred(child)
            if made is not None:
                setattr(module, name, made.train(child.training))


def _uncentred(norm: nn.Module) -> nn.Module | None:
    if type(norm) in (nn.BatchNorm2d, BatchNormAct2d) and isinstance(norm, nn.BatchNorm2d):
        options: dict[str, Any] = dict(eps=norm.eps, momentum=norm.momentum)
        if isinstance(norm, BatchNormAct2d):
            made: nn.Module = UncentredBatchNormAct2d(norm.num_features, norm.drop, norm.act, **options)
        else:
            made = BatchNorm2d(norm.num_features, **options)
        if norm.running_var is not None:
            made.to(norm.running_var)
        made.load_state_dict({k: v for k, v in norm.state_dict().items() if k != "bias"}, strict=False)
        return made
    if type(norm) in (nn.LayerNorm, TimmLayerNorm):
        norm.__class__ = UncentredLayerNorm
    elif type(norm) is LayerNorm2d:
        norm.__class__ = UncentredLayerNorm2d
    return None


class AveragePool2d(nn.AvgPool2d):
    """Average pooling in the place of a maximum, over as many pixels; padding counts as zeros."""


def average(network: nn.Module) -> None:
    """Put average pooling in the place of every nn.MaxPool2d."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.MaxPool2d:
                pool = AveragePool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(module, name, pool)


@torch.no_grad()
def reestimate(model: nn.Module, images: Tensor | Iterable[Tensor]) -> None:
    """Estimate the statistics of every batch norm anew, in one pass over images; weights stay as they are.

    images: (N, K, H, W) as the network takes them, or batches of them. Each batch counts the same. The model
    is left in the mode, training or eval, that it came in.
    Raises InputError for no images.

    ```python
    import timm
    import torch

    import bcos_zoo
    from bcos_zoo.conversion import reestimate

    model = bcos_zoo.bcosify(timm.create_model("test_efficientnet", num_classes=3))
    reestimate(model, [torch.rand(8, 3, 64, 64) for _ in range(2)])
    ```
    """
    norms: list[Any] = [module for module in model.modules() if isinstance(module, AnyBatchNorm)]
    batches = [images] if isinstance(images, Tensor) else images
    before = [(norm, norm.momentum, norm.training) for norm in norms]
    modes = [(module, module.training) for module in model.modules()]
    seen = 0
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the average over all batches
            norm.train()
        for batch in batches:
            model(batch)
            seen += len(batch)
    finally:
        for module, mode in modes:
            module.training = mode
        for norm, momentum, _ in before:
            norm.momentum = momentum
    if not seen:
        raise InputError("got no images; statistics are estimated on at least one batch")
