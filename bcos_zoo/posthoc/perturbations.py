"""Methods that change the image and observe the output. From inputs and settings to maps (N * T, H, W).

The output for a changed image serves all targets of that image, so T targets need no more passes than one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _compat
from ..errors import InputError
from ..extras import required
from ..layers import encode
from .inputs import MethodInputs, captum, check_one_of, check_positive

LIME_WIDTH = 0.25  # of the kernel over cosine distances; for images, as in the authors' package


def rise(
    inputs: MethodInputs, *, masks: int = 500, cells: int = 8, keep: float = 0.1, output: str = "sigmoid"
) -> Tensor:
    """The mean of random masks, weighted by the probability of the class in the masked image.

    Petsiuk et al. 2018, arXiv:1806.07421.
    masks: how many. cells: per side of a mask. Each cell is kept with probability `keep`; the mask
    is enlarged bilinearly to one cell more than the image, and cropped at random.
    output: "sigmoid" or "softmax"; by default what a Classifier says its outputs are.
    """
    check_positive(masks=masks, cells=cells, keep=keep)
    if keep > 1:
        raise InputError(f"keep={keep}: allowed are probabilities above 0, up to 1")
    probabilities = _probabilities(output)
    height, width = inputs.x.shape[-2:]
    cell = (math.ceil(height / cells), math.ceil(width / cells))
    generator = torch.Generator().manual_seed(inputs.seed)
    grids = (torch.rand(masks, 1, cells, cells, generator=generator) < keep).float()
    tops = torch.randint(cell[0], (masks,), generator=generator).tolist()
    lefts = torch.randint(cell[1], (masks,), generator=generator).tolist()
    total = inputs.x.new_zeros(*inputs.targets.shape, height, width)
    size = ((cells + 1) * cell[0], (cells + 1) * cell[1])
    for start in range(0, masks, inputs.batch):
        some = range(start, min(start + inputs.batch, masks))
        large = F.interpolate(grids[some.start : some.stop], size, mode="bilinear").to(inputs.x)
        mask = torch.stack(
            [large[i - start, :, tops[i] : tops[i] + height, lefts[i] : lefts[i] + width] for i in some]
        )
        for n, targets in enumerate(inputs.targets):
            with torch.no_grad():
                p = probabilities(inputs.network(inputs.encoded[n] * mask))[:, targets]
            total[n] += torch.einsum("mt,mhw->thw", p, mask[:, 0])
    return total.flatten(0, 1) / masks / keep


def lime(
    inputs: MethodInputs,
    *,
    samples: int = 500,
    features: int | None = 5,
    kernel: float = 4.0,
    output: str = "sigmoid",
) -> Tensor:
    """The superpixels that speak most for the class: a map of 1 inside them and 0 elsewhere.

    Ribeiro et al. 2016, arXiv:1602.04938.
    samples: images with some superpixels painted in their mean colour; a ridge regression fits their
    probabilities. features: how many superpixels are shown; None for the signed coefficients of all, in
    probabilities. kernel: of quickshift, which finds the superpixels; for images of 32 pixels, choose a
    smaller one, or there will be only one or two superpixels. output: as of `rise`.
    """
    check_positive(samples=samples, kernel=kernel, features=1 if features is None else features)
    lime = captum().Lime
    required("sklearn", "scikit-learn")
    quickshift = required("skimage.segmentation", "scikit-image").quickshift
    probabilities = _probabilities(output)
    if inputs.x.shape[1] != 3:
        raise InputError(f"superpixels are of RGB images; these have {inputs.x.shape[1]} channels")
    takes_rgb = inputs.encoded.shape[1] == 3

    @torch.no_grad()
    def ask(rgb: Tensor) -> Tensor:
        return probabilities(inputs.network(rgb if takes_rgb else encode(rgb)))

    def similarity(original: Tensor, changed: Tensor, kept: Tensor, **_: Any) -> Tensor:
        distance = 1 - F.cosine_similarity(kept.float(), torch.ones_like(kept, dtype=torch.float32))
        return torch.exp(-(distance**2) / LIME_WIDTH**2).sqrt()

    maps = []
    for image, targets in zip(inputs.x, inputs.targets, strict=True):
        pixels = image.permute(1, 2, 0).cpu().double().numpy()  # MPS has no float64
        found = quickshift(pixels, kernel_size=kernel, max_dist=200, ratio=0.2, rng=inputs.seed)
        labels = torch.as_tensor(found, dtype=torch.long, device=image.device)
        said = _Remembered(ask)
        method = lime(said, _compat.SkLearnRidge(alpha=1.0), similarity)
        for target in targets:
            inputs.reseed()
            said.rewind()
            coefficients = method.attribute(
                image[None],
                baselines=_mean_colours(image, labels)[None],
                target=target,
                feature_mask=labels[None, None],
                n_samples=samples,
                perturbations_per_eval=inputs.batch,
                return_input_shape=False,
            )[0]
            if features is not None:
                best = coefficients.topk(min(features, len(coefficients)))
                coefficients = torch.zeros_like(coefficients).index_fill(0, best.indices[best.values > 0], 1)
            maps.append(coefficients[labels])
    return torch.stack(maps).to(inputs.x)


class _Remembered:
    """The network's answers, kept: with one seed, every target has the same changed images."""

    def __init__(self, ask: Callable[[Tensor], Tensor]) -> None:
        self.ask, self.answers, self.next = ask, list[tuple[float, Tensor]](), 0

    def rewind(self) -> None:
        self.next = 0

    def __call__(self, images: Tensor) -> Tensor:
        total = float(images.sum(dtype=torch.float64))
        if self.next == len(self.answers):
            self.answers.append((total, self.ask(images)))
        known, answer = self.answers[self.next]
        self.next += 1
        return answer if known == total else self.ask(images)  # in case captum ever draws differently


def _mean_colours(image: Tensor, labels: Tensor) -> Tensor:
    """(3, H, W): each pixel in the mean colour of its superpixel."""
    flat = labels.flatten()
    sums = image.new_zeros(3, int(flat.max()) + 1).index_add_(1, flat, image.flatten(1))
    return (sums / flat.bincount().clamp_min(1))[:, labels]


@torch.no_grad()
def occlusion(inputs: MethodInputs, *, window: int = 9, stride: int = 4) -> Tensor:
    """How much the logit drops if a window is zero: for each pixel, the mean over the windows that cover it.

    window, stride: in pixels. 9 and 4 is one of the papers' configurations; the others are 5 and 2, 9 and 2,
    13 and 4, 32 and 32. The papers take sums over windows, which differ by a factor, except at the edges.
    Zeiler and Fergus 2013, arXiv:1311.2901.
    """
    height, width = inputs.x.shape[-2:]
    if not 1 <= stride <= window <= min(height, width):
        raise InputError(
            f"window={window}, stride={stride}: allowed are 1 <= stride <= window <= {min(height, width)}"
        )
    rows, columns = (math.ceil((side - window) / stride) + 1 for side in (height, width))
    corners = [(stride * (i // columns), stride * (i % columns)) for i in range(rows * columns)]
    drops = inputs.x.new_zeros(*inputs.targets.shape, rows * columns)
    for n, targets in enumerate(inputs.targets):
        logits = inputs.network(inputs.encoded[n : n + 1])[:, targets]
        for start in range(0, len(corners), inputs.batch):
            some = corners[start : start + inputs.batch]
            kept = inputs.x.new_ones(len(some), 1, height, width)
            for mask, (top, left) in zip(kept, some, strict=True):
                mask[:, top : top + window, left : left + window] = 0
            drops[n, :, start : start + inputs.batch] = (
                logits - inputs.network(inputs.encoded[n] * kept)[:, targets]
            ).T
    windows = torch.unflatten(drops.flatten(0, 1), 1, (1, rows, columns))
    area = inputs.x.new_ones(1, 1, window, window)
    sums = F.conv_transpose2d(windows, area, stride=stride)
    counts = F.conv_transpose2d(torch.ones_like(windows[:1]), area, stride=stride)
    return (sums / counts)[:, 0, :height, :width]


def _probabilities(output: str) -> Callable[[Tensor], Tensor]:
    check_one_of(output, ("sigmoid", "softmax"), "output")
    return torch.sigmoid if output == "sigmoid" else functools.partial(torch.softmax, dim=1)
