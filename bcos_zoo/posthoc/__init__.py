"""Post-hoc attributions of the same network, to compare the inherent explanation with.

The methods are captum's, except RISE and LayerCAM, which captum lacks, and occlusion, which takes several
targets at once here. They see the network in ordinary mode, where the scale of a B-cos layer has a gradient
of its own. Settings are those of the comparisons in Boehle et al. 2022 and 2024 if these include the method,
and otherwise those of the method's paper.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..devices import place_of
from ..errors import InputError, check_integer, closest
from ..explanations.inputs import Images, checked_images, names_of, unwrapped
from ..explanations.precision import full_float32
from ..explanations.targets import Targets, as_targets
from ..layers import is_linear
from ..metrics.checks import check_eval
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
GIVEN = ("inputs", "model", "x", "targets", "batch", "names")  # to a method by `attribute` itself
EXPLAINERS = tuple(_METHODS)
__all__ = ["EXPLAINERS", "attribute"]


_ONE_AT_A_TIME = threading.Lock()


def attribute(
    model: nn.Module,
    x: Images,
    targets: Targets,
    method: str,
    *,
    batch: int = 16,
    seed: int = 0,
    **settings: Any,
) -> Tensor:
    """Attribution maps for classes of images, by one of `EXPLAINERS`. No argument is changed.

    Returns (N, T, H, W) if targets are a list or have two dimensions, even if T is 1; else (N, H, W).

    model: in eval mode, from images in [0, 1] to logits (N, C). Conventional networks work too, except with
    "inherent"; with "gradcam" and "layercam", they must be timm's unless `layer` is given.
    x: (N, K, H, W) in [0, 1], not normalised; or an array, or a list of images (K, H, W).
    targets: class indices (N,) or (N, T), in a tensor or an array; a list of T for all images, one index, or
    None, as in `explain`.
    "rise", "lime" and "occlusion" pass as many images through the network for T targets as for one.
    batch: how many images, or variants of one, go through the network at once.
    seed: for methods that draw samples. Every image has the same draws, so it gets the same map alone and in
    a batch; torch's own generators are left as they were. Calls from several threads wait for each other,
    as torch's generators and Python's filters of warnings are those of the whole process.
    settings: of the method: the parameters of the function of its name in this package, explained there.

    A B-cos network is attributed at the input of its linear map, the encoded image [x, 1-x], and maps are
    sums over its 2K channels: as in the papers, and so that maps are comparable with `contributions`. If a
    method needs a neutral input, it is zero in all 2K channels, which is no colour. The exception is "lime",
    which paints superpixels of the image itself in their mean colour. A conventional network is attributed
    at its image. Maps have signs and units as the method defines them.

    Raises InputError for an unknown method or setting, for images, targets and models that do not fit, inside
    `linear_mode`, and if the package that the method comes from is not installed.

    ```python
    import torch

    import bcos_zoo
    from bcos_zoo.posthoc import attribute

    model = bcos_zoo.load("bcos_resnet20.cifar10").model
    x = torch.rand(2, 3, 32, 32)
    maps = attribute(model, x, 3, "gradcam")
    assert maps.shape == (2, 32, 32)
    ```
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
    if isinstance(names, Outputs) and "output" in known:  # probabilities as this network means them
        settings = {"output": names.kind} | settings
    if isinstance(names, Outputs):  # the names of two classes cannot label the index of a single logit
        names = None if names.single(getattr(model, "num_classes", 0)) else names.class_names
    check_eval(model)
    images, targets = checked_images(x), as_targets(targets)
    several = targets.ndim == 2 if isinstance(targets, Tensor) else _is_list(targets)
    if run is inherent:  # it refers to the given image, whatever the network encodes
        maps = inherent(model, images, targets, batch, names)
        return maps if several else maps[:, 0]
    own = place_of(model)
    device = images.device if own is None else own.device
    with (
        _ONE_AT_A_TIME,
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        full_float32(),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        warnings.catch_warnings(),
    ):
        # Captum warns that it hooks activations for a while. Here, it only hooks a copy.
        warnings.filterwarnings("ignore", message="Setting (backward|forward, backward) hooks")
        inputs = prepare(model, images, targets, batch, seed, names)
        maps = run(inputs, **settings).detach()
    return torch.unflatten(maps, 0, tuple(inputs.targets.shape)) if several else maps


def _is_list(targets: Targets) -> bool:
    return isinstance(targets, Sequence) and not isinstance(targets, str)
