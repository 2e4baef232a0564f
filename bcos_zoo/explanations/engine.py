"""Explanations of the outputs of a B-cos network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .._compat import is_compiled, version
from ..errors import InputError, check_integer
from ..layers import encode, linear_mode, recording
from ..layers.functional import at_least_float32
from ..layers.linear_mode import DIFFERENT_PASSES, Tape
from ..metrics.checks import check_eval
from ..outputs import Outputs, check_names, linear_form
from . import encodings
from .encodings import per_image
from .explanation import DEFAULT_PERCENTILE, DEFAULT_SMOOTH, Explanation, check_colours
from .inputs import (
    Images,
    checked_images,
    class_logits,
    described,
    holder_of,
    names_of,
    settings_of,
    unwrapped,
)
from .precision import computing
from .targets import Targets, as_targets, check_shape, resolve_targets

# Bounds on rounding, in units of the dtype's precision, relative to the sums of absolute values: first for
# contributions, which are rounded by the whole depth of a network, then for constants, then for both in half
# precision. Measured relative to both sums, rounding was below 1 in the networks of `benchmarks/rounding.py`;
# in those of the tests, whose norms are random too, it was at most 9, and 25 in half precision.
ROUNDING, ROUNDING_CONSTANT, ROUNDING_HALF = 256, 16, 32
Forward = Callable[[nn.Module, Tensor], Tensor]  # -> (N, C)
Form = Callable[[Tensor], Tensor]  # (N, C) -> (N, C)


def explain(
    model: nn.Module,
    x: Images,
    targets: Targets = None,
    *,
    output: str = "logit",
    class_names: Sequence[str] | Outputs | None = None,
    dtype: torch.dtype | None = None,
    max_batch: int | None = None,
    create_graph: bool = False,
) -> Explanation:
    """Explain a batch of images exactly, from one forward pass. Neither `x` nor the model is changed.

    model: a network of `bcos_zoo.layers` in eval mode that gives logits (N, C). If it gives a tuple or dict,
    the tensor called `logits` is taken, or the only one of that shape. If it is compiled by torch.compile,
    wrapped for several devices, or a Classifier, the network inside is explained. If that network flips,
    crops, shifts, pads or resizes the image before encoding it, or encodes it several times, the explanation
    still refers to the image given here.
    x: (N, K, H, W) in [0, 1], not normalised, on any device; or an array, or a list of images (K, H, W).
    targets: None for each image's predicted class, by the logits; an index or label for all images; a list of
    them for T targets per image; a tensor or array (N,) with one index per image, or (N, T).
    output: what is explained, and what `logits` then holds: "logit"; "relative", the logit minus the mean of
    all logits; "sigmoid" or "softmax", the probability of the class, written as 1/2 + factor * log-odds with
    the factor held; or "probability", the one of these two that the network was trained for, according to
    class_names. For a softmax, the log-odds are the logit minus a mean of the other logits, weighted with
    their own softmax (held too), minus the entropy of that softmax.
    class_names: what labels refer to, one for each class; by default those of the model's card, if any. Or
    `Outputs`, which also say how logits become probabilities, and may name both classes of a single logit.
    dtype: of the computation; by default the model's own, but at least float32, regardless of autocast: half
    precision can underflow to zero.
    max_batch: how many images are run at once; bounds the memory of large requests.
    create_graph: keep the explanation in the graph of the weights, and of x if it requires a gradient, to
    train with it. It costs one more forward pass; the model must have the dtype of the computation.

    Raises InputError for a model in training mode or without a linear map, for one that encodes anything but
    a linear map of the image, and for images, targets or options that do not fit. Warns if part of a logit
    remains unexplained because the model has parts that are not linear.
    Source: Boehle et al. 2022, section 3.3.

    ```python
    import torch

    import bcos_zoo

    model = bcos_zoo.load("bcos_resnet20.cifar10").model
    x = torch.rand(2, 3, 32, 32)
    e = bcos_zoo.explain(model, x, targets=[3, 5])  # two classes of both images
    assert e.contributions.shape == (2, 2, 32, 32)
    assert e.completeness().abs().max() < 1e-3
    ```
    """
    known = names_of(model) if class_names is None else class_names
    if known is not None and not isinstance(known, Outputs):
        check_names(known)
    outputs = known if isinstance(known, Outputs) else None

    def forward(network: nn.Module, images: Tensor) -> Tensor:
        logits = class_logits(network, images)
        return logits if outputs is None else outputs.class_logits(logits)

    form, images = linear_form(output, outputs), checked_images(x)
    names: Sequence[str] | None = known.class_names if isinstance(known, Outputs) else known
    explanation = explain_output(
        forward, model, images, targets, form=form, names=names, dtype=dtype, max_batch=max_batch,
        create_graph=create_graph,
    )  # fmt: skip
    return replace(explanation, output=output, **settings_of(model))


def explain_output(
    forward: Forward,
    model: nn.Module,
    x: Tensor,
    targets: Targets,
    *,
    form: Form | None = None,
    names: Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    max_batch: int | None = None,
    create_graph: bool = False,
) -> Explanation:
    """Explain the outputs (N, C) that `forward` makes from a network and images, as `explain` does logits.

    x: (N, K, H, W), not empty; its values are not checked. form: what is explained of these outputs; without
    targets, it is that of the largest output, since a form may round different outputs to the same value.
    names: of the outputs. All other parameters, and the errors, are as in `explain`.
    """
    model = unwrapped(model)
    check_eval(model)
    targets = as_targets(targets)
    if isinstance(targets, Tensor):
        check_shape(targets, len(x))
    if max_batch is not None:
        check_integer("max_batch", max_batch, 1)
    with computing(model, x, dtype, create_graph=create_graph) as (model, move):
        parts = []
        for start in range(0, len(x), max_batch or len(x)):
            some = slice(start, start + (max_batch or len(x)))
            kept = create_graph and not x.is_inference()  # which has no graph, and cannot enter one
            image = x[some] if kept else x[some].detach().clone()
            theirs = targets[some] if isinstance(targets, Tensor) else targets
            asked = forward, form or _as_it_is, theirs, names, create_graph
            parts.append(_explain_batch(model, move(image), *asked))
    explanation = parts[0][0] if len(parts) == 1 else Explanation.cat([part for part, _ in parts])
    _warn_of_the_unexplained(explanation, torch.cat([size for _, size in parts]))
    return explanation


def _as_it_is(output: Tensor) -> Tensor:
    return output


def _explain_batch(
    model: nn.Module,
    image: Tensor,
    forward: Forward,
    form: Form,
    targets: Targets,
    names: Sequence[str] | None,
    create_graph: bool,
) -> tuple[Explanation, Tensor]:
    """The explanation, and (N, T): the sum of the absolute values of the constants' shares in the logits."""
    base = image if image.requires_grad else image.detach().requires_grad_()
    factors = None
    if create_graph:
        with recording() as factors:
            recorded = form(forward(model, base.clone()))
    with linear_mode(freeze_parameters=not create_graph, factors=factors) as tape:
        given = base.clone()  # the network may write to it
        tape.given = given, version(given)
        outputs = forward(model, given)
        logits = form(outputs)
    if factors is not None:
        _check_same(recorded, logits, len(factors))
    if not tape.encodings:
        raise InputError(f"{type(model).__name__} has no B-cos encoding layer, so no linear map to explain")
    if not logits.requires_grad:
        raise InputError(
            f"what {type(model).__name__} gives has no graph back to the image; leave out torch.no_grad(), "
            "detach() and rounding inside it"
        )
    picked = resolve_targets(targets, outputs, names)
    inputs = [encoding.encoded for encoding in tape.encodings] + tape.constants
    if len(image) > 1 and any(len(part) != len(image) for part in inputs):
        # The network rearranges the batch inside, so parts cannot be told apart: explain one image at a time.
        each = [
            _explain_batch(model, image[n : n + 1], forward, form, picked[n : n + 1], names, create_graph)
            for n in range(len(image))
        ]
        return Explanation.cat([one for one, _ in each]), torch.cat([size for _, size in each])
    labels = None if names is None else tuple(tuple(names[i] for i in row) for row in picked.tolist())
    if picked.shape[1] > 1 and _has_compiled_parts(model):  # may free buffers in their first backward pass
        each = [
            _explain_batch(model, image, forward, form, picked[:, t : t + 1], None, create_graph)
            for t in range(picked.shape[1])
        ]
        parts = ("weights", "contributions", "bias")
        joined: dict[str, Any] = {
            name: torch.cat([getattr(one, name) for one, _ in each], 1) for name in parts
        }
        first = each[0][0].logits
        return Explanation(first, picked, labels=labels, **joined), torch.cat([size for _, size in each], 1)
    encodings.check(model, tape, base)
    weights, bias, size = _gradients(logits, picked, tape, base, create_graph)
    own = [encoding.encoded for encoding in tape.encodings if encoding.of_the_image]
    encoded = own[0] if own else encode(base)
    contributions = ((encoded if create_graph else encoded.detach()).unsqueeze(1) * weights).sum(2)
    logits = logits if create_graph else logits.detach()
    return Explanation(logits, picked, weights, contributions, bias, labels), size


def _check_same(recorded: Tensor, logits: Tensor, left: int) -> None:
    """Raise InputError unless both passes of create_graph gave the same and used all factors."""
    if left or recorded.shape != logits.shape:
        raise InputError(DIFFERENT_PASSES)
    with torch.no_grad():
        gap, most = (recorded - logits).abs().max(), recorded.abs().max()
        if gap > ROUNDING * torch.finfo(logits.dtype).eps * most:
            raise InputError(DIFFERENT_PASSES)


def _has_compiled_parts(model: nn.Module) -> bool:
    return any(is_compiled(module) for module in model.modules())


def _gradients(
    logits: Tensor, targets: Tensor, tape: Tape, image: Tensor, create_graph: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """W(x) (N, T, 2K, H, W), the constants' share (N, T), and the sum of its parts' absolute values (N, T).

    Runs one backward pass for each of the T targets. Images do not mix in eval mode, so the gradient of the
    sum of one logit per image holds each image's own gradient.
    """
    weights, bias, sizes = [], [], []
    encoded = [encoding.encoded for encoding in tape.encodings]
    n, (channels, height, width) = len(image), image.shape[1:]
    for t in range(targets.shape[1]):
        found = torch.autograd.grad(
            logits.gather(1, targets[:, t : t + 1]).sum(),
            [*encoded, *tape.constants],
            retain_graph=create_graph or t + 1 < targets.shape[1],
            create_graph=create_graph,
            allow_unused=True,
        )
        led = [
            encodings.lead_back(encoding, over, image, create_graph)
            for encoding, over in zip(tape.encodings, found, strict=False)
            if over is not None
        ]
        shares = [g * c for g, c in zip(found[len(encoded) :], tape.constants, strict=True) if g is not None]
        sums = [per_image(share, n) for share in shares] + [left for _, left in led if left is not None]
        absolute = [per_image(share.detach().abs(), n) for share in shares]
        absolute += [left.detach().abs() for _, left in led if left is not None]
        none = logits.new_zeros(n)
        weights.append(
            sum((over for over, _ in led[1:]), start=led[0][0])
            if led
            else image.new_zeros(n, 2 * channels, height, width)
        )
        bias.append(torch.stack(sums).sum(0) if sums else none)
        sizes.append(torch.stack(absolute).sum(0) if absolute else none)
    shared = torch.stack(bias, 1)
    return (
        torch.stack(weights, 1),
        shared if create_graph else shared.detach(),
        torch.stack(sizes, 1),
    )


def _warn_of_the_unexplained(explanation: Explanation, constants: Tensor) -> None:
    """Warn if more than rounding remains unexplained.

    constants: (N, T), the sum of the absolute values of the constants' shares.
    """
    with torch.no_grad():
        info = torch.finfo(explanation.contributions.dtype)
        explained = at_least_float32(explanation.contributions).sum((-1, -2))
        chosen = explanation.logits.gather(1, explanation.targets).to(explained)
        gap = (chosen - explained - explanation.bias.to(explained)).abs()
        constant = constants.to(explained) + chosen.abs()
        absolute = at_least_float32(explanation.contributions).abs().sum((-1, -2))
        wide = info.bits >= 32
        limit = (ROUNDING if wide else ROUNDING_HALF) * (info.eps * absolute + info.tiny)
        limit += (ROUNDING_CONSTANT if wide else ROUNDING_HALF) * info.eps * constant
        share = torch.where(gap > limit, gap / (gap + explained.abs()), 0)
        most = float(torch.where(gap.isfinite(), share, torch.nan).max())
    if not math.isfinite(most):
        warnings.warn(
            "the explanation holds NaN or infinity, which explains nothing: the model has weights that are "
            "not finite, or its values leave the range of the dtype; take float32",
            stacklevel=4,
        )
    elif most > 0:
        warnings.warn(
            f"up to {most:.1%} of an output is not explained: the model has parts that are not linear in "
            "linear mode (what constants add is left aside); completeness() gives the gap of each target. "
            "Use the layers of bcos_zoo.layers",
            stacklevel=4,
        )


class ExplanationHead(nn.Module):
    """`explain` as a module that holds a model and its settings. (N, K, H, W) in [0, 1] -> Explanation.

    class_names: as in `explain`. smooth, percentile: those of the explanations, as in `Explanation.rgba`. If
    the model is a Classifier or a head, they are its own unless given.
    """

    is_explanation_head = True  # `unwrapped` recognises it by this

    def __init__(
        self,
        model: nn.Module,
        *,
        class_names: Sequence[str] | Outputs | None = None,
        smooth: int | None = None,
        percentile: float | None = None,
    ) -> None:
        super().__init__()
        self.model = unwrapped(model)
        if class_names is None and holder_of(model) is not None:
            class_names = names_of(model)
        if class_names is not None and not isinstance(class_names, Outputs):
            check_names(class_names)
        self.class_names = class_names
        own = dict[str, Any](smooth=DEFAULT_SMOOTH, percentile=DEFAULT_PERCENTILE) | settings_of(model)
        self.smooth: int = own["smooth"] if smooth is None else smooth
        self.percentile: float = own["percentile"] if percentile is None else percentile
        check_colours(self.smooth, self.percentile)

    def forward(self, x: Images, targets: Targets = None, *, output: str = "logit") -> Explanation:
        explanation = explain(self.model, x, targets, output=output, class_names=self.class_names)
        return replace(explanation, smooth=self.smooth, percentile=self.percentile)

    def __repr__(self) -> str:
        return f"ExplanationHead({described(self.model)}, smooth={self.smooth}, percentile={self.percentile})"
