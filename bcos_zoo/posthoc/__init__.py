"""Attributions to compare the inherent explanation with: what post-hoc methods say of the same network.

The methods are captum's. RISE and LayerCAM, which captum lacks, are written here, and so is occlusion, for
several targets at once. They see the network in
ordinary mode, where the scale of a B-cos layer has a gradient of its own. Settings are those of the
comparisons in Boehle et al. 2022 and 2024 where these have the method, and else those of the method's paper.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..devices import place_of
from ..errors import InputError, closest
from ..explanations.inputs import check_eval, checked_images, names_of, unwrapped
from ..explanations.precision import full_float32
from ..explanations.targets import Targets
from ..layers import is_linear
from ..metrics.checks import check_integer
from ..outputs import Outputs
from .gradients import deeplift, grad, gradcam, guided_backprop, inherent, intgrad, ixg, layercam, smoothgrad
from .inputs import prepare
from .perturbations import lime, occlusion, rise

_METHODS: dict[str, Callable[..., Tensor]] = {
    "inherent": inherent,
    "ixg": ixg,
    "grad": grad,
    "smoothgrad": smoothgrad,
    "intgrad": intgrad,
    "guided-backprop": guided_backprop,
    "deeplift": deeplift,
    "gradcam": gradcam,
    "layercam": layercam,
    "rise": rise,
    "lime": lime,
    "occlusion": occlusion,
}
GIVEN = ("inputs", "model", "x", "targets", "batch", "names")  # to a method, by `attribute`
EXPLAINERS = tuple(_METHODS)
__all__ = ["EXPLAINERS", "attribute"]


def attribute(
    model: nn.Module,
    x: Tensor,
    targets: Targets,
    method: str,
    *,
    batch: int = 16,
    seed: int = 0,
    **settings: Any,
) -> Tensor:
    """Attribution maps of an image's classes, by one of `EXPLAINERS`. Nothing given is changed.

    (N, T, H, W) if targets are a list or have two dimensions, also where T is 1; else (N, H, W).

    model: in eval mode, from images in [0, 1] to logits (N, C). Conventional networks are taken too, but by
    "inherent" and, unless their `layer` is named, by "gradcam" and "layercam" only if they are timm's.
    x: (N, K, H, W) in [0, 1], not normalised.
    targets: class indices (N,) or (N, T), a list of T for all images, one index, or None, as in `explain`.
    "rise", "lime" and "occlusion" pass as many images through the network for T targets as for one.
    batch: how many images, or variants of one, go through the network at once.
    seed: of the methods that draw samples. Every image has the same draws, so that it gets the same map
    alone and in a batch; torch's own generators are left as they were.
    settings: of the method; the parameters of the function of its name in this package, with what they mean.

    A B-cos network is attributed at what its linear map applies to, the encoded image [x, 1-x], and the map
    is the sum over its 2K channels: so did the papers, and so the maps compare with `contributions`. Where a
    method needs a neutral input, it is zero in all 2K channels, which no colour is. The exception is "lime",
    which paints superpixels of the image itself in their mean colour. A conventional network is attributed
    at its image. Maps are signed where the method is, and in its units.

    Raises InputError for an unknown method or setting, for images, targets and models that do not fit, inside
    `linear_mode`, and if the package that the method comes from is not installed.
    """
    if method not in _METHODS:
        near = closest(str(method), EXPLAINERS)
        raise InputError(f"no method named {method!r}; known: {', '.join(EXPLAINERS)}; closest: {near}")
    run = _METHODS[method]
    known = [name for name in inspect.signature(run).parameters if name not in GIVEN]
    if unknown := settings.keys() - set(known):
        raise InputError(
            f"{method} has no setting {', '.join(sorted(unknown))}; known: {', '.join(known) or 'none'}"
        )
    check_integer("batch", batch, 1)
    if is_linear():
        raise InputError("post-hoc methods see the network as it is; call attribute() outside linear_mode")
    names, model = names_of(model), unwrapped(model)
    if isinstance(names, Outputs):  # two names of a single logit are none of its index
        names = None if names.single(getattr(model, "num_classes", 0)) else names.class_names
    check_eval(model)
    x = checked_images(x)
    several = targets.ndim == 2 if isinstance(targets, Tensor) else _is_list(targets)
    if run is inherent:  # it is of the given image, whatever the network encodes
        maps = inherent(model, x, targets, batch, names)
        return maps if several else maps[:, 0]
    own = place_of(model)
    device = x.device if own is None else own.device
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        full_float32(),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        warnings.catch_warnings(),
    ):
        # Captum says that it hooks activations, and undoes it. Here it hooks a copy.
        warnings.filterwarnings("ignore", message="Setting (backward|forward, backward) hooks")
        inputs = prepare(model, x, targets, batch, seed, names)
        maps = run(inputs, **settings).detach()
    return torch.unflatten(maps, 0, tuple(inputs.targets.shape)) if several else maps


def _is_list(targets: Targets) -> bool:
    return isinstance(targets, Sequence) and not isinstance(targets, str)
