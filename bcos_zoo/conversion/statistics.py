"""Batch norm's statistics, estimated anew after a conversion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .._compat import AnyBatchNorm
from ..errors import InputError


@torch.no_grad()
def reestimate(model: nn.Module, images: Tensor | Iterable[Tensor]) -> None:
    """Estimate the statistics of every batch norm anew, in one pass over images; weights stay as they are.

    images: (N, K, H, W) as the network takes them, or batches of them. Each batch counts the same. The model
    is left in the mode, training or eval, that it came in. A model without such statistics is not run, and no
    image is asked for.
    Raises InputError for no images. After any exception the statistics are those from before.

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
    norms = [norm for norm in norms if norm.running_var is not None]
    if not norms:
        return
    batches = [images] if isinstance(images, Tensor) else images
    momenta = [(norm, norm.momentum) for norm in norms]
    modes = [(module, module.training) for module in model.modules()]
    statistics = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
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
        if not seen:
            raise InputError("got no images; statistics are estimated on at least one batch")
    except BaseException:
        for buffer, before in statistics:
            buffer.copy_(before)
        raise
    finally:
        for module, mode in modes:
            module.training = mode
        for norm, momentum in momenta:
            norm.momentum = momentum
