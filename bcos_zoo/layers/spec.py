"""What all layers of a network have in common, and how each kind of layer is made from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from ..errors import InputError
from . import antialias as aa
from .activations import make_activation
from .bcos import BcosConv2d, BcosLinear
from .functional import v1_scale
from .heads import Encode, LogitLayer, Normalize
from .norms import LayerNorm, make_norm2d


@dataclass(frozen=True)
class LayerSpec:
    """How every layer of a network is made. The defaults are those of the published v2 networks.

    b, max_out: of every B-cos layer.
    normalize: use weight rows of unit norm; off for B-cosified networks.
    scale: every layer's output is divided by it (the v1 CIFAR-10 networks).
    scale_factor: instead, divide a convolution's output by its `functional.v1_scale` (v1 ImageNet networks).
    norm: a name that `make_norm2d` knows, "none" for no norm. norm_eps: added to the variance.
    act: "relu" or "gelu" where conventional networks have an activation (B-cosified networks), else None.
    mean, std: of each input channel; the encoded image is normalised with them (B-cosified networks).
    logit_bias: -log(num_classes - 1) unless given. logit_temperature: a divisor of the logits.
    antialias: "blur" ahead of every layer with a stride; None for plain strides.

    Raises InputError for another antialias.
    """

    b: float = 2.0
    max_out: int = 1
    normalize: bool = True
    scale: float = 1.0
    scale_factor: float | None = None
    norm: str = "bnu"
    norm_eps: float = 1e-5
    act: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    logit_bias: float | None = None
    logit_temperature: float | None = None
    antialias: str | None = None
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        aa.check(self.antialias)

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> BcosConv2d:
        """A B-cos convolution, as `BcosConv2d`. Raises InputError for both scale and scale_factor."""
        scale = self.scale
        if self.scale_factor is not None:
            if scale != 1:
                raise InputError(f"scale={scale}, scale_factor={self.scale_factor}: give one of the two")
            scale = v1_scale(kernel_size, in_channels, self.scale_factor)
        return BcosConv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, dilation=dilation,
            groups=groups, b=self.b, max_out=self.max_out, scale=scale, normalize=self.normalize,
            antialias=self.antialias, device=self.device, dtype=self.dtype,
        )  # fmt: skip

    def average_pool(self, kernel_size: int, stride: int, padding: int = 0) -> nn.Module:
        """Average pooling, as nn.AvgPool2d."""
        pool = aa.average_pool(kernel_size, stride, padding, antialias=self.antialias)
        return pool.to(device=self.device, dtype=self.dtype)

    def linear(self, in_features: int, out_features: int) -> nn.Module:
        """A B-cos layer on tokens, as `BcosLinear`."""
        return BcosLinear(
            in_features, out_features, b=self.b, max_out=self.max_out, scale=self.scale,
            normalize=self.normalize, device=self.device, dtype=self.dtype,
        )  # fmt: skip

    def projection(self, in_features: int, out_features: int) -> nn.Linear:
        """A plain linear layer without bias, such as that of query, key and value."""
        return nn.Linear(in_features, out_features, bias=False, device=self.device, dtype=self.dtype)

    def attention_output(self, in_features: int, out_features: int) -> nn.Module:
        """The layer after attention, without bias."""
        return self.linear(in_features, out_features)

    def norm2d(self, channels: int) -> nn.Module:
        """The norm of feature maps; the identity if there is none."""
        return make_norm2d(self.norm, channels, eps=self.norm_eps, device=self.device, dtype=self.dtype)

    def token_norm(self, dim: int) -> nn.Module:
        """The layer norm of tokens, without bias."""
        return LayerNorm(dim, eps=self.norm_eps, device=self.device, dtype=self.dtype)

    def activation(self) -> nn.Module:
        """What takes the place of a conventional network's activations; the identity if nothing does."""
        return make_activation(self.act)

    def encode(self, in_chans: int) -> nn.Module:
        """The first layer of the network, as `Encode`."""
        return Encode(in_chans, mean=self.mean, std=self.std, device=self.device, dtype=self.dtype)

    def encoded_channels(self, in_chans: int) -> int:
        """How many channels `encode` makes of an image with in_chans channels."""
        return 2 * in_chans

    def logits(self, num_classes: int) -> nn.Module:
        """The last layer of the network."""
        return LogitLayer(num_classes, bias=self.logit_bias, temperature=self.logit_temperature)


V2 = LayerSpec()


@dataclass(frozen=True)
class ConventionalSpec:
    """As `LayerSpec`, for a conventional transformer: layers and norms with biases, GELU, normalised input.

    mean, std: of each input channel. norm_eps: added to the variance.
    """

    norm_eps: float = 1e-5
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    def conv(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0
    ) -> nn.Conv2d:
        """A convolution with bias."""
        return nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, device=self.device, dtype=self.dtype
        )

    def linear(self, in_features: int, out_features: int) -> nn.Module:
        """A linear layer with bias."""
        return nn.Linear(in_features, out_features, device=self.device, dtype=self.dtype)

    def projection(self, in_features: int, out_features: int) -> nn.Linear:
        """A linear layer without bias."""
        return nn.Linear(in_features, out_features, bias=False, device=self.device, dtype=self.dtype)

    attention_output = projection

    def norm2d(self, channels: int) -> nn.Module:
        """Layer norm over channels and pixels, with bias."""
        return nn.GroupNorm(1, channels, eps=self.norm_eps, device=self.device, dtype=self.dtype)

    def token_norm(self, dim: int) -> nn.Module:
        """The layer norm of tokens, with bias."""
        return nn.LayerNorm(dim, eps=self.norm_eps, device=self.device, dtype=self.dtype)

    def activation(self) -> nn.Module:
        """GELU."""
        return nn.GELU()

    def encode(self, in_chans: int) -> nn.Module:
        """The first layer of the network: it normalises, and adds no inverted colours."""
        return Normalize(in_chans, mean=self.mean, std=self.std, device=self.device, dtype=self.dtype)

    def encoded_channels(self, in_chans: int) -> int:
        """How many channels `encode` makes of an image with in_chans channels."""
        return in_chans

    def logits(self, num_classes: int) -> nn.Module:
        """Nothing: the classifier has a bias of its own."""
        return nn.Identity()
