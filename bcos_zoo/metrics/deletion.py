"""How deleting and inserting pixels by importance changes the prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from ..errors import InputError, check_integer
from .checks import check_eval, check_values, wide

BLUR = 11, 5.0  # kernel and sigma in pixels, as in the code of RISE

RemovalOrder = Literal["most", "least"]
Score = Literal["sigmoid", "softmax", "logit"]


@dataclass(frozen=True)
class Curve:
    """Scores of the target at growing shares of deleted or inserted pixels."""

    fractions: Tensor  # (S + 1,), rising from 0
    scores: Tensor  # (S + 1,)

    @property
    def area(self) -> float:
        """Area under the curve, divided by its width; for a constant curve, its score."""
        return float(torch.trapezoid(self.scores, self.fractions) / self.fractions[-1])


def deletion_curve(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    attribution: Tensor,
    target: int,
    *,
    order: RemovalOrder = "most",
    fraction: float = 1.0,
    steps: int = 128,
    replacement: str | Tensor = "black",
    score: Score = "sigmoid",
    batch: int = 32,
) -> Curve:
    """How the target's score changes as pixels are deleted in the order of their importance.

    With the most important pixels deleted first, a small area speaks for the attribution; with the least
    important first, a large one does.

    model: from images (B, K, H, W) to logits (B, C); it is run without gradients.
    image: (K, H, W), as the model takes it. attribution: (H, W), of this image and target.
    order: "most" or "least" important first. Pixels of the same importance go row by row.
    fraction: share of the pixels that is deleted in the end, in (0, 1].
    steps: S, the number of steps, equally large up to rounding; the curve has S + 1 points.
    replacement: what deleted pixels become: "black", 0 in every channel; "mean", the image's mean colour;
    "blur", the image after a Gaussian blur; or an image (K, H, W) of your own.
    score: "sigmoid" or "softmax" probability of the target, or its "logit".
    batch: how many images the model sees at once.

    Black does contribute in a B-cos network, which sees [x, 1-x]. The curves of CoDA-Nets delete to zero in
    all 2K channels, which is no colour: to repeat them, give the encoded image and a model that takes it,
    with order="least", fraction=0.25, steps=128, and average over images.

    Raises InputError for other shapes and values, and if the model does not give finite logits (B, C).
    Source: Petsiuk et al. 2018 (RISE); the code published with Boehle et al. 2021 (CoDA-Nets).

    ```python
    import torch

    import bcos_zoo
    from bcos_zoo.metrics import deletion_curve

    model = bcos_zoo.load("bcos_resnet20.cifar10").model
    x = torch.rand(2, 3, 32, 32)
    map_ = bcos_zoo.explain(model, x[:1], 3).contributions[0, 0]
    curve = deletion_curve(model, x[0], map_, 3, steps=8)
    print(curve.area)
    ```
    """
    other = _replaced(image, replacement)
    return _curve(model, image, other, attribution, target, order, fraction, steps, score, batch)


def insertion_curve(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    attribution: Tensor,
    target: int,
    *,
    order: RemovalOrder = "most",
    fraction: float = 1.0,
    steps: int = 128,
    replacement: str | Tensor = "blur",
    score: Score = "sigmoid",
    batch: int = 32,
) -> Curve:
    """How the target's score changes as the image's pixels replace those of an image without information.

    With the most important pixels inserted first, a large area speaks for the attribution. Everything else is
    as in `deletion_curve`, except that the replacement, from which it starts, is "blur" by default, as
    published: then no edges appear between inserted pixels and the rest.

    Raises InputError as `deletion_curve` does.
    Source: Petsiuk et al. 2018 (RISE).

    ```python
    import torch

    import bcos_zoo
    from bcos_zoo.metrics import insertion_curve

    model = bcos_zoo.load("bcos_resnet20.cifar10").model
    x = torch.rand(2, 3, 32, 32)
    map_ = bcos_zoo.explain(model, x[:1], 3).contributions[0, 0]
    curve = insertion_curve(model, x[0], map_, 3, steps=8)
    print(curve.area)
    ```
    """
    other = _replaced(image, replacement)
    return _curve(model, other, image, attribution, target, order, fraction, steps, score, batch)


def _replaced(image: Tensor, replacement: str | Tensor) -> Tensor:
    """The image (K, H, W) after the deletion of all pixels."""
    check_values("image", image, "(K, H, W)")
    image = image.detach()
    if isinstance(replacement, Tensor):
        check_values("replacement", replacement, "(K, H, W)")
        if replacement.shape != image.shape:
            raise InputError(
                f"a replacement of shape {tuple(replacement.shape)}; "
                f"allowed is the image's, {tuple(image.shape)}"
            )
        return replacement.detach().to(image)
    if replacement == "black":
        return torch.zeros_like(image)
    if replacement == "mean":
        return image.mean((-2, -1), keepdim=True).expand_as(image)
    if replacement == "blur":
        kernel, sigma = BLUR
        if min(image.shape[-2:]) <= kernel // 2:
            raise InputError(
                f"an image of {image.shape[-2]}x{image.shape[-1]} pixels is too small to blur; allowed are "
                f"{kernel // 2 + 1} and more a side, or replacement='mean'"
            )
        return gaussian_blur(image, [kernel, kernel], [sigma, sigma])
    raise InputError(
        f"replacement={replacement!r}: allowed are 'black', 'mean', 'blur' and an image (K, H, W)"
    )


def _curve(
    model: Callable[[Tensor], Tensor],
    before: Tensor,
    after: Tensor,
    attribution: Tensor,
    target: int,
    order: str,
    fraction: float,
    steps: int,
    score: str,
    batch: int,
) -> Curve:
    """Scores as pixels of `before` become those of `after`."""
    check_values("attribution", attribution, "(H, W)")
    if attribution.shape != before.shape[-2:]:
        raise InputError(
            f"an attribution of {tuple(attribution.shape)} for an image {tuple(before.shape)}; "
            f"allowed is {tuple(before.shape[-2:])}: sum over channels, or resize it"
        )
    if order not in ("most", "least"):
        raise InputError(f"order={order!r}: allowed are 'most' and 'least', the pixels that go first")
    if score not in ("sigmoid", "softmax", "logit"):
        raise InputError(f"score={score!r}: allowed are 'sigmoid', 'softmax' and 'logit'")
    if not 0 < fraction <= 1:
        raise InputError(f"fraction={fraction}: allowed are shares of the pixels, above 0 and up to 1")
    pixels = attribution.numel()
    moved = max(1, round(fraction * pixels))
    check_eval(model)
    check_integer("steps", steps, 1, moved)
    check_integer("batch", batch, 1)
    check_integer("target", target, 0)

    counts = (torch.arange(steps + 1, dtype=torch.float64) / steps * moved).round()
    sequence = attribution.detach().flatten().argsort(descending=order == "most", stable=True)
    rank = torch.empty_like(sequence)
    rank[sequence] = torch.arange(pixels, device=rank.device)
    rank = rank.reshape(attribution.shape).to(before.device)
    scores = []
    with torch.no_grad():
        for some in torch.split(counts.to(before.device, torch.long), batch):
            changed = rank < some[:, None, None]
            logits = model(torch.where(changed[:, None], after, before))
            check_values("the model's logits", logits, "(B, C)")
            if len(logits) != len(some) or target >= logits.shape[1]:
                raise InputError(
                    f"the model gives {tuple(logits.shape)} for {len(some)} images and target {target}; "
                    f"allowed are logits ({len(some)}, C) and targets 0 to C-1"
                )
            scores.append(_scores(wide(logits), score)[:, target].cpu())
    return Curve(counts / pixels, torch.cat(scores))


def _scores(logits: Tensor, score: str) -> Tensor:
    if score == "sigmoid":
        return logits.sigmoid()
    return logits.softmax(1) if score == "softmax" else logits
