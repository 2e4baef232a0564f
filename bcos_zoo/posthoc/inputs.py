"""The inputs of a post-hoc method, and the checks that all methods share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..devices import place_of
from ..errors import InputError
from ..explanations import encodings
from ..explanations.inputs import class_logits, logits_in
from ..explanations.targets import Targets, resolve_targets
from ..extras import required
from ..layers import Encode, encode
from ..layers.heads import check_channels
from .adapters import detached_copy, from_encoded


@dataclass(frozen=True)
class MethodInputs:
    """The inputs of a method. The tensors and the network are copies, or detached."""

    model: nn.Module  # (N, K, H, W) -> (N, C); the caller's own
    network: nn.Module  # (N, 2K, H, W) -> (N, C), the part after the encoding
    x: Tensor  # (N, K, H, W)
    encoded: Tensor  # (N, 2K, H, W); x itself if the network has no encoding layer
    targets: Tensor  # (N, T)
    batch: int
    seed: int

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of encoded images with one target each: first all targets of the first image, and so on."""
        count = self.targets.shape[1]
        for pairs in torch.split(torch.arange(self.targets.numel(), device=self.x.device), self.batch):
            yield self.encoded[pairs // count].requires_grad_(), self.targets.flatten()[pairs]

    def each(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The same one by one, (1, 2K, H, W) and (1,), each with the same random numbers to come."""
        for x, targets in dataclasses.replace(self, batch=1).batches():
            self.reseed()
            yield x, targets

    def reseed(self) -> None:
        """Seed torch's generators. `attribute` restores them afterwards."""
        torch.default_generator.manual_seed(self.seed)
        if self.x.device.type == "cuda":
            with torch.cuda.device(self.x.device):
                torch.cuda.manual_seed(self.seed)


def prepare(
    model: nn.Module, x: Tensor, targets: Targets, batch: int, seed: int, names: Sequence[str] | None
) -> MethodInputs:
    """Make the inputs. Raises InputError for images, targets and models that do not fit together."""
    network = from_encoded(model)
    # Methods see logits only, whatever else the network gives.
    network.register_forward_hook(
        lambda module, inputs, output: logits_in(output, len(inputs[0]), to="attribute")
    )
    own = place_of(network)
    own = x if own is None else own
    x = x.detach().clone().to(own.device, torch.promote_types(own.dtype, torch.float32))
    stem = next((module for module in model.modules() if isinstance(module, Encode)), None)
    if stem is not None:
        check_channels(x, stem.in_chans, hint="the network adds the inverted colours itself")
        whole = detached_copy(model)
        if not encodings.check_model(whole, x[:1]):
            _check_same(whole, network, x[:1])
    encoded = x if stem is None else encode(x)
    with torch.no_grad():
        chunks = torch.split(encoded if targets is None else encoded[:1], batch)
        logits = torch.cat([network(chunk) for chunk in chunks])
    picked = resolve_targets(targets, logits.expand(len(x), -1), names)
    return MethodInputs(model, network, x, encoded, picked, batch, seed)


def _check_same(whole: nn.Module, network: nn.Module, x: Tensor) -> None:
    """Raise InputError unless `network` gives for the encoded image what `whole` gives for the image.

    It does not if the model changes the image before the encoding in a way that encoded images cannot follow.
    """
    with torch.no_grad():
        expected = class_logits(whole, x.clone())
        try:
            gap = (network(encode(x)) - expected).abs().max()
            same = bool(gap <= torch.finfo(x.dtype).eps ** 0.5 * expected.abs().max())
        except (InputError, RuntimeError):  # for another number of channels
            same = False
    if not same:
        raise InputError(
            "this model changes its image before it encodes it in a way that cannot be followed from the "
            "encoded image on, such as padding: attribute the network inside, or take the method 'inherent'"
        )


def captum() -> Any:
    return required("captum.attr", "captum")


def check_one_of(value: str, allowed: Sequence[str], name: str) -> None:
    if value not in allowed:
        raise InputError(f"{name}={value!r}: allowed are {', '.join(allowed)}")


def check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"{name}={value}: allowed are positive values")
