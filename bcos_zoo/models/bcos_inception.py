"""B-cos Inception v3 (Szegedy et al. 2015).

The v1 form (Boehle et al. 2022) has MaxOut, a constant scale and no norm; our own form follows the v2
networks: MaxOut 1 and uncentred batch norm without bias. In both, all pooling is average pooling and the
classifier, a 1x1 convolution, comes before the global pooling. Names in the state dict are torchvision's, as
in the published v1 file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import V2, LayerSpec, chain, conv_norm
from ._build import build, cards, register_model
from ._network import ConvNetwork, Level

Kernel = int | tuple[int, int]


class ConvNorm(nn.Module):
    """A convolution and its norm. (N, in_chs, H, W) -> (N, out_chs, H', W')."""

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel: Kernel,
        spec: LayerSpec,
        *,
        stride: int = 1,
        same: bool = True,
    ) -> None:
        super().__init__()
        rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (rows // 2, columns // 2) if same else 0
        self.conv = spec.conv(in_chs, out_chs, kernel, stride=stride, padding=padding)
        self.bn = spec.norm2d(out_chs)
        self.act = spec.activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(conv_norm(self.conv, self.bn, x))


class Mixed(nn.Module):
    """Paths of convolutions side by side, their maps concatenated. (N, in_chs, H, W) -> (N, out_chs, H', W').

    paths: each a sequence of steps (name, channels, kernel); in place of one step, a tuple of several, which
    all see the output of the step before. "branch_pool" averages 3x3 pixels first.
    halve: the last step of each path has stride 2 and no padding, and a path of pooling alone is added.
    """

    def __init__(
        self, in_chs: int, paths: Sequence[Sequence[Any]], spec: LayerSpec, *, halve: bool = False
    ) -> None:
        super().__init__()
        self.paths: list[list[tuple[str, ...]]] = []
        self.out_chs = in_chs if halve else 0
        for path in paths:
            width, names = in_chs, []
            for step in path:
                forks = [step] if isinstance(step[0], str) else step
                last = halve and step is path[-1]
                for name, channels, kernel in forks:
                    conv = ConvNorm(width, channels, kernel, spec, stride=1 + last, same=not last)
                    self.add_module(name, conv)
                names.append(tuple(name for name, _, _ in forks))
                width = sum(channels for _, channels, _ in forks)
            self.paths.append(names)
            self.out_chs += width
        self.pool = spec.average_pool(3, 2) if halve else spec.average_pool(3, 1, 1)
        self.halve = halve

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for path in self.paths:
            y = self.pool(x) if path[0] == ("branch_pool",) else x
            for names in path:
                forks = [getattr(self, name)(y) for name in names]
                y = forks[0] if len(forks) == 1 else torch.cat(forks, 1)
            out.append(y)
        return torch.cat([*out, self.pool(x)] if self.halve else out, 1)


def _mixed_5(pool: int) -> list[Any]:
    return [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
        [("branch_pool", pool, 1)],
    ]


_MIXED_6A: list[Any] = [
    [("branch3x3", 384, 3)],
    [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
]


def _mixed_6(width: int) -> list[Any]:
    across, down = (1, 7), (7, 1)
    return [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", width, 1), ("branch7x7_2", width, across), ("branch7x7_3", 192, down)],
        [
            ("branch7x7dbl_1", width, 1),
            ("branch7x7dbl_2", width, down),
            ("branch7x7dbl_3", width, across),
            ("branch7x7dbl_4", width, down),
            ("branch7x7dbl_5", 192, across),
        ],
        [("branch_pool", 192, 1)],
    ]


_MIXED_7A: list[Any] = [
    [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)],
    [
        ("branch7x7x3_1", 192, 1),
        ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)),
        ("branch7x7x3_4", 192, 3),
    ],
]
_MIXED_7: list[Any] = [
    [("branch1x1", 320, 1)],
    [("branch3x3_1", 384, 1), (("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1)))],
    [
        ("branch3x3dbl_1", 448, 1),
        ("branch3x3dbl_2", 384, 3),
        (("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))),
    ],
    [("branch_pool", 192, 1)],
]


class AuxiliaryHead(nn.Module):
    """A classifier of the 17x17 map, for training. (N, in_chs, H, W) -> (N, num_classes), without bias."""

    def __init__(self, in_chs: int, spec: LayerSpec) -> None:
        super().__init__()
        self.pool = spec.average_pool(5, 3)
        self.conv0 = ConvNorm(in_chs, 128, 1, spec)
        self.conv1 = ConvNorm(128, 768, 5, spec, same=False)
        self.fc: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(chain((self.pool, self.conv0, self.conv1), x)).mean((2, 3))


class BcosInception3(ConvNetwork):
    """B-cos Inception v3. (N, in_chans, H, W) in [0, 1] -> (N, num_classes) logits.

    aux_logits: add the auxiliary head; in training mode the network then gives two tensors of logits, its
    own and the auxiliary head's, and the published networks were trained on the sum of both losses.
    Training with it needs images large enough for a middle map of at least 17 pixels a side, such as 299 px.
    global_pool: one of "avg", "max", "avgmax", or "" for the map of logits.
    drop_rate: dropout before the classifier. spec: how its layers are made.
    """

    CLASSIFIER = "fc"
    AUXILIARY = "AuxLogits"

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        aux_logits: bool = False,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        spec: LayerSpec = V2,
    ) -> None:
        super().__init__(spec, in_chans, drop_rate)
        self.pool = spec.average_pool(3, 2)
        self.Conv2d_1a_3x3 = ConvNorm(spec.encoded_channels(in_chans), 32, 3, spec, stride=2, same=False)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3, spec, same=False)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, spec)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1, spec)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3, spec, same=False)
        narrow = {"5b": _mixed_5(32), "5c": _mixed_5(64), "5d": _mixed_5(64)}
        wide = {"6b": _mixed_6(128), "6c": _mixed_6(160), "6d": _mixed_6(160), "6e": _mixed_6(192)}
        levels = [
            Level(("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"), 64, 2),
            Level(("pool", "Conv2d_3b_1x1", "Conv2d_4a_3x3"), 192, 4),
            self._mixed("pool", narrow, 192, 8),
            self._mixed("6a", {"6a": _MIXED_6A} | wide, 288, 16),
        ]
        self.AuxLogits = AuxiliaryHead(768, spec) if aux_logits else None
        levels.append(self._mixed("7a", {"7a": _MIXED_7A, "7b": _MIXED_7, "7c": _MIXED_7}, 768, 32))
        self._complete(levels, num_classes, global_pool)

    def _mixed(self, first: str, blocks: dict[str, list[Any]], in_chs: int, reduction: int) -> Level:
        """Make a level of blocks; `first` names the block that halves the map, or "pool" for a pooling."""
        names = [first] if first == "pool" else []
        for suffix, paths in blocks.items():
            block = Mixed(in_chs, paths, self.spec, halve=suffix == first)
            self.add_module(f"Mixed_{suffix}", block)
            names.append(f"Mixed_{suffix}")
            in_chs = block.out_chs
        return Level(tuple(names), in_chs, reduction)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.1)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put fresh classifiers on the same features, in the auxiliary head too."""
        super().reset_classifier(num_classes, global_pool)
        if self.AuxLogits is not None:
            like = next(self.parameters())
            spec = replace(self.spec, device=like.device, dtype=like.dtype)
            fc = spec.conv(768, num_classes, 1).apply(self._init) if num_classes else nn.Identity()
            self.AuxLogits.fc = fc.train(self.training)

    def forward(self, x: Tensor) -> Any:
        if not self.training or self.AuxLogits is None or self.num_classes == 0:
            return super().forward(x)
        x, (middle,) = self._features(x, [3], len(self._levels) - 1)
        return self.forward_head(x), self.AuxLogits(middle)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups by depth, for layer-wise learning rates."""
        names = [n for n, m in self.named_children() if isinstance(m, (ConvNorm, Mixed, AuxiliaryHead))]
        return dict(stem=r"^Conv2d_[12]", blocks=[(f"^{name}", (i,)) for i, name in enumerate(names)])


default_cfgs = cards(
    {"bcos_inception_v3": dict(input_size=(3, 299, 299), pool_size=(8, 8), crop_pct=0.934, num_classes=1000)},
    classifier="fc.linear",
    first_conv="Conv2d_1a_3x3.conv.linear",
)


@register_model
def bcos_inception_v3(pretrained: bool = False, **kwargs: Any) -> BcosInception3:
    """Inception v3 (Szegedy et al. 2015) for 299x299 images, in the manner of the v2 networks."""
    model: BcosInception3 = build(BcosInception3, "bcos_inception_v3", pretrained, {}, kwargs)
    return model
