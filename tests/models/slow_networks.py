"""The published networks written out a second time: slowly, in float64, from a state dict alone.

Nothing here is taken from `bcos_zoo`. Each factor that depends on the image (a cosine, the winner of MaxOut,
a standard deviation, a gate, an attention) is computed in a first pass and kept. Later passes with the kept
factors are one linear map plus constants, whatever goes in: `explain` reads off both.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Network = Callable[["Pass", Tensor], Tensor]


@dataclass
class Pass:
    """A state dict, the rules of its layers, and the factors of one batch of images.

    scale: from (kernel height, kernel width, input channels) to the divisor of a convolution's output.
    act: "relu", "gelu" or "" for none. eps: of the norms.
    """

    state: Mapping[str, Tensor]
    b: float = 2.0
    max_out: int = 1
    normalize: bool = True
    scale: Callable[[int, int, int], float] = lambda height, width, channels: 1.0
    act: str = ""
    eps: float = 1e-5
    kept: list[Tensor] = field(default_factory=list)
    replay: Iterator[Tensor] | None = None

    def factor(self, compute: Callable[[], Tensor]) -> Tensor:
        """What `compute` gives, in the first pass; what it gave then, in all later ones."""
        if self.replay is not None:
            return next(self.replay)
        self.kept.append(compute().detach())
        return self.kept[-1]

    def has(self, name: str) -> bool:
        return any(key.startswith(f"{name}.") for key in self.state)

    def _bcos(self, responses: Tensor, norm: Callable[[], Tensor], scale: float) -> Tensor:
        """From (N, units, ...) responses: the largest of each group, times |cos|^(b-1), divided by scale."""
        if self.max_out > 1:
            responses = responses.unflatten(1, (-1, self.max_out))
            chosen = self.factor(lambda: (responses == responses.amax(2, keepdim=True)).double())
            responses = (responses * chosen).sum(2)
        if self.b != 1:
            extra = 0 if self.b == 2 else 1e-6
            responses = responses * self.factor(lambda: ((responses / norm()).abs() + extra) ** (self.b - 1))
        return responses / scale

    def _weight(self, name: str) -> Tensor:
        weight = self.state[f"{name}.linear.weight"]
        if self.normalize:
            weight = weight / weight.square().sum(tuple(range(1, weight.ndim)), keepdim=True).sqrt()
        return weight

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: Any = 0) -> Tensor:
        weight = self._weight(name)
        _, channels, height, width = weight.shape
        window = torch.ones(1, channels, height, width, dtype=x.dtype)
        responses = F.conv2d(x, weight, None, stride, padding)
        norm = lambda: (F.conv2d(x.square(), window, None, stride, padding) + 1e-6).sqrt()  # noqa: E731
        return self._bcos(responses, norm, self.scale(height, width, channels))

    def linear(self, name: str, x: Tensor) -> Tensor:
        """A B-cos layer on tokens (N, L, D)."""
        responses = (x @ self._weight(name).T).transpose(1, 2)
        norm = lambda: x.square().sum(2).sqrt()[:, None] + 1e-12  # noqa: E731
        return self._bcos(responses, norm, 1.0).transpose(1, 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Uncentred batch norm in eval mode, if the network has a norm of that name."""
        if not self.has(name):
            return x
        gain = self.state[f"{name}.weight"] / (self.state[f"{name}.running_var"] + self.eps).sqrt()
        return x * gain[:, None, None]

    def layer_norm(self, name: str, x: Tensor, dims: tuple[int, ...]) -> Tensor:
        """Centred, over `dims`; the weight is of dim 1 of maps, and of the last dim of tokens."""
        x = x - x.mean(dims, keepdim=True)
        x = x * self.factor(lambda: 1 / (x.square().mean(dims, keepdim=True) + self.eps).sqrt())
        weight = self.state[f"{name}.weight"]
        return x * (weight[:, None, None] if x.ndim == 4 else weight)

    def activate(self, x: Tensor) -> Tensor:
        if not self.act:
            return x
        if self.act == "relu":
            return x * self.factor(lambda: (x > 0).double())
        return x * self.factor(lambda: 0.5 * (1 + torch.erf(x / math.sqrt(2))))

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(N, heads, L, D) each: the mean of v by softmax(q k / sqrt(D)), token by token."""
        shares = self.factor(lambda: ((q / math.sqrt(q.shape[-1])) @ k.transpose(2, 3)).softmax(3))
        return shares @ v


@dataclass(frozen=True)
class Explained:
    logits: Tensor  # (N, C)
    weights: Tensor  # (N, C, 2K, H, W)
    bias: Tensor  # (N, C)


def explain(
    network: Network, start: Pass, encoded: Tensor, *, bias: float = 0.0, temperature: float = 1.0
) -> Explained:
    """The logits, and the linear map and the constant that make them with all factors kept.

    encoded: (N, 2K, H, W). bias, temperature: of the last layer.
    """
    logits = network(start, encoded) / temperature + bias

    def frozen(z: Tensor) -> Tensor:
        start.replay = iter(start.kept)
        return network(start, z) / temperature + bias

    other = torch.rand_like(encoded).requires_grad_()  # any: the slope of a linear map is the same everywhere
    rows = [torch.autograd.grad(row.sum(), other, retain_graph=True)[0] for row in frozen(other).T]
    weights = torch.stack(rows, 1)
    constant = frozen(torch.zeros_like(encoded))
    again = (weights * encoded[:, None]).flatten(2).sum(2) + constant
    torch.testing.assert_close(again, logits, rtol=1e-9, atol=1e-9 * float(logits.abs().max()))
    return Explained(logits, weights, constant)


@torch.no_grad()
def with_weights(model: Any, x: Tensor | None = None, mean: float = 0.1) -> Any:
    """Random weights in place; the norms' variances are measured on x, and their means, not used, random too.

    mean: of the weights, in standard deviations: about the cosine at which layers then see their input.
    """
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        if p.numel() == len(p):
            p.copy_(2 * torch.rand(p.shape, generator=generator) - 0.5)  # some are negative
        else:
            p.copy_((torch.randn(p.shape, generator=generator) + mean) / math.sqrt(p[0].numel()))
    norms = [module for module in model.modules() if hasattr(module, "running_var")]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        model.train()(x)
    for norm in norms:
        norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=generator))
    return model.eval()


def named(net: Pass, pattern: str, start: int = 0) -> Iterator[tuple[int, str]]:
    """(number, name) of the modules that the state dict has of a pattern with one number."""
    for number in itertools.count(start):
        name = pattern.format(number)
        if not net.has(name):
            return
        yield number, name


def resnet(net: Pass, z: Tensor) -> Tensor:
    large = net.state["conv1.linear.weight"].shape[-1] == 7
    x = net.conv("conv1", z, 2, 3) if large else net.conv("conv1", z, 1, 1)
    x = net.activate(net.norm("bn1", x))
    x = F.avg_pool2d(x, 3, 2, 1) if large else x
    for stage, layer in named(net, "layer{}", 1):
        for index, block in named(net, layer + ".{}"):
            stride = 2 if stage > 1 and index == 0 else 1
            shortcut = x
            if net.has(f"{block}.downsample"):
                shortcut = net.norm(f"{block}.downsample.1", net.conv(f"{block}.downsample.0", x, stride))
            if net.has(f"{block}.conv3"):
                x = net.activate(net.norm(f"{block}.bn1", net.conv(f"{block}.conv1", x)))
                x = net.activate(net.norm(f"{block}.bn2", net.conv(f"{block}.conv2", x, stride, 1)))
                x = net.norm(f"{block}.bn3", net.conv(f"{block}.conv3", x))
            else:
                x = net.activate(net.norm(f"{block}.bn1", net.conv(f"{block}.conv1", x, stride, 1)))
                x = net.norm(f"{block}.bn2", net.conv(f"{block}.conv2", x, 1, 1))
            x = net.activate(x + shortcut)
    return net.conv("fc", x).mean((2, 3))


def densenet(net: Pass, z: Tensor) -> Tensor:
    x = net.activate(net.norm("features.norm0", net.conv("features.conv0", z, 2, 3)))
    x = F.avg_pool2d(x, 3, 2, 1)
    for number, block in named(net, "features.denseblock{}", 1):
        for _, layer in named(net, block + ".denselayer{}", 1):
            y = net.conv(f"{layer}.conv1", net.activate(net.norm(f"{layer}.norm1", x)))
            y = net.conv(f"{layer}.conv2", net.activate(net.norm(f"{layer}.norm2", y)), 1, 1)
            x = torch.cat([x, y], 1)
        transition = f"features.transition{number}"
        if net.has(transition):
            x = net.activate(net.norm(f"{transition}.norm", x))
            x = F.avg_pool2d(net.conv(f"{transition}.conv", x), 2)
    return net.conv("classifier", net.activate(net.norm("features.norm5", x))).mean((2, 3))


def vgg(net: Pass, z: Tensor) -> Tensor:
    """A number in `features` that has no weights is a pooling."""
    x = z
    numbers = [int(key.split(".")[1]) for key in net.state if key.startswith("features.")]
    for number in range(max(numbers) + 2):
        if f"features.{number}.linear.weight" in net.state:
            x = net.conv(f"features.{number}", x, 1, 1)
        elif net.has(f"features.{number}"):
            x = net.norm(f"features.{number}", x)
        else:
            x = F.avg_pool2d(x, 2)
    x = net.conv("classifier.1", net.conv("classifier.0", x, 1, 3))
    return net.conv("classifier.2", x).mean((2, 3))


def plain9(net: Pass, z: Tensor) -> Tensor:
    x = z
    for number in range(8):
        x = net.conv(str(number), x, 2 if number in (2, 5) else 1, 1)
    return net.conv("8", x).mean((2, 3))


def _inception_conv(net: Pass, name: str, x: Tensor, stride: int = 1, padding: Any = 0) -> Tensor:
    return net.norm(f"{name}.bn", net.conv(f"{name}.conv", x, stride, padding))


def inception_middle(net: Pass, z: Tensor) -> Tensor:
    """Up to the map that the auxiliary head sees."""
    conv = functools.partial(_inception_conv, net)
    x = conv("Conv2d_2a_3x3", conv("Conv2d_1a_3x3", z, 2))
    x = F.avg_pool2d(conv("Conv2d_2b_3x3", x, 1, 1), 3, 2)
    x = F.avg_pool2d(conv("Conv2d_4a_3x3", conv("Conv2d_3b_1x1", x)), 3, 2)
    for m in ("Mixed_5b.branch", "Mixed_5c.branch", "Mixed_5d.branch"):
        five = conv(f"{m}5x5_2", conv(f"{m}5x5_1", x), 1, 2)
        three = conv(f"{m}3x3dbl_3", conv(f"{m}3x3dbl_2", conv(f"{m}3x3dbl_1", x), 1, 1), 1, 1)
        pooled = conv(f"{m}_pool", F.avg_pool2d(x, 3, 1, 1))
        x = torch.cat([conv(f"{m}1x1", x), five, three, pooled], 1)
    m = "Mixed_6a.branch"
    three = conv(f"{m}3x3dbl_3", conv(f"{m}3x3dbl_2", conv(f"{m}3x3dbl_1", x), 1, 1), 2)
    x = torch.cat([conv(f"{m}3x3", x, 2), three, F.avg_pool2d(x, 3, 2)], 1)
    across, down = (0, 3), (3, 0)  # paddings of 1x7 and 7x1
    for m in ("Mixed_6b.branch", "Mixed_6c.branch", "Mixed_6d.branch", "Mixed_6e.branch"):
        seven = conv(f"{m}7x7_3", conv(f"{m}7x7_2", conv(f"{m}7x7_1", x), 1, across), 1, down)
        twice = conv(f"{m}7x7dbl_3", conv(f"{m}7x7dbl_2", conv(f"{m}7x7dbl_1", x), 1, down), 1, across)
        twice = conv(f"{m}7x7dbl_5", conv(f"{m}7x7dbl_4", twice, 1, down), 1, across)
        pooled = conv(f"{m}_pool", F.avg_pool2d(x, 3, 1, 1))
        x = torch.cat([conv(f"{m}1x1", x), seven, twice, pooled], 1)
    return x


def inception_auxiliary(net: Pass, middle: Tensor) -> Tensor:
    x = _inception_conv(net, "AuxLogits.conv0", F.avg_pool2d(middle, 5, 3))
    return net.conv("AuxLogits.fc", _inception_conv(net, "AuxLogits.conv1", x)).mean((2, 3))


def inception(net: Pass, z: Tensor) -> Tensor:
    conv = functools.partial(_inception_conv, net)
    x = inception_middle(net, z)
    m = "Mixed_7a.branch"
    seven = conv(f"{m}7x7x3_2", conv(f"{m}7x7x3_1", x), 1, (0, 3))
    seven = conv(f"{m}7x7x3_4", conv(f"{m}7x7x3_3", seven, 1, (3, 0)), 2)
    x = torch.cat([conv(f"{m}3x3_2", conv(f"{m}3x3_1", x), 2), seven, F.avg_pool2d(x, 3, 2)], 1)
    for m in ("Mixed_7b.branch", "Mixed_7c.branch"):
        three = conv(f"{m}3x3_1", x)
        twice = conv(f"{m}3x3dbl_2", conv(f"{m}3x3dbl_1", x), 1, 1)
        parts = [conv(f"{m}1x1", x)]
        for name, y in ((f"{m}3x3_2", three), (f"{m}3x3dbl_3", twice)):
            parts += [conv(f"{name}a", y, 1, (0, 1)), conv(f"{name}b", y, 1, (1, 0))]
        x = torch.cat([*parts, conv(f"{m}_pool", F.avg_pool2d(x, 3, 1, 1))], 1)
    return net.conv("fc", x).mean((2, 3))


def _heads(projected: Tensor, heads: int) -> Tensor:
    return projected.unflatten(2, (heads, -1)).transpose(1, 2)


def vit(
    net: Pass, z: Tensor, *, heads: int, patch: int, positions: Callable[[int, int, int], Tensor]
) -> Tensor:
    """The B-cosified one: it classifies each token. positions: (rows, columns, D) -> (rows * columns, D)."""
    x = z
    stem = "to_patch_embedding.conv_stem"
    for number in range(0, 18, 3):
        if net.has(f"{stem}.{number}"):
            wider = len(net.state[f"{stem}.{number}.linear.weight"]) > x.shape[1]
            x = net.conv(f"{stem}.{number}", x, 2 if wider else 1, 1)
            x = net.activate(net.layer_norm(f"{stem}.{number + 1}", x, (1, 2, 3)))
    rows, columns = x.shape[2] // patch, x.shape[3] // patch
    tokens = [
        x[:, :, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].permute(0, 2, 3, 1).flatten(1)
        for r in range(rows)
        for c in range(columns)
    ]
    x = net.linear("to_patch_embedding.linear", torch.stack(tokens, 1))
    x = x + positions(rows, columns, x.shape[2])
    for _, name in named(net, "transformer.encoder_{}"):
        y = net.layer_norm(f"{name}.attn.norm", x, (2,)) @ net.state[f"{name}.attn.to_qkv.weight"].T
        y = net.attention(*(_heads(part, heads) for part in y.chunk(3, 2)))
        x = x + net.linear(f"{name}.attn.to_out", y.transpose(1, 2).flatten(2))
        y = net.linear(f"{name}.ff.net.linear1", net.layer_norm(f"{name}.ff.net.norm", x, (2,)))
        x = x + net.linear(f"{name}.ff.net.linear2", net.activate(y))
    return net.linear("linear_head.linear", net.layer_norm("linear_head.norm", x, (2,))).mean(1)


def clip_features(net: Pass, z: Tensor) -> Tensor:
    """(N, K, H, W)"""
    x = z
    for number in (1, 2, 3):
        x = net.activate(net.norm(f"bn{number}", net.conv(f"conv{number}", x, 2 if number == 1 else 1, 1)))
    x = F.avg_pool2d(x, 2)
    for stage, layer in named(net, "layer{}", 1):
        for index, block in named(net, layer + ".{}"):
            stride = 2 if stage > 1 and index == 0 else 1
            shortcut = x
            if net.has(f"{block}.downsample"):
                shortcut = net.conv(f"{block}.downsample.1", F.avg_pool2d(x, stride))
                shortcut = net.norm(f"{block}.downsample.2", shortcut)
            x = net.activate(net.norm(f"{block}.bn1", net.conv(f"{block}.conv1", x)))
            x = net.activate(net.norm(f"{block}.bn2", net.conv(f"{block}.conv2", x, 1, 1)))
            x = net.norm(f"{block}.bn3", net.conv(f"{block}.conv3", F.avg_pool2d(x, stride)))
            x = net.activate(x + shortcut)
    return x


def clip_resnet(net: Pass, z: Tensor, *, heads: int) -> Tensor:
    tokens = clip_features(net, z).flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
    q, k, v = (_heads(tokens @ net.state[f"attnpool.{name}_proj.weight"].T, heads) for name in "qkv")
    pooled = net.attention(q, k, v)[:, :, 0].flatten(1)
    return pooled @ net.state["attnpool.c_proj.linear.weight"].T


def clip_each(net: Pass, z: Tensor) -> Tensor:
    """(N, dim, H, W): the unit-length embedding of each position."""
    x = clip_features(net, z)
    tokens = x.flatten(2).transpose(1, 2) @ net.state["attnpool.v_proj.weight"].T
    tokens = net.linear("attnpool.c_proj", tokens)
    tokens = tokens / net.factor(lambda: tokens.square().sum(2, keepdim=True).sqrt())
    return tokens.transpose(1, 2).unflatten(2, x.shape[2:])
