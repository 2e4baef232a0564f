"""Properties of explanations that need no label: completeness, constants, sparseness, stability."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, check_integer
from .checks import check_values, maps, wide


@dataclass(frozen=True)
class Gap:
    """What an explanation leaves unexplained."""

    absolute: Tensor  # (...), in logits, at least 0
    relative: Tensor  # (...), the same, divided by |logit - bias|


def completeness_gap(contributions: Tensor, bias: Tensor, logits: Tensor) -> Gap:
    """|logit - bias - sum of contributions|: only rounding, if the explanation is exact.

    contributions: (..., H, W). bias, logits: (...), of the same targets; those of an explanation are
    `logits.gather(1, targets)`.
    The relative gap is a share of what is to be explained, |logit - bias|. If that is 0, it is 0 for a gap of
    0 and infinite for any other.
    Raises InputError for other shapes and for values that are not finite.
    Source: the axiom of Sundararajan et al. 2017 (Integrated Gradients), with the bias as baseline.

    ```python
    import torch

    import bcos_zoo
    from bcos_zoo.metrics import completeness_gap

    model = bcos_zoo.load("bcos_resnet20.cifar10").model
    x = torch.rand(2, 3, 32, 32)
    e = bcos_zoo.explain(model, x, 3)
    gap = completeness_gap(e.contributions, e.bias, e.logits.gather(1, e.targets))
    assert gap.absolute.max() < 1e-3
    ```
    """
    total = maps("contributions", contributions).sum((-2, -1))
    for name, values in (("bias", bias), ("logits", logits)):
        check_values(name, values, "(...)")
        if values.shape != total.shape:
            raise InputError(
                f"{name} of shape {tuple(values.shape)} for contributions {tuple(contributions.shape)}; "
                f"allowed is {tuple(total.shape)}: one for each map"
            )
    explained = wide(logits.to(total.device)) - wide(bias.to(total.device))
    absolute = (explained - total).abs()
    return Gap(absolute, _ratio(absolute, explained.abs()))


def constant_share(contributions: Tensor, bias: Tensor) -> Tensor:
    """How much of a logit comes from no pixel: (N, T) in [0, 1], |bias| / (|bias| + |sum of contributions|).

    contributions: (N, T, H, W). bias: (N, T), all constants together: biases and means of norms, tokens and
    positions, the logit bias. 0 where the pixels explain the whole logit; nan where the logit is 0.
    Raises InputError for other shapes, and for values that are not finite.

    ```python
    import torch

    from bcos_zoo.metrics import constant_share

    assert float(constant_share(torch.full((1, 1, 2, 2), 0.75), torch.ones(1, 1))) == 0.25
    ```
    """
    pixels = maps("contributions", contributions).sum((-2, -1)).abs()
    check_values("bias", bias, "(N, T)")
    if bias.shape != pixels.shape:
        raise InputError(
            f"bias of shape {tuple(bias.shape)}; the contributions are {tuple(contributions.shape)}"
        )
    constants = wide(bias).abs()
    return constants / (constants + pixels)


def sparseness(attributions: Tensor) -> Tensor:
    """Gini index of the absolute attributions, (...): 0 if all are equal, 1 - 1/(H*W) if one pixel has all.

    attributions: (..., H, W). A map of zeros has index 0, as all its pixels are equal.
    Raises InputError for other shapes and for values that are not finite.
    Source: Hurley and Rickard 2009; for explanations, Chalasani et al. 2020.

    ```python
    import torch

    from bcos_zoo.metrics import sparseness

    assert sparseness(torch.ones(4, 4)) == 0
    assert sparseness(torch.eye(16)[0].view(4, 4)) == 1 - 1 / 16
    ```
    """
    values = maps("attributions", attributions).abs().flatten(-2).sort(-1).values
    n = values.shape[-1]
    total = values.sum(-1)
    weights = (n - torch.arange(1, n + 1, device=values.device, dtype=values.dtype) + 0.5) / n
    shares = values / torch.where(total > 0, total, 1).unsqueeze(-1)
    return torch.where(total > 0, 1 - 2 * (shares * weights).sum(-1), 0).clamp_min(0)  # against rounding


@dataclass(frozen=True)
class Stability:
    """Relative changes of an explanation under noise, 0 for none."""

    mean: float
    max: float


def stability(
    explainer: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    size: float = 0.02,
    samples: int = 10,
    seed: int = 0,
    batch: int = 8,
) -> Stability:
    """Mean and maximum of the change |E(x + noise) - E(x)| / |E(x)| in an explanation E, in Euclidean norm.

    explainer: from images (B, K, H, W) to explanations (B, ...), such as contributions (B, H, W), all for one
    target: explanations of the predicted class would not be comparable where noise changes that class.
    image: (K, H, W) in [0, 1].
    size: the noise is uniform in [-size, size], independent for each value; results are clipped to [0, 1].
    0.02 is about 5 steps of 8-bit colour.
    samples: number of noisy images. seed: of the noise, which is the same on all devices.
    batch: how many images are explained at once.
    If E(x) is 0, a change is 0 if E(x + noise) is 0 too, and otherwise infinite.

    Raises InputError for other shapes and values, and if the explainer does not give finite values (B, ...).
    Source: Yeh et al. 2019, max-sensitivity, here relative to |E(x)|.

    ```python
    import torch

    from bcos_zoo.metrics import stability

    unmoved = stability(lambda images: torch.ones(len(images), 8, 8), torch.rand(3, 8, 8))
    assert unmoved.mean == unmoved.max == 0
    ```
    """
    check_values("image", image, "(K, H, W)")
    if image.min() < 0 or image.max() > 1:
        raise InputError(
            f"an image with values from {float(image.min()):.3g} to {float(image.max()):.3g}; "
            "allowed is [0, 1]: leave out mean/std normalisation"
        )
    if not (size > 0 and math.isfinite(size)):
        raise InputError(f"size={size}: allowed are finite values above 0, in units of the image's [0, 1]")
    check_integer("samples", samples, 1)
    check_integer("batch", batch, 1)
    check_integer("seed", seed, 0)
    image, generator = image.detach(), torch.Generator().manual_seed(seed)
    clean = _explained(explainer, image[None])
    changes = []
    for start in range(0, samples, batch):
        shape = (min(batch, samples - start), *image.shape)
        noise = size * (2 * torch.rand(shape, generator=generator) - 1)
        explained = _explained(explainer, (image + noise.to(image)).clamp(0, 1))
        if explained.shape[1:] != clean.shape[1:]:
            raise InputError(
                f"the explainer gives {tuple(clean.shape[1:])} for one image and "
                f"{tuple(explained.shape[1:])} for another; allowed is one shape: explain one target"
            )
        changes.append(torch.linalg.vector_norm((explained - clean).flatten(1), dim=1))
    relative = _ratio(torch.cat(changes), torch.linalg.vector_norm(clean))
    return Stability(float(relative.mean()), float(relative.max()))


def _explained(explainer: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    explained = explainer(images)
    check_values("the explainer's values", explained, "(B, ...)")
    if len(explained) != len(images):
        raise InputError(
            f"the explainer gives {tuple(explained.shape)} for {len(images)} images; "
            f"allowed is ({len(images)}, ...): one explanation for each"
        )
    return wide(explained)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, both at least 0; 0 / 0 is 0, and anything else / 0 is infinite."""
    return torch.where(part == 0, 0, part / whole)
