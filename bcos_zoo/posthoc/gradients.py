"""Methods that follow gradients: at the image, or at a feature map. A job and settings -> (N * T, H, W)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..explanations.engine import explain
from ..explanations.targets import Targets
from .adapters import TokensToMap, cam_layer, tap
from .job import Job, captum, check_one_of, check_positive

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area")


def inherent(model: nn.Module, x: Tensor, targets: Targets, batch: int, names: Any) -> Tensor:
    """The contributions of `explain`, (N, T, H, W): exact, in logits. Boehle et al. 2022."""
    return explain(model, x, targets, class_names=names, max_batch=batch).contributions


def ixg(job: Job) -> Tensor:
    """Input times gradient, in logits. Shrikumar et al. 2016, arXiv:1605.01713."""
    return _by_batches(job, captum().InputXGradient(job.network))


def grad(job: Job) -> Tensor:
    """The gradient, with its sign. Simonyan et al. 2013, arXiv:1312.6034, less the absolute value."""
    return _by_batches(job, captum().Saliency(job.network), abs=False)


def smoothgrad(job: Job, *, samples: int = 50, noise: float = 0.15) -> Tensor:
    """The mean gradient of noisy images. Smilkov et al. 2017, arXiv:1706.03825.

    samples: how many. noise: standard deviation of what is added to the encoded image, whose range is [0, 1];
    the authors advise 0.1 to 0.2.
    """
    check_positive(samples=samples, noise=noise)
    attr = captum()
    tunnel = attr.NoiseTunnel(attr.Saliency(job.network))
    options = dict(nt_type="smoothgrad", nt_samples=samples, nt_samples_batch_size=min(job.batch, samples))
    options |= dict(stdevs=noise, abs=False)
    return torch.cat([tunnel.attribute(x, target=t, **options).sum(1) for x, t in job.each()])


def intgrad(job: Job, *, steps: int = 50) -> Tensor:
    """Integrated gradients from zero, in logits. Sundararajan et al. 2017, arXiv:1703.01365.

    steps: at which the integral looks. With more, the map sums to what the logit gains over zero.
    """
    check_positive(steps=steps)
    gradients = captum().IntegratedGradients(job.network)
    options = dict(n_steps=steps, internal_batch_size=job.batch)
    return torch.cat([gradients.attribute(x, target=t, **options).sum(1) for x, t in job.each()])


def guided_backprop(job: Job) -> Tensor:
    """The gradient, without what is negative at ReLUs: plain `grad` where there are none.

    Springenberg et al. 2014, arXiv:1412.6806.
    """
    return _by_batches(job, captum().GuidedBackprop(job.network))


def deeplift(job: Job) -> Tensor:
    """DeepLIFT from zero, by captum's rescale rule, in logits. Shrikumar et al. 2017, arXiv:1704.02685.

    The rule is for activations that are modules, such as ReLU. Where a network has none it is `ixg`.
    """
    return _by_batches(job, captum().DeepLift(job.network))


def _by_batches(job: Job, method: Any, **options: Any) -> Tensor:
    return torch.cat([method.attribute(x, target=t, **options).sum(1) for x, t in job.batches()])


def gradcam(job: Job, *, layer: str | None = None, interpolate: str = "nearest") -> Tensor:
    """Channels of a feature map, weighted by their mean gradients; positive.

    Selvaraju et al. 2017, arXiv:1610.02391. The B-cos papers weight by the sum of gradients: a factor.
    layer: a name in `named_modules()`; by default the last feature level, as in the papers. A transformer's
    tokens count as the map of its patches.
    interpolate: from the layer's map to the image, a mode of torch's `interpolate`.
    """
    network, module = _tapped(job, layer, interpolate)
    attr = captum()
    cam = attr.LayerGradCam(network, module)
    maps = [cam.attribute(x, target=t, relu_attributions=True) for x, t in job.batches()]
    return attr.LayerAttribution.interpolate(torch.cat(maps), job.x.shape[-2:], interpolate)[:, 0]


def layercam(job: Job, *, layer: str | None = None, interpolate: str = "nearest") -> Tensor:
    """A feature map, each value weighted by its own positive gradient; positive.

    Jiang et al. 2021, IEEE Transactions on Image Processing 30.
    layer, interpolate: as in Grad-CAM.
    """
    network, module = _tapped(job, layer, interpolate)
    seen: list[Tensor] = []
    module.register_forward_hook(lambda *args: seen.append(args[2]))  # the network is this call's own
    maps = []
    for x, targets in job.batches():
        seen.clear()
        chosen = network(x).gather(1, targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, seen)
        maps.append((gradient.relu() * seen[0].detach()).sum(1, keepdim=True).relu())
    return captum().LayerAttribution.interpolate(torch.cat(maps), job.x.shape[-2:], interpolate)[:, 0]


def _tapped(job: Job, layer: str | None, interpolate: str) -> tuple[nn.Module, nn.Module]:
    """The network with a tap on a layer, and the module that the layer's map passes."""
    check_one_of(interpolate, INTERPOLATIONS, "interpolate")
    to_map = TokensToMap(job.model, job.x.shape[-2], job.x.shape[-1])
    return job.network, tap(job.network, cam_layer(job.model) if layer is None else layer, to_map)
