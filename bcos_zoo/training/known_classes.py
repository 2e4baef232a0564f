"""Which of a task's classes a network knows, by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..explanations.inputs import card_names
from ..models.interface import Network
from ..weights import class_lists

IMAGENET = 1000  # classes


def names_of(model: Network) -> Sequence[str] | None:
    """The classes of a network: those of its card, or ImageNet's for a thousand outputs; None if unknown."""
    named = card_names(model)
    if named is None and model.num_classes == IMAGENET:
        return class_lists.class_list("imagenet-1k")
    return named


def places(wanted: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """The index in `known` of each wanted name, without case and separators; None for one that is not there.

    A wanted name may be that of a folder of ImageNet's, such as n01440764.
    """
    found = {_comparable(name): place for place, name in reversed(list(enumerate(known)))}
    return [found.get(_comparable(name)) for name in wanted]


def _comparable(name: str) -> str:
    if re.fullmatch(r"n\d{8}", name):
        known = zip(class_lists.wordnet_numbers(), class_lists.class_list("imagenet-1k"), strict=True)
        name = dict(known).get(name, name)
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
