"""How much of a converted network's answers comes from no pixel."""

from __future__ import annotations

import time

import torch

from ..conversion import Converted
from ..data import Samples, val_loader
from ..explanations.engine import explain
from ..metrics import constant_share
from ..models.interface import Network
from . import networks

IMAGES, BATCH = 64, 8


def counted(network: Network, samples: Samples) -> int:
    """On how many images `median_share` measures a network."""
    return min(len(samples), IMAGES) if isinstance(network, Converted) else 0


def median_share(network: Network, samples: Samples, workers: int = 0) -> float | None:
    """The median share of the constants in the logit of the answer, on up to 64 images, spread over the set.

    None for a network that was not converted, and if no image can be read.
    """
    if not isinstance(network, Converted):
        return None
    some = samples.select(torch.linspace(0, len(samples) - 1, counted(network, samples)).round().long())
    device = next(network.parameters()).device
    shares = []
    for batch in val_loader(some, networks.val_transform(network), BATCH, workers=workers):
        if len(batch.images):
            e = explain(network, batch.images.to(device))
            shares.append(constant_share(e.contributions, e.bias).flatten().cpu())
    return float(torch.cat(shares).nanmedian()) if shares else None


def seconds(network: Network, samples: Samples) -> float:
    """How long `median_share` takes for an image, by a few."""
    few = samples.select(range(min(len(samples), BATCH)))
    began = time.monotonic()
    median_share(network, few)
    return (time.monotonic() - began) / max(len(few), 1)
