"""What a network has beside the parts of a module: the names that timm's networks, and so ours, go by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn


class Network(nn.Module):
    """(N, in_chans, H, W) in [0, 1] -> (N, num_classes): what signatures call a network of timm's registry.

    Ours derive from it; timm's own are taken for one. It declares names and defines none of them.
    """

    if TYPE_CHECKING:
        num_classes: int  # 0 without a classifier: then it gives pooled features
        in_chans: int
        num_features: int  # channels of the last map
        head_hidden_size: int  # channels that reach the classifier
        pretrained_cfg: dict[str, Any]  # timm's card
        feature_info: Any  # channels, stride and name of each level
        pretrained_from: str | None  # the checkpoint whose weights it was given
        build_arguments: dict[str, Any]  # what it was built with, beside its card
        grad_checkpointing: bool

        def forward_features(self, x: Tensor) -> Tensor: ...
        def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor: ...
        def get_classifier(self) -> nn.Module: ...
        def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None: ...
