"""Interfaces to other interpretability libraries: captum, Quantus, pytorch-grad-cam.

docs/neighbours.md shows them in use. None of these libraries is needed to import or use this file.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._compat import wrapped_for_captum
from ..errors import InputError
from ..explanations.engine import explain_output
from ..explanations.inputs import class_logits, unwrapped
from ..explanations.units import check_layer
from ..layers import Encode, encode
from ..layers._fast import channels_last
from ..layers.heads import Standardize, check_channels
from ..layers.linear_mode import record_encoded

BEYOND = 1.0  # how far a library's noise may leave [0, 1]; values beyond suggest mean/std normalisation
P = ParamSpec("P")
R = TypeVar("R")


class BcosAttribution:
    """The exact attribution of a B-cos network, with the interface of captum's `Attribution` classes.

    It works wherever captum takes an attribution method (NoiseTunnel, captum.metrics), and gives for each
    input channel what `explain` gives for each pixel. It neither changes nor hooks the network.

    model: in eval mode, from images (N, K, H, W) to logits (N, C).
    """

    def __init__(self, model: nn.Module) -> None:
        self.forward_func = model

    def get_name(self) -> str:
        """The name in captum's pictures."""
        return "B-cos"

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: contributions are input times weights."""
        return True

    def has_convergence_delta(self) -> bool:
        """True: see `compute_convergence_delta`."""
        return True

    @wrapped_for_captum
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor],
        target: int | Sequence[int] | Tensor | None = None,
        additional_forward_args: None = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Contributions (N, K, H, W) to a logit, in logits; in a tuple if the inputs came in one.

        The linear map is over the 2K channels [x, 1-x]. Channel k gets what k and its inverse contribute
        together, so the sum over all channels is still the logit minus the network's constants.
        inputs: (N, K, H, W) in [0, 1]; perturbed by a library, they may leave that range by less than 1.
        target: as in captum: the index of one class for all images, or a list or tensor (N,) with one for
        each; None if there is only one output.
        additional_forward_args: a parameter of captum's interface; must be None.
        return_convergence_delta: return (contributions, delta), as captum does.
        Raises InputError for inputs, targets and models that do not fit.
        """
        if additional_forward_args is not None:
            raise InputError("additional_forward_args are given; a network of images takes none")
        x = _single(inputs)
        contributions, unexplained = self._contributions(x, target)
        result = (contributions,) if isinstance(inputs, tuple) else contributions
        return (result, -unexplained) if return_convergence_delta else result

    def compute_convergence_delta(
        self,
        attributions: Tensor | tuple[Tensor],
        start_point: None,
        end_point: Tensor | tuple[Tensor],
        target: int | Sequence[int] | Tensor | None = None,
        additional_forward_args: None = None,
    ) -> Tensor:
        """(N,): the sum of attributions minus what they should explain, in logits; only rounding for our own.

        start_point: must be None. The map starts from zero in all 2K channels, which is no image, and where
        the network gives its constants alone. end_point: the images. The rest is as in `attribute`.
        """
        if start_point is not None or additional_forward_args is not None:
            raise InputError("start_point and additional_forward_args must be None: the map starts at zero")
        own, unexplained = self._contributions(_single(end_point), target)
        given = _single(attributions)
        if given.shape != own.shape:
            raise InputError(
                f"attributions are {tuple(given.shape)}; for these images they are {tuple(own.shape)}"
            )
        return (given - own).flatten(1).sum(1) - unexplained

    def _contributions(self, x: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """(N, K, H, W) and (N,): what each value adds, and what remains unexplained of the logit."""

        def forward(network: nn.Module, images: Tensor) -> Tensor:
            logits = class_logits(network, images)
            if target is None and logits.shape[1] > 1:
                raise InputError(
                    f"target=None, but there are {logits.shape[1]} classes; name the one to attribute"
                )
            return logits

        if x.ndim != 4 or x.numel() == 0:
            raise InputError(f"got a tensor of shape {tuple(x.shape)}; images come as (N, K, H, W)")
        _check_range(x)
        explanation = explain_output(forward, self.forward_func, x, _captum_target(target, len(x)))
        weights = explanation.weights[:, 0]
        plain, inverse = (weights * encode(x.detach().to(weights))).chunk(2, 1)
        summed = (plain + inverse).contiguous()  # captum takes views of its result
        return summed, explanation.completeness()[:, 0]


def _single(given: Any) -> Tensor:
    if isinstance(given, tuple) and len(given) == 1:
        (given,) = given
    if not isinstance(given, Tensor):
        raise InputError(f"got a {type(given).__name__}; allowed are a tensor and a tuple of one tensor")
    return given


def _check_range(x: Tensor) -> None:
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    if not (low > -BEYOND and high < 1 + BEYOND):  # written so that NaN fails too
        raise InputError(
            f"the images hold values from {low:.3g} to {high:.3g}; allowed is [0, 1], give or take what "
            "perturbs them: leave out mean/std normalisation"
        )


def _captum_target(target: Any, n: int) -> int | Tensor | None:
    """Captum's targets for n images, in the form that `explain` takes: None, one class, or one per image."""
    if target is None:
        return None
    allowed = f"allowed are class indices, one for all images or one for each of {n}"
    try:
        if isinstance(target, tuple):  # captum's index into an output of several axes, which logits are not
            raise TypeError
        found = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"target {str(target)!r:.80} holds no class indices; {allowed}") from None
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise InputError(f"target {str(target)!r:.80} is of {found.dtype}; {allowed}, as integers")
    # As in captum, a tensor of one value is for all images, but a list of one is not.
    if found.ndim == 0 or (isinstance(target, Tensor) and found.numel() == 1):
        return int(found)
    if found.shape != (n,):
        raise InputError(f"target of shape {tuple(found.shape)}; {allowed}, as ({n},)")
    return found


def quantus_explain_func(
    model: nn.Module,
    inputs: NDArray[Any],
    targets: NDArray[Any],
    *,
    attribute: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
    device: torch.device | str | None = None,
) -> NDArray[Any]:
    """An `explain_func` for Quantus's metrics: maps (N, 1, H, W) from images (N, K, H, W), in logits.

    targets: (N,) class indices.
    attribute: another method to evaluate, from model, images and targets to maps (N, H, W), such as
    `functools.partial(bcos_zoo.posthoc.attribute, method="intgrad")`. It gets perturbed images clipped to
    [0, 1]. By default, the exact contributions, of the images as they are.
    device: passed by Quantus, and ignored: the images go to the device of the model.
    Raises InputError as `BcosAttribution` or the method does.
    """
    x = torch.as_tensor(inputs)
    picked = _captum_target(np.asarray(targets).tolist(), len(x))
    if not isinstance(picked, Tensor):
        raise InputError(f"targets={targets!r:.80}: allowed is one class index for each of {len(x)} images")
    if attribute is None:
        maps = BcosAttribution(model).attribute(x, picked).sum(1)
    else:
        _check_range(x)
        maps = attribute(model, x.clamp(0, 1), picked)
    return np.asarray(maps.detach().cpu().numpy())[:, None]


def from_encoded(model: nn.Module) -> nn.Module:
    """The part of the network after its encoding: (N, 2K, H, W) -> (N, C), in float32 at least.

    For methods, such as captum's, that attribute to the input of a module. The result is a copy of the
    structure that shares the weights, detached: hooks put on it do not touch the model. A network without an
    encoding layer is copied as it is.
    """
    network = detached_copy(model)
    for name, module in list(network.named_modules()):
        if isinstance(module, Encode):
            network.set_submodule(name, _Encoded(module).train(network.training))
    return network


def detached_copy(model: nn.Module) -> nn.Module:
    """A copy of the structure that shares the weights, detached, and in float32 at least."""
    model = unwrapped(model)
    memo: dict[int, Any] = {}
    with torch.inference_mode(False):
        for tensor in chain(model.parameters(), model.buffers()):
            shared = tensor.detach()
            if tensor.is_floating_point():
                shared = shared.to(torch.promote_types(tensor.dtype, torch.float32))
            if shared.is_inference():
                shared = shared.clone()
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(shared, requires_grad=False) if is_parameter else shared
        return copy.deepcopy(model, memo)


class _Encoded(Standardize):
    """Replaces a network's `Encode`, for images that are already encoded. (N, 2K, H, W) -> the same."""

    def __init__(self, of: Encode) -> None:
        super().__init__()
        self.channels = 2 * of.in_chans
        self.hold_statistics(of.mean, of.std)
        if of.factor is not None:
            self.to(of.factor)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, hint="this is the network from the encoded image on")
        return self.standardize(channels_last(record_encoded(x, x, self)))


def cam_layer(model: nn.Module) -> str:
    """Name of the layer that Grad-CAM and similar methods use: the last feature level, for all timm networks.

    Its output is (N, K, H, W) or, in a vision transformer of this zoo, tokens (N, L, D), row by row.
    Raises InputError for a network that does not name its feature levels.
    """
    info = getattr(unwrapped(model), "feature_info", None)
    if not info:
        raise InputError(
            f"{type(model).__name__} does not name its feature levels; name a layer of named_modules()"
        )
    return str(info[-1]["module"])


class TokensToMap:
    """A layer's output as a map: tokens (N, L, D) -> (N, D, H', W'); a map stays as it is.

    pytorch-grad-cam calls this a reshape_transform.
    model: a network for which `cam_layer` works. height, width: of the images, in pixels.
    Raises InputError, when called, for anything but a map or one token per patch.
    """

    def __init__(self, model: nn.Module, height: int, width: int) -> None:
        info = getattr(unwrapped(model), "feature_info", None)
        stride = int(info[-1]["reduction"]) if info else 1
        self.grid = (height // stride, width // stride)

    def __call__(self, y: Tensor) -> Tensor:
        if isinstance(y, Tensor) and y.ndim == 4:
            return y
        if not isinstance(y, Tensor) or y.ndim != 3 or y.shape[1] != math.prod(self.grid):
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise InputError(
                f"the layer gives {got}, which is no map; name one that gives (N, K, H, W) or tokens "
                f"(N, {math.prod(self.grid)}, D)"
            )
        return y.transpose(1, 2).reshape(len(y), -1, *self.grid)


class _Tap(nn.Module):
    """A layer whose output passes the module `map` as (N, K, H', W'), and then goes on in its own form."""

    def __init__(self, layer: nn.Module, to_map: TokensToMap) -> None:
        super().__init__()
        self.layer, self.to_map, self.map = layer, to_map, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        passed: Tensor = self.map(self.to_map(y)).clone()  # later modules may write to it
        return passed if y.ndim == 4 else passed.flatten(2).transpose(1, 2)


def tap(network: nn.Module, name: str, to_map: TokensToMap) -> nn.Module:
    """Route a layer's output, as a map, through a new module, and return that module, for hooks.

    This changes the network: pass a copy, such as `from_encoded` makes. Raises InputError if named_modules()
    has no layer of that name.
    """
    check_layer(network, name)
    tapped = _Tap(network.get_submodule(name), to_map)
    network.set_submodule(name, tapped.train(network.training))
    return tapped.map
