"""Where an explanation points: the share of its positive contributions that lies where the object is.

All scores are in [0, 1] and do not depend on the scale of the map. The score of a map without any positive
contribution is 0, as nothing was found where the object is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError, check_integer
from .checks import maps
from .smoothing import smoothed


def localisation_score(
    contributions: Tensor, n: int, cells: Tensor | None = None, *, smooth: int = 1
) -> Tensor:
    """Grid pointing game: share of the positive contributions in the cell of the target's class.

    1 for a map that is positive in the target's cell only, 1 / n**2 for a constant positive map.

    contributions: (..., H, W), for an image of n x n cells of equal size and the classes in it.
    cells: (...), the cell of each map's target: i for row i // n, column i % n. By default contributions are
    (..., n * n, H, W), with the targets in the order of the cells.
    smooth: window in pixels over which maps are averaged first, with zeros outside; 1 or 0 for none. Positive
    and negative values cancel in it. Published: 15 for ImageNet, 1 for CIFAR-10.
    Returns (...). The published figures are percentiles of the scores of all maps of all grids.

    Two slips of the code published with Boehle et al. 2024 are corrected: it compares a product with zero, so
    that maps of tiny values score 0; and even windows shrink its maps by a pixel, so that cells are lost.

    Raises InputError for other shapes and values.
    Source: Boehle et al. 2021 (CoDA-Nets), equation 11; applied to B-cos networks by Boehle et al. 2022.

    ```python
    import torch

    from bcos_zoo.metrics import localisation_score

    maps = torch.ones(4, 8, 8)  # of the four classes of a 2 x 2 grid
    assert torch.allclose(localisation_score(maps, 2), torch.full((4,), 0.25).double())
    ```
    """
    values = maps("contributions", contributions)
    check_integer("n", n, 2)
    check_integer("smooth", smooth, 0)
    *lead, height, width = values.shape
    if height % n or width % n:
        raise InputError(
            f"contributions of {height}x{width} pixels do not divide into {n}x{n} cells; "
            "use a grid of images of one size"
        )
    if cells is None:
        if not lead or lead[-1] != n * n:
            raise InputError(
                f"contributions of shape {tuple(values.shape)} for {n}x{n} cells; allowed is "
                f"(..., {n * n}, H, W), a map for each cell, or name the cell of each map in `cells`"
            )
        cells = torch.arange(n * n).expand(lead)
    if cells.is_floating_point() or cells.dtype == torch.bool or list(cells.shape) != lead:
        raise InputError(
            f"cells of shape {tuple(cells.shape)} and type {cells.dtype}; "
            f"allowed is {tuple(lead)}, of integers: one cell for each map"
        )
    if (cells < 0).any() or (cells >= n * n).any():
        raise InputError(
            f"cells from {int(cells.min())} to {int(cells.max())}; "
            f"allowed in a grid of {n}x{n} are 0 to {n * n - 1}"
        )
    positive = smoothed(values, smooth).clamp_min(0)
    energy = positive.reshape(*lead, n, height // n, n, width // n).sum((-3, -1)).flatten(-2)
    inside = energy.gather(-1, cells.to(energy.device, torch.long).unsqueeze(-1)).squeeze(-1)
    return _share(inside, energy.sum(-1))


def energy_in_mask(contributions: Tensor, mask: Tensor) -> Tensor:
    """Energy-based pointing game: share of the positive contributions inside a mask, (...).

    1 for a map that is positive inside only; for a constant positive map, the mask's share of the image.

    contributions: (..., H, W). mask: (..., H, W) bool, or (H, W) for all maps.
    Raises InputError for other shapes and types, and for a mask without pixels.
    Source: Wang et al. 2020 (Score-CAM), who use boxes.

    ```python
    import torch

    from bcos_zoo.metrics import energy_in_mask

    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4] = True
    assert energy_in_mask(torch.ones(8, 8), mask) == 0.5
    ```
    """
    values = maps("contributions", contributions)
    if mask.dtype != torch.bool or mask.shape not in (values.shape, values.shape[-2:]):
        raise InputError(
            f"a mask of shape {tuple(mask.shape)} and type {mask.dtype}; "
            f"allowed is {tuple(values.shape)} or {tuple(values.shape[-2:])}, of torch.bool"
        )
    if not mask.any(-1).any(-1).all():
        raise InputError("a mask holds no pixel; leave out images without the object")
    positive = values.clamp_min(0)
    return _share((positive * mask.to(values.device)).sum((-2, -1)), positive.sum((-2, -1)))


def energy_in_boxes(contributions: Tensor, boxes: Tensor) -> Tensor:
    """Energy-based pointing game: share of the positive contributions inside boxes, (...).

    contributions: (..., H, W).
    boxes: (..., 4), one for each map, or (..., B, 4) for the union of B boxes; (left, top, right, bottom) in
    pixels from the top left corner. A pixel is inside if its centre is: (0, 0, 2, 1) holds two pixels.
    Raises InputError for other shapes, and for a box that holds no pixel of the image.
    Source: Wang et al. 2020 (Score-CAM).

    ```python
    import torch

    from bcos_zoo.metrics import energy_in_boxes

    assert energy_in_boxes(torch.ones(8, 8), torch.tensor([0, 0, 4, 4])) == 0.25
    ```
    """
    values = maps("contributions", contributions)
    *lead, height, width = values.shape
    if (
        boxes.shape[-1:] != (4,)
        or list(boxes.shape[: len(lead)]) != lead
        or boxes.ndim - len(lead) not in (1, 2)
    ):
        raise InputError(
            f"boxes of shape {tuple(boxes.shape)} for contributions {tuple(values.shape)}; "
            f"allowed is ({', '.join(map(str, [*lead, 4]))}), or with an axis for several boxes before the 4"
        )
    if boxes.numel() == 0:
        raise InputError(f"boxes of shape {tuple(boxes.shape)}; leave out images without the object")
    if boxes.is_floating_point() and not boxes.isfinite().all():
        raise InputError("boxes hold NaN or infinity; allowed are pixels: (left, top, right, bottom)")
    sides = boxes.to(values.device, values.dtype)[..., None]
    left, top, right, bottom = sides.unbind(-2)
    x = torch.arange(width, device=values.device) + 0.5
    y = torch.arange(height, device=values.device) + 0.5
    columns, rows = (x >= left) & (x < right), (y >= top) & (y < bottom)
    inside = rows[..., :, None] & columns[..., None, :]
    if not inside.any(-1).any(-1).all():
        raise InputError(
            f"a box holds no pixel of the image of {height}x{width}; allowed are (left, top, right, bottom) "
            "with left < right and top < bottom"
        )
    if boxes.ndim - len(lead) == 2:
        inside = inside.any(-3)
    return energy_in_mask(contributions, inside)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1), 0)
