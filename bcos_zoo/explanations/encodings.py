"""From the images that a network encodes back to the image it was given.

A network may encode its image more than once (an ensemble), and may first flip, crop, shift or resize it.
What it encodes is then `u = M x`. Its map over [u, 1-u] becomes one over [x, 1-x] by applying the transpose
of M to each half. Where M does not map ones to ones (zero padding), `1 - u = M (1-x) + (1 - M 1)`, and the
last term is a constant.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._compat import version
from ..errors import InputError
from ..layers import linear_mode
from ..layers.linear_mode import Encoding, Tape

OVERSHOOT = 0.5  # how far bicubic interpolation may overshoot the range of its input
ROUNDING = 100  # in units of the dtype's precision
ALLOWED = "flips, crops, shifts, zero padding and interpolation are; explain the network inside instead"


def check(model: nn.Module, tape: Tape, image: Tensor) -> None:
    """Raise InputError unless everything encoded is a linear map of the image, and in the range of colours.

    image: (N, K, H, W), of which the encodings are functions.
    """
    elsewhere = [encoding for encoding in tape.encodings if not encoding.of_the_image]
    if not elsewhere:
        return
    low, high = (float(value) for value in torch.aminmax(image.detach()))
    for encoding in elsewhere:
        which = _name(model, encoding)
        values = encoding.image.detach()
        least, most = (float(value) for value in torch.aminmax(values))
        if not (least >= min(low, 0) - OVERSHOOT and most <= max(high, 1) + OVERSHOOT):
            raise InputError(
                f"{which} encodes values from {least:.3g} to {most:.3g}; allowed is [0, 1]: "
                "leave out mean/std normalisation, and any other scaling, before the network"
            )
        rest = [other.encoded for other in tape.encodings if other is not encoding]
        if any(part is not None for part in _gradients(encoding.encoded, rest)):
            raise InputError(
                f"{which} encodes what another part of the network gave, shape {tuple(values.shape)}; "
                "the image itself must be encoded: explain the parts by themselves"
            )
    other, encoded = _elsewhere(model, image)
    same_way = len(encoded) == len(tape.encodings)
    for place, encoding in enumerate(tape.encodings):
        if encoding.of_the_image:
            continue
        if not (same_way and _is_linear(encoding, image, other, encoded[place])):
            values = encoding.image
            raise InputError(
                f"{_name(model, encoding)} encodes values of shape {tuple(values.shape)} that are no linear "
                f"map of the given image {tuple(image.shape)}: leave out mean/std normalisation, colour "
                f"jitter and the like; {ALLOWED}"
            )


def check_model(model: nn.Module, image: Tensor) -> bool:
    """Raise InputError as `check`; returns whether the network encodes the image itself and nothing else."""
    base = image.detach().requires_grad_()
    with linear_mode(freeze_parameters=True) as tape:
        given = base.clone()  # as in `explain`: the network may write to it
        tape.given = given, version(given)
        model(given)
    check(model, tape, base)
    return all(encoding.of_the_image for encoding in tape.encodings)


def _name(model: nn.Module, encoding: Encoding) -> str:
    names = [name for name, module in model.named_modules() if module is encoding.by]
    return names[0] if names and names[0] else type(encoding.by).__name__


def _gradients(of: Tensor, inputs: list[Tensor]) -> tuple[Tensor | None, ...]:
    if not inputs or of.grad_fn is None:
        return ()
    return torch.autograd.grad(of, inputs, torch.ones_like(of), retain_graph=True, allow_unused=True)


def _elsewhere(model: nn.Module, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Other images (N, K, H, W), and what the network encodes of them.

    At the given images alone, any map of degree one looks linear, such as a maximum or `sqrt(x * x.mean())`.
    """
    generator = torch.Generator().manual_seed(1)
    other = torch.rand(image.shape, generator=generator).to(image)
    with torch.no_grad(), linear_mode(freeze_parameters=True) as tape:
        model(other.clone())  # the network may write to it
    return other, [encoding.image.detach() for encoding in tape.encodings]


def _is_linear(encoding: Encoding, image: Tensor, other: Tensor, encoded: Tensor) -> bool:
    """Whether u = M x, where M is the Jacobian of u, judged by two random projections, at two points.

    other: (N, K, H, W), the second point. encoded: what the network encodes of it in the place of u.
    """
    u = encoding.image.detach()
    if encoded.shape != u.shape:
        return False
    generator = torch.Generator().manual_seed(0)
    for signed in (False, True):
        probe = torch.rand(u.shape, generator=generator).to(u) + 0.5
        if signed:
            probe = probe * (torch.rand(u.shape, generator=generator).to(u) - 0.5).sign()
        back = _transposed(encoding, probe, image, create_graph=False, plain=True)
        if back is None:
            return False
        n = len(image)
        for values, pixels in ((u, image.detach()), (encoded, other)):
            ours, theirs = probe * values, back * pixels
            gap = (per_image(ours, n) - per_image(theirs, n)).abs()
            size = per_image(ours.abs(), n) + per_image(theirs.abs(), n)
            if (gap > ROUNDING * torch.finfo(u.dtype).eps * size).any():
                return False
    return True


def per_image(values: Tensor, n: int) -> Tensor:
    """(N,): sums over all axes but the batch; over everything for a single image, however it is laid out."""
    return values.sum().reshape(1) if n == 1 else values.flatten(1).sum(1)


def _transposed(
    encoding: Encoding, cotangent: Tensor, image: Tensor, create_graph: bool, plain: bool
) -> Tensor | None:
    """The transpose of M applied to weights over u (`plain`) or over 1-u; None if u has no graph."""
    encoded = encoding.encoded
    if encoded.grad_fn is None:
        return None
    nothing = torch.zeros_like(cotangent)
    both = torch.cat([cotangent, nothing] if plain else [nothing, -cotangent], 1)
    (back,) = torch.autograd.grad(
        encoded, image, both, retain_graph=True, create_graph=create_graph, allow_unused=True
    )
    return back


def lead_back(
    encoding: Encoding, weights: Tensor, image: Tensor, create_graph: bool
) -> tuple[Tensor, Tensor | None]:
    """Turn weights over an encoding into weights over [x, 1-x] of the image, and a constant share, (N,).

    weights: (N', 2K', H', W') -> (N, 2K, H, W).
    """
    if encoding.of_the_image:
        return weights, None
    over_u, over_inverse = weights.chunk(2, 1)
    plain = _transposed(encoding, over_u, image, create_graph, plain=True)
    inverse = _transposed(encoding, over_inverse, image, create_graph, plain=False)
    assert plain is not None and inverse is not None  # `check` refuses such encodings
    n = len(image)
    return torch.cat([plain, inverse], 1), per_image(over_inverse, n) - per_image(inverse, n)
