"""What a network has beyond any torch module: the attributes and methods that timm expects of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn


class Network(nn.Module):
    """The type of a network of timm's registry, for signatures: (N, in_chans, H, W) -> (N, num_classes).

    Our networks derive from it and take images in [0, 1]; timm's own are treated as if they did. It only
    declares names, for type checkers.
    """

    if TYPE_CHECKING:
        num_classes: int  # 0 if it has no classifier and gives pooled features
        in_chans: int
        num_features: int  # channels of the last map
        head_hidden_size: int  # channels that reach the classifier
        pretrained_cfg: dict[str, Any]  # timm's card
        feature_info: Any  # channels, stride and name of each level
        pretrained_from: str | None  # the checkpoint whose weights it was given
        build_arguments: dict[str, Any]  # what it was built with, beyond its card
        grad_checkpointing: bool

        def forward_features(self, x: Tensor) -> Tensor: ...
        def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor: ...
        def get_classifier(self) -> nn.Module: ...
        def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None: ...
