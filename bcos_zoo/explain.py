"""The explanation of a B-cos network: the linear map `W(x)` it is for one image, and what each pixel adds."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InputError
from .files import replacing
from .layers import linear_mode
from .layers.functional import at_least_float32

Target = int | str
Targets = Target | Sequence[Target] | Tensor | None

DEFAULT_SMOOTH = 15  # pixels; the published pictures, made at 224 px
DEFAULT_PERCENTILE = 99.5
TINY = 1e-12


@dataclass(frozen=True)
class Explanation:
    """N images explained for T targets each. All is in logits and refers to the encoded channels [x, 1-x].

    `contributions.sum((-1, -2)) + bias == logits.gather(1, targets)` up to rounding: nothing is left over.
    """

    logits: Tensor  # (N, C)
    targets: Tensor  # (N, T) long
    weights: Tensor  # (N, T, 2K, H, W): W(x), the row of the linear map that makes each target's logit
    contributions: Tensor  # (N, T, H, W): encoded image times weights, summed over channels
    bias: Tensor  # (N, T): what the network's constants add; for CNNs the logit bias
    labels: tuple[tuple[str, ...], ...] | None = None  # names of the targets, per image
    smooth: int = DEFAULT_SMOOTH  # what `rgba` smooths by unless told otherwise
    percentile: float = DEFAULT_PERCENTILE

    def completeness(self) -> Tensor:
        """(N, T): logit less all that explains it, in logits: rounding, if the network is linear in x."""
        return self.logits.gather(1, self.targets) - self.contributions.sum((-1, -2)) - self.bias

    def rgba(self, smooth: int | None = None, percentile: float | None = None) -> Tensor:
        """The explanation in colour, as published: (N, T, 4, H, W) in [0, 1], RGB and opacity.

        A pixel's colour is the direction of its positive weights; its opacity is the length of all its
        weights, averaged over `smooth` pixels and relative to the given percentile, and nil where the pixel
        speaks against the target. Where nothing speaks for it the picture is transparent.
        smooth: window in pixels, 1 or 0 for none. percentile: in (0, 100].
        Raises InputError for other values, and for networks of other than one or three input channels.
        Source: Boehle et al. 2022, section 4.
        """
        smooth = self.smooth if smooth is None else smooth
        percentile = self.percentile if percentile is None else percentile
        if smooth < 0 or not 0 < percentile <= 100:
            raise InputError(
                f"smooth={smooth}, percentile={percentile}: allowed are smooth >= 0 and 0 < percentile <= 100"
            )
        weights, half = at_least_float32(self.weights), self.weights.shape[2] // 2
        if half not in (1, 3):
            raise InputError(
                f"a network of {half} input channels has no colours; rgba is for 1 (grey) and 3 (RGB)"
            )
        direction = (weights / (weights.abs().amax(2, keepdim=True) + TINY)).clamp_min(0)
        colour = direction[:, :, :half] / (direction[:, :, :half] + direction[:, :, half:] + TINY)
        alpha = torch.linalg.vector_norm(weights, dim=2) * (self.contributions >= 0)
        if smooth > 1:
            before, after = (
                (smooth - 1) // 2,
                smooth // 2,
            )  # even windows reach one pixel further right and down
            alpha = F.avg_pool2d(F.pad(alpha, (before, after, before, after)), smooth, stride=1)
        flat = alpha.flatten(2)
        top = torch.quantile(flat, percentile / 100, dim=2)
        top = torch.where(
            top > 0, top, flat.amax(2)
        )  # fewer pixels speak for it than the percentile leaves out
        alpha = (alpha / torch.where(top > 0, top, 1)[..., None, None]).clamp(0, 1)
        return torch.cat([colour.expand(-1, -1, 3, -1, -1), alpha.unsqueeze(2)], dim=2)

    def contrast(self, a: Target, b: Target) -> Explanation:
        """What speaks for `a` rather than `b`: the explanation of the one logit `s_a - s_b`, just as exact.

        a, b: two of the explained targets, as class indices or labels. Raises InputError for any other.
        """
        i, j = self._position(a), self._position(b)
        image = torch.arange(len(self.logits), device=self.logits.device)

        def difference(of: Tensor) -> Tensor:
            return (of[image, i] - of[image, j]).unsqueeze(1)

        return replace(
            self,
            logits=difference(self.logits.gather(1, self.targets)),
            targets=torch.zeros_like(self.targets[:, :1]),
            weights=difference(self.weights),
            contributions=difference(self.contributions),
            bias=difference(self.bias),
            labels=((f"{a} - {b}",),) * len(self.logits),
        )

    def _position(self, target: Target) -> Tensor:
        """(N,): where each image holds that target."""
        if isinstance(target, str):
            at = [row.index(target) if target in row else -1 for row in self.labels or ()]
            found = torch.tensor(at or [-1], device=self.targets.device)
        else:
            hit = self.targets == target
            found = torch.where(hit.any(1), hit.int().argmax(1), -1)
        if (found < 0).any():
            raise InputError(
                f"{target!r} is not among the explained targets; name it in `targets` of explain()"
            )
        return found

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all arrays to an `.npz` file, whole or not at all, and return its path.

        Raises InputError for another ending, OSError if the place cannot be written.
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise InputError(
                f"{path}: an explanation's arrays are saved as .npz; pictures are made by bcos_zoo.render"
            )
        arrays: dict[str, Any] = {
            name: at_least_float32(getattr(self, name).detach()).cpu().numpy()
            for name in ("logits", "targets", "weights", "contributions", "bias")
        }
        if self.labels is not None:
            arrays["labels"] = np.array(self.labels)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return path


def explain(
    model: nn.Module,
    x: Tensor,
    targets: Targets = None,
    *,
    class_names: Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
) -> Explanation:
    """Explain a batch of images exactly, from one forward pass. Neither `x` nor the model is changed.

    model: a network of `bcos_zoo.layers` in eval mode that gives logits (N, C); one from torch.compile is
    explained uncompiled.
    x: (N, K, H, W) in [0, 1], not normalised, on any device.
    targets: None for each image's predicted class; an index or label for all images; a list of them for T
    targets an image; a tensor (N,) with one index an image, or (N, T).
    class_names: what labels refer to, one for each class; by default those of the model's card, if any.
    dtype: of the computation; by default the model's own, but float32 at least, whatever autocast says: half
    precision can underflow to zero.

    Raises InputError for a model in training mode or without a linear map, and for images or targets that do
    not fit.
    Source: Boehle et al. 2022, section 3.3.
    """
    model = getattr(model, "_orig_mod", model)
    if any(module.training for module in model.modules()):
        raise InputError(
            "the model is in training mode, where the images of a batch mix; call model.eval() first"
        )
    check_images(x)
    own = next((p for p in model.parameters() if p.is_floating_point()), None)
    model_dtype, device = (torch.float32, x.device) if own is None else (own.dtype, own.device)
    if dtype is None:
        dtype = torch.promote_types(model_dtype, torch.float32)

    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        if own is not None and (dtype != own.dtype or own.is_inference()):
            model = copy.deepcopy(model).to(dtype)  # a copy: other threads may be using the caller's
        image = x.detach().to(device, dtype, copy=True)
        with linear_mode(freeze_parameters=True) as tape:
            logits = model(image)
        if tape.encoded is None:
            raise InputError(
                f"{type(model).__name__} has no B-cos encoding layer, so no linear map to explain"
            )
        if logits.ndim != 2:
            raise InputError(
                f"the model gives {tuple(logits.shape)}; to explain it must give logits (N, C): "
                "keep its pooling and classifier"
            )
        names = class_names if class_names is not None else _card_names(model)
        picked = resolve_targets(targets, logits, names)
        weights, bias = _gradients(logits, picked, tape.encoded, tape.constants)
        contributions = (tape.encoded.detach().unsqueeze(1) * weights).sum(2)
    labels = None if names is None else tuple(tuple(names[i] for i in row) for row in picked.tolist())
    return Explanation(logits.detach(), picked, weights, contributions, bias, labels)


def _gradients(
    logits: Tensor, targets: Tensor, encoded: Tensor, constants: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """W(x) (N, T, 2K, H, W) and the constants' share (N, T), by one backward pass for each of the T targets.

    Images do not mix in eval mode, so the sum of one logit of each has each image's own gradient.
    """
    weights, bias = [], []
    for t in range(targets.shape[1]):
        chosen = logits.gather(1, targets[:, t : t + 1]).sum()
        first, *rest = torch.autograd.grad(
            chosen, [encoded, *constants], retain_graph=t + 1 < targets.shape[1], materialize_grads=True
        )
        weights.append(first)
        shares = [(g * c.detach()).flatten(1).sum(1) for g, c in zip(rest, constants, strict=True)]
        bias.append(torch.stack(shares).sum(0) if shares else logits.new_zeros(len(logits)))
    return torch.stack(weights, 1), torch.stack(bias, 1).detach()


def check_images(x: Tensor) -> None:
    """Raise InputError unless x is a non-empty batch (N, K, H, W) of finite values in [0, 1]."""
    if x.ndim != 4:
        hint = "; add the batch axis with x[None]" if x.ndim == 3 else ""
        raise InputError(f"got a tensor of shape {tuple(x.shape)}; images come as (N, K, H, W){hint}")
    if not x.is_floating_point():
        raise InputError(f"got {x.dtype} images; allowed are floats in [0, 1]: divide 8-bit values by 255")
    if x.numel() == 0:
        raise InputError(
            f"got a tensor of shape {tuple(x.shape)}, which holds no pixel; give at least one image"
        )
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # written so that NaN fails too
        if low != low or high != high:
            raise InputError(
                "the images hold NaN; allowed are finite values in [0, 1]: look for what divided by zero"
            )
        raise InputError(
            f"the images hold values from {low:.3g} to {high:.3g}; allowed is [0, 1]: "
            "leave out mean/std normalisation"
        )


def resolve_targets(targets: Targets, logits: Tensor, class_names: Sequence[str] | None) -> Tensor:
    """(N, T) long class indices from any of the forms `explain` takes. Raises InputError for any other."""
    n, c = logits.shape
    if class_names is not None and len(class_names) != c:
        raise InputError(f"{len(class_names)} class names for {c} classes; give one for each")
    if targets is None:
        return logits.argmax(1, keepdim=True)
    if isinstance(targets, Tensor):
        if targets.is_floating_point() or targets.dtype == torch.bool:
            raise InputError(
                f"targets are a tensor of {targets.dtype}; allowed are class indices, as integers"
            )
        if targets.shape[:1] != (n,) or targets.ndim > 2 or targets.numel() == 0:
            raise InputError(
                f"targets have shape {tuple(targets.shape)}; for {n} images allowed are ({n},) and ({n}, T)"
            )
        picked = targets.detach().to(logits.device, torch.long).reshape(n, -1)
    else:
        wanted = targets if isinstance(targets, Sequence) and not isinstance(targets, str) else [targets]
        if not wanted:
            raise InputError(
                "targets are an empty list; give at least one class, or None for the predicted one"
            )
        indices = [_index(target, class_names) for target in wanted]
        picked = torch.tensor(indices, device=logits.device).expand(n, -1)
    if (picked < 0).any() or (picked >= c).any():
        wrong = picked[(picked < 0) | (picked >= c)][0].item()
        raise InputError(f"target {wrong} is no class of this model; allowed are 0 to {c - 1}")
    return picked


def _index(target: Target, class_names: Sequence[str] | None) -> int:
    if isinstance(target, str):
        if class_names is None:
            raise InputError(
                f"target {target!r} is a label, but this model has no class names; give the class index"
            )
        indices = [index for index, name in enumerate(class_names) if name == target]
        if not indices:
            shown = ", ".join(class_names) if len(class_names) <= 20 else f"{', '.join(class_names[:5])}, ..."
            raise InputError(f"no class named {target!r}; this model knows {shown}")
        if len(indices) > 1:
            raise InputError(f"{target!r} is the name of the classes {indices}; give the index of one")
        return indices[0]
    if isinstance(target, bool) or not isinstance(target, Integral):
        raise InputError(
            f"target {target!r} is a {type(target).__name__}; allowed are class indices and labels, "
            "a list of them, or a tensor of indices"
        )
    return int(target)


def _card_names(model: nn.Module) -> Sequence[str] | None:
    card = getattr(model, "pretrained_cfg", None) or {}
    names = card.get("label_names")
    return names if names and len(names) == getattr(model, "num_classes", None) else None


class ExplanationHead(nn.Module):
    """`explain` as a module that keeps model and settings together. (N, K, H, W) in [0, 1] -> Explanation.

    smooth, percentile: what the pictures of its explanations are made with; class_names: as in `explain`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        class_names: Sequence[str] | None = None,
        smooth: int = DEFAULT_SMOOTH,
        percentile: float = DEFAULT_PERCENTILE,
    ) -> None:
        super().__init__()
        self.model = model
        self.class_names = class_names
        self.smooth, self.percentile = smooth, percentile

    def forward(self, x: Tensor, targets: Targets = None) -> Explanation:
        explanation = explain(self.model, x, targets, class_names=self.class_names)
        return replace(explanation, smooth=self.smooth, percentile=self.percentile)

    def extra_repr(self) -> str:
        return f"smooth={self.smooth}, percentile={self.percentile}"
