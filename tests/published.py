"""The names that the published files give to the tensors of a network."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

PREFIX = {"flat": "", "sequential": "0.", "lightning": "model.model."}


def published_names(names: Iterable[str], layout: str) -> list[str]:
    """The names of a network as a file of that layout of the manifest has them, in the same order."""
    names = list(names)
    if layout == "lightning" and any(name.startswith("features.denseblock") for name in names):
        names = [_numbered(name) for name in names]
    return [PREFIX[layout] + name for name in names]


def _numbered(name: str) -> str:
    """As in the B-cosified DenseNet-121, whose outer layers, and those of its transitions, are numbered."""
    blocks = [f"{kind}{i}" for i, kind in itertools.product((1, 2, 3), ("denseblock", "transition"))]
    outer = ["conv0", "norm0", "relu0", "pool0", *blocks, "denseblock4", "norm5"]
    parts = name.split(".")
    if parts[0] == "features":
        if parts[1].startswith("transition"):
            parts[2] = str(["norm", "relu", "conv", "pool"].index(parts[2]))
        parts[1] = str(outer.index(parts[1]))
    return ".".join(parts)
