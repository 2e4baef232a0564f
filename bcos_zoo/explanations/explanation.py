"""An explanation: the linear map `W(x)` that the network is for an image, and what each pixel adds."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, check_integer
from ..files import replacing
from ..layers.functional import at_least_float32
from ..metrics.smoothing import smoothed
from . import saved
from .targets import Target, labelled

DEFAULT_SMOOTH = 15  # pixels; the published pictures, made at 224 px
DEFAULT_PERCENTILE = 99.5
TINY = 1e-12
SHOWN = 6  # the most images, and targets of each, that a notebook shows
TILE = 160  # pixels: about the size of each of them

UNITS = {"logit": "logits", "relative": "logits", "contrast": "logits", "activation": ""}


def check_colours(smooth: int, percentile: float) -> None:
    """Raise InputError for settings that `Explanation.rgba` does not take."""
    if smooth < 0 or not 0 < percentile <= 100:
        raise InputError(
            f"smooth={smooth}, percentile={percentile}: allowed are smooth >= 0 and 0 < percentile <= 100"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """N images explained for T targets each, for the encoded channels [x, 1-x]. Values are in the `unit`.

    `contributions.sum((-1, -2)) + bias == logits.gather(1, targets)` up to rounding: nothing is left over.
    """

    logits: Tensor  # (N, C)
    targets: Tensor  # (N, T) long
    weights: Tensor  # (N, T, 2K, H, W): W(x): the row of the linear map for each target's logit
    contributions: Tensor  # (N, T, H, W): encoded image times weights, summed over channels
    bias: Tensor  # (N, T): what the network's constants add; in CNNs, the logit bias
    labels: tuple[tuple[str, ...], ...] | None = None  # names of the targets, per image
    smooth: int = DEFAULT_SMOOTH  # default window of `rgba`
    percentile: float = DEFAULT_PERCENTILE
    output: str = "logit"  # what `logits` holds, as `explain` names it; or "activation", "contrast"

    @property
    def unit(self) -> str:
        """What `logits`, `contributions` and `bias` are measured in; "" for the activation of a unit."""
        return UNITS.get(self.output, "of probability")

    def __repr__(self) -> str:
        n, targets = self.targets.shape
        height, width = self.contributions.shape[-2:]
        values = self.logits.detach().gather(1, self.targets)
        said = [
            f"{name} {value:.3g}"
            for name, value in zip(self._names(0)[:SHOWN], values[0].tolist(), strict=False)
        ]
        more = ", ..." if targets > SHOWN or n > 1 else ""
        return (
            f"Explanation({n} x {targets} of {height}x{width} pixels, {self.output}: "
            f"{', '.join(said)}{more}; {str(self.weights.dtype).removeprefix('torch.')})"
        )

    def _names(self, image: int) -> list[str]:
        """The labels of an image's targets, or else their class indices."""
        return [str(t) for t in (self.labels or self.targets.tolist())[image]]

    def _repr_png_(self) -> bytes | None:
        """For notebooks: the first images in colour on white, one row each."""
        if self.weights.shape[2] not in (2, 6):
            return None
        from PIL import Image  # here, so that numbers need no pictures

        colours = replace(
            self,
            weights=self.weights[:SHOWN, :SHOWN].detach(),
            contributions=self.contributions[:SHOWN, :SHOWN].detach(),
        ).rgba()
        rgb = (colours[:, :, :3] * colours[:, :, 3:] + 1 - colours[:, :, 3:]).nan_to_num(1)
        rows = torch.cat([torch.cat(list(row), -1) for row in rgb.float().cpu()], -2)
        pixels = rows.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        picture, zoom = Image.fromarray(pixels), max(1, round(TILE / max(self.weights.shape[-2:])))
        buffer = io.BytesIO()
        picture.resize((zoom * picture.width, zoom * picture.height), Image.Resampling.NEAREST).save(
            buffer, "PNG"
        )
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        """For notebooks: the same picture below the labels and their values."""
        values = self.logits.detach().gather(1, self.targets)[:SHOWN, :SHOWN].tolist()
        rows = [
            "; ".join(f"{name} {value:.3g}" for name, value in zip(self._names(n), row, strict=False))
            for n, row in enumerate(values)
        ]
        text = "<br>".join(html.escape(row) for row in [repr(self), *rows])
        png = self._repr_png_()
        if png is None:
            return f"<div>{text}</div>"
        data = base64.b64encode(png).decode()
        return f'<div>{text}<br><img alt="explanation" src="data:image/png;base64,{data}"></div>'

    @staticmethod
    def cat(parts: Sequence[Explanation]) -> Explanation:
        """Join several explanations into one of all their images; they must have equally many targets."""
        if len(parts) == 1:
            return parts[0]
        joined: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in saved.AXES
        }
        labels = None if parts[0].labels is None else tuple(row for p in parts for row in p.labels or ())
        return replace(parts[0], **joined, labels=labels)

    def of_image(self, index: int) -> Explanation:
        """The explanation of one of the N images, with N = 1. Raises IndexError for any other index."""
        one = range(len(self.logits))[index]
        alone = self.map(lambda values: values[one : one + 1])
        return replace(alone, labels=None if self.labels is None else (self.labels[one],))

    def map(self, change: Callable[[Tensor], Tensor]) -> Explanation:
        """A copy whose five tensors are `change` of these, for example cut to some of the images."""
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in saved.AXES}
        return replace(self, **changed)

    def to(self, device: str | torch.device) -> Explanation:
        """A copy with its tensors on a device. Raises torch's RuntimeError if there is no such device."""
        return self.map(lambda values: values.to(device))

    def cpu(self) -> Explanation:
        """A copy with its tensors on the CPU."""
        return self.to("cpu")

    def patches(self, size: int | tuple[int, int]) -> Tensor:
        """(N, T, H / size, W / size): the contributions of each patch, such as a ViT's token, in logits.

        size: pixels, of both sides or (rows, columns). Raises InputError if the image does not divide.
        """
        rows, columns = size if isinstance(size, tuple) else (size, size)
        for side in (rows, columns):
            check_integer("size", side, 1)
        height, width = self.contributions.shape[-2:]
        if min(rows, columns) < 1 or height % rows or width % columns:
            raise InputError(f"{height}x{width} pixels do not divide into patches of {rows}x{columns}")
        split = torch.unflatten(torch.unflatten(self.contributions, -1, (-1, columns)), -3, (-1, rows))
        return split.sum((-3, -1))

    def completeness(self) -> Tensor:
        """(N, T): what contributions and bias leave of each logit; rounding only, if W(x) is exact."""
        return self.logits.gather(1, self.targets) - self.contributions.sum((-1, -2)) - self.bias

    def rgba(self, smooth: int | None = None, percentile: float | None = None) -> Tensor:
        """The explanation in colour, as published: (N, T, 4, H, W) in [0, 1], RGB and opacity.

        A pixel's colour is the direction of its positive weights. Its opacity is the length of all its
        weights, or 0 if the pixel speaks against the target, averaged over `smooth` pixels and relative to
        the given percentile. Where nothing speaks for the target, the picture is transparent.
        smooth: window in pixels, 1 or 0 for none. percentile: in (0, 100].
        Raises InputError for other values, and for networks of other than one or three input channels.
        Source: Boehle et al. 2022, section 4.
        """
        smooth = self.smooth if smooth is None else smooth
        percentile = self.percentile if percentile is None else percentile
        check_colours(smooth, percentile)
        weights, half = at_least_float32(self.weights), self.weights.shape[2] // 2
        if half not in (1, 3):
            raise InputError(
                f"a network of {half} input channels has no colours; rgba is for 1 (grey) and 3 (RGB)"
            )
        direction = (weights / (weights.abs().amax(2, keepdim=True) + TINY)).clamp_min(0)
        colour = direction[:, :, :half] / (direction[:, :, :half] + direction[:, :, half:] + TINY)
        alpha = self.lengths(smooth)
        top = opaque_length(alpha, percentile)
        alpha = (alpha / torch.where(top > 0, top, 1)[..., None, None]).clamp(0, 1)
        return torch.cat([colour.expand(-1, -1, 3, -1, -1), alpha.unsqueeze(2)], dim=2)

    def lengths(self, smooth: int | None = None) -> Tensor:
        """(N, T, H, W): the length of each pixel's weights, 0 where it speaks against the target, smoothed.

        `rgba` makes opacity from it. smooth: as there.
        """
        lengths = torch.linalg.vector_norm(at_least_float32(self.weights), dim=2)
        return smoothed(lengths * (self.contributions >= 0), self.smooth if smooth is None else smooth)

    def contrast(self, a: Target, b: Target) -> Explanation:
        """What speaks for `a` rather than `b`: the explanation of the one logit `s_a - s_b`, just as exact.

        a, b: two of the explained targets, as class indices or labels. Raises InputError for any other, and
        for one class given twice.
        """
        i, j = self._position(a), self._position(b)
        image = torch.arange(len(self.logits), device=self.logits.device)
        if (self.targets[image, i] == self.targets[image, j]).any():
            raise InputError(f"{a!r} and {b!r} are one class; name two")

        def difference(of: Tensor) -> Tensor:
            return (of[image, i] - of[image, j]).unsqueeze(1)

        if self.labels is not None:
            a, b = self.labels[0][i[0]], self.labels[0][j[0]]
        return replace(
            self,
            logits=difference(self.logits.gather(1, self.targets)),
            targets=torch.zeros_like(self.targets[:, :1]),
            weights=difference(self.weights),
            contributions=difference(self.contributions),
            bias=difference(self.bias),
            labels=((f"{a} - {b}",),) * len(self.logits),
            output="contrast",
        )

    def _position(self, target: Target) -> Tensor:
        """(N,): the position of that target among each image's targets."""
        hit = self.targets == (self._index(target) if isinstance(target, str) else target)
        if not hit.any(1).all():
            raise InputError(
                f"{target!r} is not among the explained targets; name it in `targets` of explain()"
            )
        return hit.int().argmax(1)

    def _index(self, label: str) -> int:
        """The class index of a label, -1 if no target has it."""
        rows = zip(self.labels or (), self.targets.tolist(), strict=False)
        classes = {row[place] for names, row in rows for place in labelled(label, names)}
        if len(classes) > 1:
            raise InputError(f"{label!r} is the name of the classes {sorted(classes)}; give the index of one")
        return classes.pop() if classes else -1

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything to an `.npz` file, completely or not at all, and return its path; `load` reads it.

        Half precision, which numpy supports only in part, is written as float32 and restored by `load`.
        Raises InputError for any other suffix and for more than `load` would take, OSError if the file cannot
        be written.
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise InputError(
                f"{path}: an explanation's arrays are saved as .npz; pictures are made by "
                "bcos_zoo.pictures.panels"
            )
        arrays: dict[str, Any] = {
            name: at_least_float32(getattr(self, name).detach()).cpu().numpy() for name in saved.AXES
        }
        if self.labels is not None:
            arrays["labels"] = np.array(self.labels)
        settings = {name: getattr(self, name) for name in saved.SETTINGS}
        dtypes = {name: str(getattr(self, name).dtype).removeprefix("torch.") for name in saved.AXES}
        arrays["settings"] = np.array(json.dumps(settings | {"dtypes": dtypes}))
        saved.check_size(sum(array.nbytes for array in arrays.values()), f"{path} would hold")
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return path

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Explanation:
        """What `save` wrote, bit by bit, or the explanation in a bundle of `bcos-zoo explain`, on the CPU.

        No code in the file is run. `bcos-zoo verify` says whether a bundle's claims hold.
        Raises InputError for a file that is missing, damaged, or not an explanation.
        """
        arrays, labels, settings, dtypes = saved.read(Path(path))
        tensors: dict[str, Any] = {
            name: torch.from_numpy(array).to(getattr(torch, dtypes[name])) for name, array in arrays.items()
        }
        return Explanation(**tensors, labels=labels, **settings)


def opaque_length(lengths: Tensor, percentile: float) -> Tensor:
    """(N, T): the length that is drawn opaque, a percentile of `Explanation.lengths` for each picture.

    The largest length if fewer pixels speak for the target than the percentile leaves out.
    """
    flat = lengths.flatten(2)
    place = percentile / 100 * (flat.shape[2] - 1)  # in the sorted values, usually between two of them
    # Not torch.quantile: it sorts all values, and refuses more than 16 million over all images.
    largest = flat.topk(flat.shape[2] - int(place), dim=2).values
    below, above = largest[..., -1], largest[..., -2:][..., 0]
    top = below.lerp(above, place - int(place))
    return torch.where(top > 0, top, largest[..., 0])
