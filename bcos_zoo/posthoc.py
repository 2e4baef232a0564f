"""Attributions to compare the inherent explanation with: what post-hoc methods say of the same network.

The methods are captum's; RISE and LayerCAM, which captum lacks, are written here. They see the network in
ordinary mode, where the scale of a B-cos layer has a gradient of its own. Settings are those of the
comparisons in Boehle et al. 2022 and 2024 where these have the method, and else those of the method's paper.
"""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InputError
from .explain import check_eval, check_images, explain, unwrapped
from .extras import required
from .layers import Encode, encode, is_linear
from .layers.heads import check_channels
from .neighbours import TokensToMap, cam_layer, from_encoded, tap
from .targets import Targets, resolve_targets

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area")
LIME_WIDTH = 0.25  # of the kernel over cosine distances, for images, as in the authors' package


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
    """Attribution maps (N, H, W) of one class an image, by one of `EXPLAINERS`. Nothing given is changed.

    model: in eval mode, from images in [0, 1] to logits (N, C). Conventional networks are taken too, but by
    "inherent" and, unless their `layer` is named, by "gradcam" and "layercam" only if they are timm's.
    x: (N, K, H, W) in [0, 1], not normalised.
    targets: (N,) class indices; or one index or None, as in `explain`.
    batch: how many images, or variants of one, go through the network at once.
    seed: of the methods that draw samples. Every image has the same draws, so that it gets the same map
    alone and in a batch; torch's own generators are left as they were.
    settings: of the method; the parameters of the function of its name in this file, with what they mean.

    A B-cos network is attributed at what its linear map applies to, the encoded image [x, 1-x], and the map
    is the sum over its 2K channels: so did the papers, and so the maps compare with `contributions`. Where a
    method needs a neutral input, it is zero in all 2K channels, which no colour is. The exception is "lime",
    which paints superpixels of the image itself in their mean colour. A conventional network is attributed
    at its image. Maps are signed where the method is, and in its units.

    Raises InputError for an unknown method or setting, for images, targets and models that do not fit, inside
    `linear_mode`, and if the package that the method comes from is not installed.
    """
    if method not in _METHODS:
        raise InputError(f"no method named {method!r}; known: {', '.join(EXPLAINERS)}")
    run = _METHODS[method]
    known = [name for name in inspect.signature(run).parameters if name != "job"]
    if unknown := settings.keys() - set(known):
        raise InputError(
            f"{method} has no setting {', '.join(sorted(unknown))}; known: {', '.join(known) or 'none'}"
        )
    if batch < 1:
        raise InputError(f"batch={batch}: allowed are 1 and more")
    if is_linear():
        raise InputError("post-hoc methods see the network as it is; call attribute() outside linear_mode")
    model = unwrapped(model)
    check_eval(model)
    check_images(x)
    device = next(model.parameters(), x).device
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        warnings.catch_warnings(),
    ):
        # Captum says that it hooks activations, and undoes it. Here it hooks a copy.
        warnings.filterwarnings("ignore", message="Setting (backward|forward, backward) hooks")
        return run(_prepare(model, x, targets, batch, seed), **settings).detach()


@dataclass(frozen=True)
class _Job:
    """What a method gets to work on: everything is a copy, or detached."""

    model: nn.Module  # (N, K, H, W) -> (N, C); the caller's own
    network: nn.Module  # (N, 2K, H, W) -> (N, C), from the encoded image on
    x: Tensor  # (N, K, H, W)
    encoded: Tensor  # (N, 2K, H, W); of a network without an encoding layer, x itself
    targets: Tensor  # (N,)
    batch: int
    seed: int

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The encoded images and their targets, some at once."""
        for start in range(0, len(self.x), self.batch):
            some = slice(start, start + self.batch)
            yield self.encoded[some].detach().clone().requires_grad_(), self.targets[some]

    def each(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The encoded images (1, 2K, H, W) and targets (1,), with the same random numbers ahead for each."""
        for n in range(len(self.x)):
            torch.default_generator.manual_seed(self.seed)
            if self.x.device.type == "cuda":
                with torch.cuda.device(self.x.device):
                    torch.cuda.manual_seed(self.seed)
            yield self.encoded[n : n + 1].detach().clone().requires_grad_(), self.targets[n : n + 1]


def _prepare(model: nn.Module, x: Tensor, targets: Targets, batch: int, seed: int) -> _Job:
    network = from_encoded(model)
    own = next((p for p in network.parameters() if p.is_floating_point()), x)
    x = x.detach().clone().to(own.device, torch.promote_types(own.dtype, torch.float32))
    stem = next((module for module in model.modules() if isinstance(module, Encode)), None)
    if stem is not None:
        check_channels(x, stem.in_chans, hint="the network adds the inverted colours itself")
    encoded = x if stem is None else encode(x)
    with torch.no_grad():
        chunks = torch.split(encoded if targets is None else encoded[:1], batch)
        logits = torch.cat([network(chunk) for chunk in chunks])
    if logits.ndim != 2:
        raise InputError(f"the model gives {tuple(logits.shape)}; to attribute it must give logits (N, C)")
    picked = resolve_targets(targets, logits.expand(len(x), -1), None)
    if picked.shape[1] != 1:
        raise InputError(f"got {picked.shape[1]} targets an image; attribute() takes one: call it for each")
    return _Job(model, network, x, encoded, picked[:, 0], batch, seed)


def _captum() -> Any:
    return required("captum.attr", "captum")


# Each method: a job and its own settings -> (N, H, W).


def _inherent(job: _Job) -> Tensor:
    """The contributions of `explain`: exact, in logits. Boehle et al. 2022."""
    return explain(job.model, job.x, job.targets, max_batch=job.batch).contributions[:, 0]


def _ixg(job: _Job) -> Tensor:
    """Input times gradient, in logits. Shrikumar et al. 2016, arXiv:1605.01713."""
    return _by_batches(job, _captum().InputXGradient(job.network))


def _grad(job: _Job) -> Tensor:
    """The gradient, with its sign. Simonyan et al. 2013, arXiv:1312.6034, less the absolute value."""
    return _by_batches(job, _captum().Saliency(job.network), abs=False)


def _smoothgrad(job: _Job, *, samples: int = 50, noise: float = 0.15) -> Tensor:
    """The mean gradient of noisy images. Smilkov et al. 2017, arXiv:1706.03825.

    samples: how many. noise: standard deviation of what is added to the encoded image, whose range is [0, 1];
    the authors advise 0.1 to 0.2.
    """
    _check_positive(samples=samples, noise=noise)
    attr = _captum()
    tunnel = attr.NoiseTunnel(attr.Saliency(job.network))
    options = dict(nt_type="smoothgrad", nt_samples=samples, nt_samples_batch_size=min(job.batch, samples))
    maps = [tunnel.attribute(x, target=t, stdevs=noise, abs=False, **options) for x, t in job.each()]
    return torch.cat(maps).sum(1)


def _intgrad(job: _Job, *, steps: int = 50) -> Tensor:
    """Integrated gradients from zero, in logits. Sundararajan et al. 2017, arXiv:1703.01365.

    steps: at which the integral looks. With more, the map sums to what the logit gains over zero.
    """
    _check_positive(steps=steps)
    gradients = _captum().IntegratedGradients(job.network)
    options = dict(n_steps=steps, internal_batch_size=job.batch)
    return torch.cat([gradients.attribute(x, target=t, **options) for x, t in job.each()]).sum(1)


def _guided_backprop(job: _Job) -> Tensor:
    """The gradient, without what is negative at ReLUs: plain `grad` where there are none.

    Springenberg et al. 2014, arXiv:1412.6806.
    """
    return _by_batches(job, _captum().GuidedBackprop(job.network))


def _deeplift(job: _Job) -> Tensor:
    """DeepLIFT from zero, by captum's rescale rule, in logits. Shrikumar et al. 2017, arXiv:1704.02685.

    The rule is for activations that are modules, such as ReLU. Where a network has none it is `ixg`.
    """
    return _by_batches(job, _captum().DeepLift(job.network))


def _by_batches(job: _Job, method: Any, **options: Any) -> Tensor:
    return torch.cat([method.attribute(x, target=t, **options) for x, t in job.batches()]).sum(1)


def _gradcam(job: _Job, *, layer: str | None = None, interpolate: str = "nearest") -> Tensor:
    """Channels of a feature map, weighted by their mean gradients; positive.

    Selvaraju et al. 2017, arXiv:1610.02391. The B-cos papers weight by the sum of gradients: a factor.
    layer: a name in `named_modules()`; by default the last feature level, as in the papers. A transformer's
    tokens count as the map of its patches.
    interpolate: from the layer's map to the image, a mode of torch's `interpolate`.
    """
    network, module = _tapped(job, layer, interpolate)
    attr = _captum()
    cam = attr.LayerGradCam(network, module)
    maps = [cam.attribute(x, target=t, relu_attributions=True) for x, t in job.batches()]
    return attr.LayerAttribution.interpolate(torch.cat(maps), job.x.shape[-2:], interpolate)[:, 0]


def _layercam(job: _Job, *, layer: str | None = None, interpolate: str = "nearest") -> Tensor:
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
    return _captum().LayerAttribution.interpolate(torch.cat(maps), job.x.shape[-2:], interpolate)[:, 0]


def _tapped(job: _Job, layer: str | None, interpolate: str) -> tuple[nn.Module, nn.Module]:
    """The network with a tap on a layer, and the module that the layer's map passes."""
    _check_one_of(interpolate, INTERPOLATIONS, "interpolate")
    to_map = TokensToMap(job.model, job.x.shape[-2], job.x.shape[-1])
    return job.network, tap(job.network, cam_layer(job.model) if layer is None else layer, to_map)


def _rise(
    job: _Job, *, masks: int = 500, cells: int = 8, keep: float = 0.1, output: str = "sigmoid"
) -> Tensor:
    """The mean of random masks, weighted by the class's probability behind them.

    Petsiuk et al. 2018, arXiv:1806.07421.
    masks: how many. cells: of a mask, along each side, each kept with the probability `keep`; bilinearly
    enlarged by one cell too much, and cropped at random. output: "sigmoid" or "softmax".
    """
    _check_positive(masks=masks, cells=cells, keep=keep)
    if keep > 1:
        raise InputError(f"keep={keep}: allowed are probabilities above 0, up to 1")
    probabilities = _probabilities(output)
    height, width = job.x.shape[-2:]
    cell = (math.ceil(height / cells), math.ceil(width / cells))
    generator = torch.Generator().manual_seed(job.seed)
    grids = (torch.rand(masks, 1, cells, cells, generator=generator) < keep).float()
    tops = torch.randint(cell[0], (masks,), generator=generator).tolist()
    lefts = torch.randint(cell[1], (masks,), generator=generator).tolist()
    total = job.x.new_zeros(len(job.x), height, width)
    size = ((cells + 1) * cell[0], (cells + 1) * cell[1])
    for start in range(0, masks, job.batch):
        some = range(start, min(start + job.batch, masks))
        large = F.interpolate(grids[some.start : some.stop], size, mode="bilinear").to(job.x)
        mask = torch.stack(
            [large[i - start, :, tops[i] : tops[i] + height, lefts[i] : lefts[i] + width] for i in some]
        )
        for n, target in enumerate(job.targets.tolist()):
            with torch.no_grad():
                p = probabilities(job.network(job.encoded[n] * mask))[:, target]
            total[n] += torch.einsum("m,mhw->hw", p, mask[:, 0])
    return total / masks / keep


def _lime(
    job: _Job, *, samples: int = 500, features: int | None = 5, kernel: float = 4.0, output: str = "sigmoid"
) -> Tensor:
    """The superpixels that speak most for the class, 1 where they are and 0 elsewhere.

    Ribeiro et al. 2016, arXiv:1602.04938.
    samples: images with some superpixels in their mean colour, whose probabilities a ridge regression fits.
    features: how many superpixels count; None for the signed coefficients of all, in probabilities.
    kernel: of quickshift, which finds the superpixels; an image of 32 pixels is but one or two unless it is
    smaller. output: "sigmoid" or "softmax".
    """
    _check_positive(samples=samples, kernel=kernel, features=1 if features is None else features)
    ridge = required("captum._utils.models.linear_model", "captum").SkLearnRidge
    required("sklearn", "scikit-learn")
    quickshift = required("skimage.segmentation", "scikit-image").quickshift
    probabilities = _probabilities(output)
    if job.x.shape[1] != 3:
        raise InputError(f"superpixels are of RGB images; these have {job.x.shape[1]} channels")
    takes_rgb = job.encoded.shape[1] == 3

    def forward(rgb: Tensor) -> Tensor:
        with torch.no_grad():
            return probabilities(job.network(rgb if takes_rgb else encode(rgb)))

    def similarity(original: Tensor, changed: Tensor, kept: Tensor, **_: Any) -> Tensor:
        distance = 1 - F.cosine_similarity(kept.float(), torch.ones_like(kept, dtype=torch.float32))
        return torch.exp(-(distance**2) / LIME_WIDTH**2).sqrt()

    maps = []
    for n, (_, target) in enumerate(job.each()):
        image = job.x[n]
        pixels = image.permute(1, 2, 0).cpu().double().numpy()  # MPS has no float64
        found = quickshift(pixels, kernel_size=kernel, max_dist=200, ratio=0.2, rng=job.seed)
        labels = torch.as_tensor(found, dtype=torch.long, device=image.device)
        lime = _captum().Lime(forward, ridge(alpha=1.0), similarity)
        coefficients = lime.attribute(
            image[None],
            baselines=_mean_colours(image, labels)[None],
            target=target,
            feature_mask=labels[None, None],
            n_samples=samples,
            perturbations_per_eval=job.batch,
            return_input_shape=False,
        )[0]
        if features is not None:
            best = coefficients.topk(min(features, len(coefficients)))
            coefficients = torch.zeros_like(coefficients).index_fill(0, best.indices[best.values > 0], 1)
        maps.append(coefficients[labels])
    return torch.stack(maps).to(job.x)


def _mean_colours(image: Tensor, labels: Tensor) -> Tensor:
    """(3, H, W): every pixel in the mean colour of its superpixel."""
    flat = labels.flatten()
    sums = image.new_zeros(3, int(flat.max()) + 1).index_add_(1, flat, image.flatten(1))
    return (sums / flat.bincount().clamp_min(1))[:, labels]


def _occlusion(job: _Job, *, window: int = 9, stride: int = 4) -> Tensor:
    """How much the logit drops where a window is zero, the mean of all windows over a pixel.

    window, stride: in pixels. 9 and 4 is one of the papers' configurations; the others are 5 and 2, 9 and 2,
    13 and 4, 32 and 32. The papers add up where windows overlap: a factor, but at the edges.
    Zeiler and Fergus 2013, arXiv:1311.2901.
    """
    height, width = job.x.shape[-2:]
    if not 1 <= stride <= window <= min(height, width):
        raise InputError(
            f"window={window}, stride={stride}: allowed are 1 <= stride <= window <= {min(height, width)}"
        )
    occlusion, k = _captum().Occlusion(job.network), job.encoded.shape[1]
    options = dict(sliding_window_shapes=(k, window, window), strides=(k, stride, stride), baselines=0)
    maps = []
    for x, t in job.each():
        with torch.no_grad():
            maps.append(occlusion.attribute(x, target=t, perturbations_per_eval=job.batch, **options))
    return torch.cat(maps)[:, 0].to(job.x)  # every channel has the same: the window covers all


def _probabilities(output: str) -> Callable[[Tensor], Tensor]:
    _check_one_of(output, ("sigmoid", "softmax"), "output")
    return torch.sigmoid if output == "sigmoid" else functools.partial(torch.softmax, dim=1)


def _check_one_of(value: str, allowed: Sequence[str], name: str) -> None:
    if value not in allowed:
        raise InputError(f"{name}={value!r}: allowed are {', '.join(allowed)}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"{name}={value}: allowed are positive values")


_METHODS: dict[str, Callable[..., Tensor]] = {
    "inherent": _inherent,
    "ixg": _ixg,
    "grad": _grad,
    "smoothgrad": _smoothgrad,
    "intgrad": _intgrad,
    "guided-backprop": _guided_backprop,
    "deeplift": _deeplift,
    "gradcam": _gradcam,
    "layercam": _layercam,
    "rise": _rise,
    "lime": _lime,
    "occlusion": _occlusion,
}
EXPLAINERS = tuple(_METHODS)
