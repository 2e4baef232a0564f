"""Methods by gradients, at the image or at a feature map. From inputs and settings to maps (N * T, H, W)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..explanations.engine import explain
from ..explanations.targets import Targets
from .adapters import TokensToMap, cam_layer, tap
from .inputs import MethodInputs, captum, check_one_of, check_positive

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area")


def inherent(model: nn.Module, x: Tensor, targets: Targets, batch: int, names: Any) -> Tensor:
    """The contributions of `explain`, (N, T, H, W): exact, in logits. Boehle et al. 2022."""
    return explain(model, x, targets, class_names=names, max_batch=batch).contributions


def ixg(inputs: MethodInputs) -> Tensor:
    """Input times gradient, in logits. Shrikumar et al. 2016, arXiv:1605.01713."""
    return _by_batches(inputs, captum().InputXGradient(inputs.network))


def grad(inputs: MethodInputs) -> Tensor:
    """The gradient, with its sign. Simonyan et al. 2013, arXiv:1312.6034, without the absolute value."""
    return _by_batches(inputs, captum().Saliency(inputs.network), abs=False)


def smoothgrad(inputs: MethodInputs, *, samples: int = 50, noise: float = 0.15) -> Tensor:
    """The mean gradient of noisy images. Smilkov et al. 2017, arXiv:1706.03825.

    samples: number of noisy images. noise: standard deviation, on the encoded image in [0, 1]; the authors
    advise 0.1 to 0.2.
    """
    check_positive(samples=samples, noise=noise)
    attr = captum()
    tunnel = attr.NoiseTunnel(attr.Saliency(inputs.network))
    options = dict(nt_type="smoothgrad", nt_samples=samples, nt_samples_batch_size=min(inputs.batch, samples))
    options |= dict(stdevs=noise, abs=False)
    return torch.cat([tunnel.attribute(x, target=t, **options).sum(1) for x, t in inputs.each()])


def intgrad(inputs: MethodInputs, *, steps: int = 50) -> Tensor:
    """Integrated gradients from zero, in logits. Sundararajan et al. 2017, arXiv:1703.01365.

    steps: points at which the integral is evaluated. With more of them, the sum of the map comes closer to
    the logit's gain over the zero input.
    """
    check_positive(steps=steps)
    gradients = captum().IntegratedGradients(inputs.network)
    options = dict(n_steps=steps, internal_batch_size=inputs.batch)
    return torch.cat([gradients.attribute(x, target=t, **options).sum(1) for x, t in inputs.each()])


def guided_backprop(inputs: MethodInputs) -> Tensor:
    """The gradient, with negative parts dropped at every ReLU; the same as `grad` in networks without any.

    Springenberg et al. 2014, arXiv:1412.6806.
    """
    return _by_batches(inputs, captum().GuidedBackprop(inputs.network))


def deeplift(inputs: MethodInputs) -> Tensor:
    """DeepLIFT from zero, by captum's rescale rule, in logits. Shrikumar et al. 2017, arXiv:1704.02685.

    The rule applies to activations that are modules, such as ReLU. Without any, the result is that of `ixg`.
    """
    return _by_batches(inputs, captum().DeepLift(inputs.network))


def _by_batches(inputs: MethodInputs, method: Any, **options: Any) -> Tensor:
    return torch.cat([method.attribute(x, target=t, **options).sum(1) for x, t in inputs.batches()])


def gradcam(inputs: MethodInputs, *, layer: str | None = None, interpolate: str = "nearest") -> Tensor:
    """The channels of a feature map, summed with their mean gradients as weights; the positive part.

    Selvaraju et al. 2017, arXiv:1610.02391. The B-cos papers weight by the sum of
    gradients, which differs by a factor.
    layer: a name in `named_modules()`; by default the last feature level, as in the papers. A transformer's
    tokens are treated as a map of its patches.
    interpolate: how the layer's map is resized to the image, a mode of torch's `interpolate`.
    """
    network, module = _tapped(inputs, layer, interpolate)
    attr = captum()
    cam = attr.LayerGradCam(network, module)
    maps = [cam.attribute(x, target=t, relu_attributions=True) for x, t in inputs.batches()]
    return attr.LayerAttribution.interpolate(torch.cat(maps), inputs.x.shape[-2:], interpolate)[:, 0]


def layercam(inputs: MethodInputs, *, layer: str | None = None, interpolate: str = "nearest") -> Tensor:
    """A feature map, each value weighted by its own positive gradient, summed over channels; positive part.

    Jiang et al. 2021, IEEE Transactions on Image Processing 30.
    layer, interpolate: as in Grad-CAM.
    """
    network, module = _tapped(inputs, layer, interpolate)
    seen: list[Tensor] = []
    module.register_forward_hook(lambda *args: seen.append(args[2]))  # the network is this call's own
    maps = []
    for x, targets in inputs.batches():
        seen.clear()
        chosen = network(x).gather(1, targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, seen)
        maps.append((gradient.relu() * seen[0].detach()).sum(1, keepdim=True).relu())
    return captum().LayerAttribution.interpolate(torch.cat(maps), inputs.x.shape[-2:], interpolate)[:, 0]


def _tapped(inputs: MethodInputs, layer: str | None, interpolate: str) -> tuple[nn.Module, nn.Module]:
    """The network with a tap on a layer, and the module through which the layer's map passes."""
    check_one_of(interpolate, INTERPOLATIONS, "interpolate")
    to_map = TokensToMap(inputs.model, inputs.x.shape[-2], inputs.x.shape[-1])
    return inputs.network, tap(inputs.network, cam_layer(inputs.model) if layer is None else layer, to_map)
