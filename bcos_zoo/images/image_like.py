"""What counts as one image and what as several: one rule wherever a person passes images.

One image is a path, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4), or a tensor (K, H, W). Several are
an array or a tensor with one axis more in front, and any other iterable of images: lists, tuples, generators.

Paths, PIL images and arrays are photographs: they are resized and cropped as the network needs. A tensor must
be as `Classifier.preprocess` gives it, in [0, 1], and goes to the network unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import images
from ..errors import InputError, check_integer

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
ImagesLike = ImageLike | Iterable[ImageLike]
T = TypeVar("T")


def is_several(source: ImagesLike) -> bool:
    """Whether these are several images. Raises InputError for anything but one or several."""
    if isinstance(source, (str, os.PathLike, Image.Image)):
        return False
    if isinstance(source, (np.ndarray, Tensor)):
        fewest = 3 if isinstance(source, Tensor) else 2
        if not fewest <= source.ndim <= 4:
            axes = "(K, H, W) or (N, K, H, W)" if fewest == 3 else "(H, W), (H, W, 3) or (N, H, W, 3)"
            raise InputError(f"got {_named(source)} of shape {tuple(source.shape)}; allowed is {axes}")
        return source.ndim == 4
    if isinstance(source, (bytes, Mapping)) or not isinstance(source, Iterable):
        raise InputError(
            f"got a {type(source).__name__}; give a path, PIL image, array or tensor, or several of these"
        )
    return True


def each(source: ImagesLike) -> Iterator[ImageLike]:
    """The images, one by one. Raises InputError if there are none, or if one of them is several images."""
    if not is_several(source):
        yield source  # type: ignore[misc]  # it is one
        return
    empty = True
    for one in source:  # type: ignore[union-attr]
        if is_several(one):
            raise InputError(f"got {_named(one)} where one image belongs; put all images into one flat list")
        empty = False
        yield one
    if empty:
        raise InputError("got an empty list of images; give at least one")


def photograph(source: ImageLike) -> Image.Image:
    """One image as 8-bit RGB. Raises InputError if it cannot be read, or holds values of no picture."""
    if isinstance(source, np.ndarray):
        return images.load_rgb(_of_array(source))
    if isinstance(source, Tensor):
        pixels = checked(source)
        if len(pixels) not in (1, 3):
            raise InputError(f"got a tensor with {len(pixels)} channels; a picture has 3 or 1")
        grey_or_rgb = pixels.detach().cpu().float().mul(255).round().to(torch.uint8).expand(3, -1, -1)
        return Image.fromarray(grey_or_rgb.permute(1, 2, 0).contiguous().numpy())
    return images.load_rgb(source)


def check_floats(x: Tensor) -> None:
    """Raise InputError for images as integers, which would be taken for ones 255 times as bright."""
    if not x.is_floating_point():
        raise InputError(f"got {x.dtype} images; allowed are floats in [0, 1]: divide 8-bit values by 255")


def checked(x: Tensor) -> Tensor:
    """Images (..., K, H, W), unchanged. Raises InputError unless they hold floats in [0, 1]."""
    check_floats(x)
    if x.shape[-3] > 4 and x.shape[-1] in (1, 3, 4):
        raise InputError(
            f"got a tensor of shape {tuple(x.shape)}; allowed is (K, H, W): permute to that order"
        )
    low, high = (float(value) for value in torch.aminmax(x.detach())) if x.numel() else (0.0, 0.0)
    if not (x.numel() and low >= -1e-4 and high <= 1 + 1e-4):  # NaN fails too
        advice = "divide 8-bit values by 255, leave out mean/std normalisation"
        raise InputError(
            f"got a tensor of shape {tuple(x.shape)} with values from {low:.3g} to {high:.3g}; "
            f"allowed is [0, 1]: {advice}"
        )
    return x


def stacked(pixels: Sequence[Tensor]) -> Tensor:
    """N images (K, H, W) as one tensor (N, K, H, W). Raises InputError if their shapes differ."""
    shapes = sorted({tuple(one.shape) for one in pixels})
    if len(shapes) > 1:
        raise InputError(
            f"got tensors of shapes {', '.join(map(str, shapes[:3]))} together; give them one by one"
        )
    if len({one.device for one in pixels}) > 1:
        pixels = [one.cpu() for one in pixels]
    return torch.stack(list(pixels))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; the last may be shorter. Raises InputError unless size is an integer above 0."""
    check_integer("batch_size", size, 1)
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _of_array(array: np.ndarray) -> Image.Image:
    """A PIL image from (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), of 8 bits or of floats in [0, 1]."""
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4):
        hint = ": transpose(1, 2, 0) makes it of (3, H, W)" if array.shape[0] in (1, 3, 4) else ""
        raise InputError(f"got an array of shape {array.shape}; allowed is (H, W, 3){hint}")
    if not array.size:
        raise InputError(f"got an array of shape {array.shape}, which holds no pixel; give at least one")
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # NaN fails too
            raise InputError(
                f"got an array with values from {low:.3g} to {high:.3g}; allowed are uint8, or floats in "
                "[0, 1]: divide by 255"
            )
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"got an array of {array.dtype}; allowed are uint8, or floats in [0, 1]")
    return Image.fromarray(np.ascontiguousarray(array))


def _named(source: Any) -> str:
    return "a tensor" if isinstance(source, Tensor) else f"a {type(source).__name__}"
