"""The inputs of an explanation: a network, its images, and the logits it gives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._compat import compiled_from
from ..errors import InputError
from ..images.image_like import check_floats

Images = Tensor | NDArray[Any] | Sequence[Tensor | NDArray[Any]]  # (N, K, H, W), or N images (K, H, W)
PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(model: object) -> nn.Module:
    """The network inside a wrapper: torch.compile, DataParallel, DistributedDataParallel, or a Classifier.

    Raises InputError for anything that holds no network.
    """
    if isinstance(model, PARALLEL):
        return unwrapped(model.module)
    if isinstance(model, nn.Module):
        inner: Any = compiled_from(model)
        if inner is None and getattr(model, "is_explanation_head", False):
            inner = model.model
        return model if inner is None else unwrapped(inner)
    inner = getattr(model, "model", None)
    if isinstance(inner, nn.Module):
        return unwrapped(inner)
    if isinstance(model, (str, os.PathLike)):
        raise InputError(
            f"the model is {str(model)!r}, a name; bcos_zoo.load or create_model make a network of it"
        )
    hint = ": the model comes first, then the images" if isinstance(model, (Tensor, np.ndarray)) else ""
    raise InputError(f"the model is a {type(model).__name__}; allowed is a torch.nn.Module{hint}")


def holder_of(model: object) -> Any:
    """The Classifier or head around a network, also inside a wrapper; None for a network by itself."""
    if isinstance(model, PARALLEL):
        return holder_of(model.module)
    if not isinstance(model, nn.Module) or getattr(model, "is_explanation_head", False):
        return model
    inner = compiled_from(model)
    return None if inner is None else holder_of(inner)


def names_of(model: object) -> Any:
    """The class names of a Classifier or a head, or on the network's card; None if there are none."""
    holder = holder_of(model)
    own = getattr(holder, "outputs", None) or getattr(holder, "class_names", None)
    return card_names(unwrapped(model)) if own is None else own


def settings_of(model: object) -> dict[str, Any]:
    """The settings for pictures, `smooth` and `percentile`, of a Classifier or a head; none of a network."""
    holder = holder_of(model)
    head = getattr(holder, "head", holder)
    settings = {name: getattr(head, name, None) for name in ("smooth", "percentile")}
    return {name: value for name, value in settings.items() if value is not None}


def class_logits(network: nn.Module, images: Tensor) -> Tensor:
    """The logits (N, C) that a network gives. Raises InputError as `logits_in` does."""
    return logits_in(network(images), len(images))


def logits_in(output: object, n: int | None = None, *, to: str = "explain") -> Tensor:
    """The logits (N, C) in a network's output: all of it, or one part of a tuple, list, dict or dataclass.

    That part is the one called `logits`, or the only tensor (N, C). n: number of images, if known. to: the
    purpose, for messages. Raises InputError if there is no such tensor, or more than one.
    """
    if isinstance(output, Tensor):
        if output.ndim != 2:
            raise InputError(
                f"the model gives {tuple(output.shape)}; to {to} it must give logits (N, C): "
                "keep its pooling and classifier"
            )
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return logits_in(named, n, to=to)
    parts = output.values() if isinstance(output, Mapping) else output
    parts = list(parts) if isinstance(parts, Iterable) else []
    found = [
        part
        for part in parts
        if isinstance(part, Tensor) and part.ndim == 2 and part.is_floating_point() and n in (None, len(part))
    ]
    if len(found) != 1:
        raise InputError(
            f"the model gives a {type(output).__name__} with {len(found)} tensors (N, C); to {to} it must "
            "give logits (N, C), alone, as `logits`, or as the only such tensor"
        )
    return found[0]


def as_images(given: object) -> Tensor:
    """Images as a tensor, from arrays and from lists of images of one size; InputError for anything else.

    Values and axes are not changed, nor checked: `check_images` does that.
    """
    if isinstance(given, Tensor):
        return given
    if isinstance(given, (str, os.PathLike)) or hasattr(given, "convert"):
        what = f"the path {str(given)!r}" if isinstance(given, (str, os.PathLike)) else "a PIL image"
        raise InputError(
            f"got {what}; allowed are tensors and arrays (N, K, H, W): "
            "bcos_zoo.load(...) takes files and pictures, in predict() and explain()"
        )
    if (
        isinstance(given, (list, tuple))
        and given
        and all(isinstance(one, (Tensor, np.ndarray)) for one in given)
    ):
        each = [as_images(one) for one in given]
        if len({one.shape for one in each}) > 1 or each[0].ndim != 3:
            shapes = ", ".join(str(tuple(one.shape)) for one in each[:3])
            raise InputError(f"got a list of {shapes}; allowed are images (K, H, W) of one size")
        return torch.stack(each)
    if isinstance(given, np.ndarray) and given.dtype.kind in "fiub":
        native = np.ascontiguousarray(given, given.dtype.newbyteorder("="))
        return torch.from_numpy(native if native.flags.writeable else native.copy())
    raise InputError(
        f"got a {type(given).__name__}; allowed are tensors and arrays (N, K, H, W) of floats in [0, 1]"
    )


def checked_images(given: object) -> Tensor:
    """`as_images(given)`, after `check_images` has accepted the result."""
    x = as_images(given)
    check_images(x)
    return x


def check_images(x: Tensor) -> None:
    """Raise InputError unless x is a non-empty batch (N, K, H, W) of finite values in [0, 1]."""
    if x.ndim != 4:
        hint = ""
        if x.ndim == 3:
            last = x.shape[-1] in (1, 3) and x.shape[0] not in (1, 3)
            hint = "; add the batch axis with x[None]"
            hint = "; channels come first: x.permute(2, 0, 1)[None]" if last else hint
        raise InputError(f"got a tensor of shape {tuple(x.shape)}; images come as (N, K, H, W){hint}")
    if x.layout is not torch.strided:
        raise InputError("got a sparse tensor; allowed are dense ones: x.to_dense()")
    if x.is_meta:
        raise InputError("got a tensor on the meta device, which holds no numbers; give one with values")
    check_floats(x)
    if x.numel() == 0:
        raise InputError(
            f"got a tensor of shape {tuple(x.shape)}, which holds no pixel; give at least one image"
        )
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # written so that NaN fails too
        if low != low or high != high:
            raise InputError(
                "the images hold NaN; allowed are finite values in [0, 1]: look for a division by zero"
            )
        eight_bit = low >= 0 and 2 < high <= 255
        hint = "divide 8-bit values by 255" if eight_bit else "leave out mean/std normalisation"
        raise InputError(f"the images hold values from {low:.3g} to {high:.3g}; allowed is [0, 1]: {hint}")


def card_names(model: nn.Module) -> Sequence[str] | None:
    card = getattr(model, "pretrained_cfg", None) or {}
    names = card.get("label_names")
    return names if names and len(names) == getattr(model, "num_classes", None) else None


def described(model: nn.Module) -> str:
    """A network in a few words: its name, or else its class, and the number of classes if it states one."""
    card = getattr(model, "pretrained_cfg", None) or {}
    name = ".".join(str(part) for part in (card.get("architecture"), card.get("tag")) if part)
    classes = getattr(model, "num_classes", None)
    return (name or type(model).__name__) + (f", {classes} classes" if isinstance(classes, int) else "")
