"""Explanations of what a B-cos network gives."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError
from .explanation import DEFAULT_PERCENTILE, DEFAULT_SMOOTH, Explanation
from .inputs import card_names, check_eval, check_images, class_logits, unwrapped
from .layers import linear_mode, recording
from .outputs import Outputs, linear_form
from .targets import Targets, check_shape, resolve_targets

UNEXPLAINED = 1e-3  # share of the absolute contributions that rounding stays below, in float32 at least
UNEXPLAINED_HALF = 0.05  # in half precision
Forward = Callable[[nn.Module, Tensor], Tensor]  # -> (N, C)


def explain(
    model: nn.Module,
    x: Tensor,
    targets: Targets = None,
    *,
    output: str = "logit",
    class_names: Sequence[str] | Outputs | None = None,
    dtype: torch.dtype | None = None,
    max_batch: int | None = None,
    create_graph: bool = False,
) -> Explanation:
    """Explain a batch of images exactly, from one forward pass. Neither `x` nor the model is changed.

    model: a network of `bcos_zoo.layers` in eval mode that gives logits (N, C); one from torch.compile, or
    wrapped for several devices, is explained as the network inside.
    x: (N, K, H, W) in [0, 1], not normalised, on any device.
    targets: None for each image's predicted class; an index or label for all images; a list of them for T
    targets an image; a tensor (N,) with one index an image, or (N, T).
    output: what of a class is explained, and what `logits` then holds: "logit"; "relative", the logit less
    the mean of all classes'; "sigmoid" or "softmax", the probability that these make of the logits, as 1/2 +
    factor * log-odds with the factor held (the log-odds of a softmax are the logit less the mean of the
    others', weighted by their own softmax, held too, and less the entropy of it); "probability", the one of
    both that the network was trained for, as class_names say.
    class_names: what labels refer to, one for each class; by default those of the model's card, if any. Or
    `Outputs`, which also say what probabilities are made by, and may name both classes of a single logit.
    dtype: of the computation; by default the model's own, but float32 at least, whatever autocast says: half
    precision can underflow to zero.
    max_batch: how many images are run at once; bounds the memory of large requests.
    create_graph: leave the explanation in the graph of the weights, and of x if it asks for a gradient, to
    train with it. It costs one more forward pass; the model must be of the dtype of the computation.

    Raises InputError for a model in training mode or without a linear map, and for images, targets or options
    that do not fit. Warns if a part of a logit remains unexplained, because the model has parts that are not
    linear.
    Source: Boehle et al. 2022, section 3.3.
    """
    outputs = class_names if isinstance(class_names, Outputs) else None
    made = linear_form(output, outputs)

    def forward(network: nn.Module, images: Tensor) -> Tensor:
        logits = class_logits(network, images)
        return made(logits if outputs is None else outputs.class_logits(logits))

    check_images(x)
    names: Sequence[str] | None
    if isinstance(class_names, Outputs):
        names = class_names.class_names
    else:
        names = class_names if class_names is not None else card_names(unwrapped(model))
    return explain_output(
        forward, model, x, targets, names=names, dtype=dtype, max_batch=max_batch, create_graph=create_graph
    )


def explain_output(
    forward: Forward,
    model: nn.Module,
    x: Tensor,
    targets: Targets,
    *,
    names: Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    max_batch: int | None = None,
    create_graph: bool = False,
) -> Explanation:
    """Explain what `forward` makes of a network and images, (N, C), as `explain` does the logits.

    x: (N, K, H, W), not empty; its values are not checked. names: of what `forward` gives. The rest, and what
    is raised, as in `explain`.
    """
    model = unwrapped(model)
    check_eval(model)
    if isinstance(targets, Tensor):
        check_shape(targets, len(x))
    if max_batch is not None and max_batch < 1:
        raise InputError(f"max_batch={max_batch}: allowed are 1 and more, or None for all images at once")
    own = next((p for p in model.parameters() if p.is_floating_point()), None)
    model_dtype, device = (torch.float32, x.device) if own is None else (own.dtype, own.device)
    if dtype is None:
        dtype = torch.promote_types(model_dtype, torch.float32)
    copied = own is not None and (dtype != own.dtype or own.is_inference())
    if create_graph and copied:
        raise InputError(
            f"the model is of {model_dtype} and would be explained in a copy of {dtype}, whose weights have "
            "no graph; with create_graph=True give a model of that dtype that was made outside inference mode"
        )

    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        if copied:
            model = copy.deepcopy(model).to(dtype)  # a copy: other threads may be using the caller's
        parts = []
        for start in range(0, len(x), max_batch or len(x)):
            some = slice(start, start + (max_batch or len(x)))
            image = x[some] if create_graph else x[some].detach().clone()
            theirs = targets[some] if isinstance(targets, Tensor) else targets
            parts.append(_explain_batch(forward, model, image.to(device, dtype), theirs, names, create_graph))
    explanation = parts[0] if len(parts) == 1 else Explanation.cat(parts)
    _warn_of_the_unexplained(explanation)
    return explanation


def _explain_batch(
    forward: Forward,
    model: nn.Module,
    image: Tensor,
    targets: Targets,
    names: Sequence[str] | None,
    create_graph: bool,
) -> Explanation:
    factors = None
    if create_graph:
        with recording() as factors:
            forward(model, image)
    with linear_mode(freeze_parameters=not create_graph, factors=factors) as tape:
        logits = forward(model, image)
    if tape.encoded is None:
        raise InputError(f"{type(model).__name__} has no B-cos encoding layer, so no linear map to explain")
    picked = resolve_targets(targets, logits, names)
    labels = None if names is None else tuple(tuple(names[i] for i in row) for row in picked.tolist())
    if picked.shape[1] > 1 and _has_compiled_parts(model):  # whose backward pass may give its buffers away
        each = [
            _explain_batch(forward, model, image, picked[:, t : t + 1], None, create_graph)
            for t in range(picked.shape[1])
        ]
        parts = ("weights", "contributions", "bias")
        joined: dict[str, Any] = {name: torch.cat([getattr(one, name) for one in each], 1) for name in parts}
        return Explanation(each[0].logits, picked, labels=labels, **joined)
    weights, bias = _gradients(logits, picked, tape.encoded, tape.constants, create_graph)
    encoded = tape.encoded if create_graph else tape.encoded.detach()
    contributions = (encoded.unsqueeze(1) * weights).sum(2)
    return Explanation(
        logits if create_graph else logits.detach(), picked, weights, contributions, bias, labels
    )


def _has_compiled_parts(model: nn.Module) -> bool:
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def _gradients(
    logits: Tensor, targets: Tensor, encoded: Tensor, constants: list[Tensor], create_graph: bool
) -> tuple[Tensor, Tensor]:
    """W(x) (N, T, 2K, H, W) and the constants' share (N, T), by one backward pass for each of the T targets.

    Images do not mix in eval mode, so the sum of one logit of each has each image's own gradient.
    """
    weights, bias = [], []
    for t in range(targets.shape[1]):
        chosen = logits.gather(1, targets[:, t : t + 1]).sum()
        first, *rest = torch.autograd.grad(
            chosen,
            [encoded, *constants],
            retain_graph=create_graph or t + 1 < targets.shape[1],
            create_graph=create_graph,
            materialize_grads=True,
        )
        weights.append(first)
        shares = [(g * c).flatten(1).sum(1) for g, c in zip(rest, constants, strict=True)]
        bias.append(torch.stack(shares).sum(0) if shares else logits.new_zeros(len(logits)))
    shared = torch.stack(bias, 1)
    return torch.stack(weights, 1), shared if create_graph else shared.detach()


def _warn_of_the_unexplained(explanation: Explanation) -> None:
    with torch.no_grad():
        total = explanation.contributions.abs().sum((-1, -2)) + explanation.bias.abs()
        share = float((explanation.completeness().abs() / total.clamp_min(1e-30)).max())
    if not math.isfinite(share):
        warnings.warn(
            "the explanation holds NaN or infinity, which explains nothing: the model has weights that are "
            "not finite, or its values leave the range of the dtype; take float32",
            stacklevel=4,
        )
    elif share > (UNEXPLAINED if explanation.logits.element_size() >= 4 else UNEXPLAINED_HALF):
        warnings.warn(
            f"up to {share:.1%} of an output is not explained: the model has parts that are not linear in "
            "linear mode; completeness() gives the gap of each target. Use the layers of bcos_zoo.layers",
            stacklevel=4,
        )


class ExplanationHead(nn.Module):
    """`explain` as a module that keeps model and settings together. (N, K, H, W) in [0, 1] -> Explanation.

    smooth, percentile: what the pictures of its explanations are made with; class_names: as in `explain`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        class_names: Sequence[str] | Outputs | None = None,
        smooth: int = DEFAULT_SMOOTH,
        percentile: float = DEFAULT_PERCENTILE,
    ) -> None:
        super().__init__()
        self.model = model
        self.class_names = class_names
        self.smooth, self.percentile = smooth, percentile

    def forward(self, x: Tensor, targets: Targets = None, *, output: str = "logit") -> Explanation:
        explanation = explain(self.model, x, targets, output=output, class_names=self.class_names)
        return replace(explanation, smooth=self.smooth, percentile=self.percentile)

    def extra_repr(self) -> str:
        return f"smooth={self.smooth}, percentile={self.percentile}"
