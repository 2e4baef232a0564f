"""The blocks of a vision transformer: pixels to tokens, and encoders of tokens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from timm.layers import DropPath
from torch import Tensor, nn

from ..errors import InputError
from ._fast import chain
from ._switch import layer
from .attention import Attention
from .linear_mode import add_constant
from .positions import sincos_positions
from .spec import ConventionalSpec, LayerSpec


class FeedForward(nn.Module):
    """Norm and two layers. (N, L, dim) -> (N, L, dim)."""

    def __init__(self, dim: int, hidden: int, spec: LayerSpec | ConventionalSpec) -> None:
        super().__init__()
        layers = OrderedDict(
            norm=spec.token_norm(dim),
            linear1=spec.linear(dim, hidden),
            act=spec.activation(),
            linear2=spec.linear(hidden, dim),
        )
        self.net = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Encoder(nn.Module):
    """Attention, then feed-forward layers, each with a shortcut. (N, L, dim) -> (N, L, dim)."""

    def __init__(
        self, dim: int, heads: int, hidden: int, drop_path: float, spec: LayerSpec | ConventionalSpec
    ) -> None:
        super().__init__()
        out = spec.attention_output(dim, dim)
        self.attn = Attention(spec.token_norm(dim), spec.projection(dim, 3 * dim), out, heads)
        self.ff = FeedForward(dim, hidden, spec)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop_path(self.attn(x)) + x
        return self.drop_path(self.ff(x)) + x


@layer
class PatchEmbed(nn.Module):
    """Turn pixels, or the maps of a convolutional stem, into tokens, and add their positions.

    (N, K, H, W) -> (N, H', W', dim). stride: pixels from one token to the next.
    Raises InputError for images that cannot be divided into patches.
    """

    def __init__(
        self, in_chs: int, dim: int, patch: int, stem: Sequence[int], spec: LayerSpec | ConventionalSpec
    ) -> None:
        super().__init__()
        self.patch = self.stride = patch
        if stem:
            layers: list[nn.Module] = []
            for index, width in enumerate(stem):
                stride = 2 if index == 0 or width > in_chs else 1
                layers += [spec.conv(in_chs, width, 3, stride=stride, padding=1)]
                layers += [spec.norm2d(width), spec.activation()]
                self.stride, in_chs = self.stride * stride, width
            self.conv_stem = nn.Sequential(*layers)
        self.linear = spec.linear(in_chs * patch * patch, dim)

    def check_size(self, height: int, width: int) -> None:
        """Raise InputError unless images of that size divide into patches."""
        if height % self.stride or width % self.stride or not (height and width):
            raise InputError(
                f"images of {height}x{width} pixels do not divide into patches of {self.stride}; "
                "resize or crop them"
            )

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(*x.shape[-2:])
        if hasattr(self, "conv_stem"):
            x = chain(self.conv_stem, x)
        n, channels, height, width = x.shape
        rows, columns = height // self.patch, width // self.patch
        x = x.reshape(n, channels, rows, self.patch, columns, self.patch)
        x = self.linear(x.permute(0, 2, 4, 3, 5, 1).flatten(3))
        return add_constant(x, sincos_positions(rows, columns, x.shape[-1], like=x).view(x.shape[1:]))
