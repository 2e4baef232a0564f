"""What each kind of source gives before it is checked and split."""

from __future__ import annotations

from dataclasses import dataclass

from .samples import Samples

VAL_NAMES = ("val", "valid", "validation", "test")  # the first that is there


@dataclass(frozen=True)
class Found:
    """A set of images as it was found."""

    train: Samples
    val: Samples | None  # None: it has no split of its own
    class_names: tuple[str, ...]
