"""Where the pixels that a network sees lie in the original picture."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from PIL import Image
from timm.data import CenterCropOrPad, MaybePILToTensor, MaybeToTensor, ResizeKeepRatio
from torch import Tensor
from torchvision import transforms

from ..errors import InputError

RESIZES = (transforms.Resize, ResizeKeepRatio)
CROPS = (transforms.CenterCrop, CenterCropOrPad)
OF_VALUES = (MaybeToTensor, MaybePILToTensor, transforms.ToTensor, transforms.Normalize)


def centres(
    transform: Callable[..., object], size: tuple[int, int], mode: str = "RGB"
) -> tuple[Tensor, Tensor]:
    """(W,), (H,) float64: the columns and rows of a picture where the network's pixels have their centres.

    They are in pixels from the picture's left and top edge: its first pixel has its centre at 0.5. Centres
    outside the picture, where a crop pads, are below 0 or above its size. They are exact up to the last
    rounding, so comparing them with whole pixels is exact.

    transform: the card's, made of resizes and centre crops. size: (width, height) of the picture. mode: as in
    Pillow, what the transform takes.
    Raises InputError for a transform with other steps.

    ```python
    import bcos_zoo
    from bcos_zoo.evaluate import centres

    columns, lines = centres(bcos_zoo.load("bcos_resnet20.cifar10").transform, (451, 300))
    assert len(columns) == len(lines) == 32
    ```
    """
    picture = Image.new(mode, size)
    scale, start = [Fraction(1), Fraction(1)], [Fraction(0), Fraction(0)]
    for step in getattr(transform, "transforms", [transform]):
        if isinstance(step, OF_VALUES):
            continue
        if not isinstance(step, (*RESIZES, *CROPS)):
            raise InputError(
                f"the card's transform has the step {type(step).__name__}, which boxes and masks "
                "cannot follow; allowed are resizes and centre crops"
            )
        before, picture = picture.size, step(picture)
        for axis, (old, new) in enumerate(zip(before, picture.size, strict=True)):
            if isinstance(step, RESIZES):
                scale[axis] *= Fraction(old, new)
            else:
                start[axis] += scale[axis] * _offset(old, new)
    half = Fraction(1, 2)
    columns, rows = (
        torch.tensor(
            [float(start[axis] + scale[axis] * (i + half)) for i in range(length)], dtype=torch.float64
        )
        for axis, length in enumerate(picture.size)
    )
    return columns, rows


def _offset(old: int, new: int) -> int:
    """The first pixel that a centre crop keeps; minus the pixels it adds before a smaller picture."""
    return round((old - new) / 2) if old > new else -((new - old) // 2)
