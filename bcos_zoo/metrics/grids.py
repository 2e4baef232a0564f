"""Images of the grid pointing game: n x n images of distinct classes in one.

Introduced as the localisation metric of CoDA-Nets (Boehle et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, check_integer
from .checks import check_labels, check_values, wide


def make_grids(
    logits: Tensor,
    labels: Tensor,
    n: int,
    count: int | None = None,
    *,
    threshold: float = 0.5,
    confidence: Literal["sigmoid", "softmax"] = "sigmoid",
    seed: int = 42,
) -> Tensor:
    """Which images make up each grid: (G, n * n) long, row indices of `logits`, each used at most once.

    For each grid, n * n classes are drawn, and from each the most confident image that is left in the pool:
    the images whose top-1 class is the label, with a confidence above `threshold`. `labels[grids]` are the
    targets, cell by cell.

    logits: (M, C), of the single images. labels: (M,), their classes.
    count: G; by default as many as the pool gives.
    threshold: in [0, 1); 0 for all correctly classified images.
    confidence: the probability that is compared with the threshold. The published comparisons use "sigmoid",
    for conventional networks too.
    seed: for drawing the classes, 0 to 2**32 - 1. The published grids use 42.

    The draws are those of the code published with Boehle et al. 2024, with two slips corrected: it skips one
    image after each grid, so that later grids straddle two draws; and it stops when n * n classes are left,
    which would be enough for another grid. So the first grid is the same; later ones differ.

    Raises InputError for other values and shapes, and if the pool does not yield `count` grids, or any.

    ```python
    import torch

    from bcos_zoo.metrics import make_grids

    logits, labels = 8 * torch.eye(4).repeat(2, 1) - 4, torch.arange(4).repeat(2)
    assert make_grids(logits, labels, 2).shape == (2, 4)  # 8 images make 2 grids of 4 classes
    ```
    """
    check_values("logits", logits, "(M, C)")
    check_labels(labels, logits)
    check_integer("n", n, 2)
    check_integer("seed", seed, 0, 2**32 - 1)
    if count is not None:
        check_integer("count", count, 1)
    if not 0 <= threshold < 1:
        raise InputError(f"threshold={threshold}: allowed are probabilities from 0 to below 1")
    if confidence not in ("sigmoid", "softmax"):
        raise InputError(f"confidence={confidence!r}: allowed are 'sigmoid' and 'softmax'")

    top, predicted = wide(logits).max(1)
    least = math.log(threshold) if threshold else -math.inf
    if confidence == "sigmoid":
        least -= math.log1p(-threshold)
    else:
        top = top - wide(logits).logsumexp(1)  # in logarithms, as probabilities round to 1
    usable = ((predicted == labels.to(top.device)) & (top > least)).cpu()
    order = top.cpu().argsort(descending=True, stable=True)
    classes_of = labels.tolist()
    left: dict[int, list[int]] = {}  # images of each class, the most confident last
    for index in order[usable[order]].flip(0).tolist():
        left.setdefault(classes_of[index], []).append(index)

    cells, generator = n * n, np.random.RandomState(seed)
    grids: list[list[int]] = []
    while len(grids) != count:
        classes = sorted(label for label, indices in left.items() if indices)
        if len(classes) < cells:
            break
        grids.append([left[label].pop() for label in generator.choice(classes, size=cells, replace=False)])
    if not grids or len(grids) < (count or 0):
        raise InputError(
            f"{int(usable.sum())} images of {len(left)} classes are right with confidence above {threshold}: "
            f"enough for {len(grids)} grids of {cells} classes, not {count or 1}; add images or lower count"
        )
    return torch.tensor(grids, device=labels.device)


def tile(images: Tensor, n: int) -> Tensor:
    """Images (..., n * n, K, H, W) as one of n x n cells, (..., K, n * H, n * W), row by row.

    Cell i is row i // n, column i % n; the code published with Boehle et al. 2024 goes down the columns.
    Raises InputError for another number of images.

    ```python
    import torch

    from bcos_zoo.metrics import tile

    assert tile(torch.rand(4, 3, 32, 32), 2).shape == (3, 64, 64)
    ```
    """
    check_integer("n", n, 1)
    if images.ndim < 4 or images.shape[-4] != n * n or images.numel() == 0:
        raise InputError(
            f"images of shape {tuple(images.shape)}; allowed for n={n} is (..., {n * n}, K, H, W): "
            "stack as many as there are cells"
        )
    *lead, _, k, height, width = images.shape
    cells = images.reshape(*lead, n, n, k, height, width)
    return cells.movedim(-3, -5).transpose(-3, -2).reshape(*lead, k, n * height, n * width)


def slide(
    explainer: Callable[[Tensor], Tensor],
    image: Tensor,
    size: int,
    stride: int,
    *,
    average: bool = False,
    batch: int = 16,
) -> Tensor:
    """Contributions (..., H, W) for an image too large for its network, from overlapping windows of one size.

    For ViTs with position embeddings, which cannot see a grid as a whole. The windows start `size - stride`
    outside the image, so that each pixel is seen equally often if the stride divides the size. Outside the
    image, pixels are zero (black for RGB), and their contributions are dropped.

    explainer: from windows (B, K, size, size) to contributions (B, ..., size, size), such as one map per
    target; all windows have the same targets.
    image: (K, H, W). size, stride: in pixels; the published grids use 224 and 112.
    average: divide each pixel's sum by the number of windows that saw it. As published, sums are not divided;
    shares of the total are the same if all pixels are seen equally often.
    batch: how many windows are explained at once.

    Raises InputError for other shapes and values, and if the windows do not end where the image ends.
    Source: the code published with B-cosification (Arya et al. 2024), which pads the encoded image instead.

    ```python
    import torch

    from bcos_zoo.metrics import slide

    map_ = slide(lambda windows: windows.sum(1), torch.rand(3, 64, 64), size=32, stride=16)
    assert map_.shape == (64, 64)
    ```
    """
    check_values("image", image, "(K, H, W)")
    check_integer("size", size, 1)
    check_integer("stride", stride, 1, size)
    check_integer("batch", batch, 1)
    height, width = image.shape[-2:]
    if (height + size) % stride or (width + size) % stride:
        raise InputError(
            f"windows of {size} at a stride of {stride} do not end with an image of {height}x{width}; "
            f"allowed are strides that divide {height + size} and {width + size}"
        )
    outside = size - stride
    padded = F.pad(image.detach(), (outside,) * 4)
    corners = [
        (top, left)
        for top in range(0, padded.shape[-2] - size + 1, stride)
        for left in range(0, padded.shape[-1] - size + 1, stride)
    ]
    total, seen = None, torch.zeros(padded.shape[-2:], device=image.device)
    for start in range(0, len(corners), batch):
        some = corners[start : start + batch]
        parts = explainer(torch.stack([padded[:, y : y + size, x : x + size] for y, x in some]))
        check_values("the explainer's contributions", parts, "(..., H, W)")
        if parts.ndim < 3 or len(parts) != len(some) or parts.shape[-2:] != (size, size):
            raise InputError(
                f"the explainer gives {tuple(parts.shape)} for {len(some)} windows; "
                f"allowed is ({len(some)}, ..., {size}, {size}): contributions, summed over channels"
            )
        parts = wide(parts.to(image.device))
        if total is None:
            total = parts.new_zeros(*parts.shape[1:-2], *padded.shape[-2:])
        for part, (y, x) in zip(parts, some, strict=True):
            total[..., y : y + size, x : x + size] += part
            seen[y : y + size, x : x + size] += 1
    assert total is not None  # the conditions above leave at least one window
    if average:
        total = total / seen
    return total[..., outside : outside + height, outside : outside + width]
