"""Which of a task's classes a network knows, by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

from ..errors import InputError
from ..explanations.inputs import card_names
from ..models.interface import Network
from ..weights import class_lists

IMAGENET = 1000  # classes
NUMBER = r"n\d{8}"  # of WordNet: what ImageNet's folders are called


def names_of(model: Network) -> Sequence[str] | None:
    """The classes of a network: those of its card, or ImageNet's for a thousand outputs; None if unknown."""
    named = card_names(model)
    if named is None and model.num_classes == IMAGENET:
        return class_lists.class_list("imagenet-1k")
    return named


def places(wanted: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """The index in `known` of each wanted name, without case and separators.

    A wanted name may be that of a folder of ImageNet's, such as n01440764. None for a name that is not there,
    and for one that several of the known classes have, such as ImageNet's two cranes: only the folder's name
    tells these apart.
    """
    if tuple(wanted) == tuple(known):
        return list(range(len(known)))
    numbers, exact, alike = _numbers(known), _unique(known), _unique(list(map(_comparable, known)))

    def place(name: str) -> int | None:
        said = _said(name)
        steps = (numbers.get(name), exact.get(name), exact.get(said), alike.get(_comparable(said)))
        return next((one for one in steps if one is not None), None)

    return [place(name) for name in wanted]


def found(wanted: Sequence[str], known: Sequence[str], *, who: str, remedy: str) -> list[int]:
    """As `places`, of classes that are all known, each as one of its own.

    who: what knows them. remedy: what else to do. Raises InputError for names that are unknown, or that
    several known classes have, and for two that mean the same class.
    """
    index = places(wanted, known)
    twice = {name for name, count in Counter(map(_comparable, known)).items() if count > 1}
    missing = [name for name, place in zip(wanted, index, strict=True) if place is None]
    ambiguous = [name for name in missing if _comparable(name) in twice]
    if unknown := [name for name in missing if name not in ambiguous]:
        raise InputError(f"{who} knows {len(known)} classes, but not {_few(unknown)}; {remedy}")
    if ambiguous:
        raise InputError(
            f"{who} knows several classes called {_few(ambiguous)}: call the folder as ImageNet's is, n and "
            f"eight digits, which tells them apart, or {remedy}"
        )
    first: dict[int, str] = {}
    for name, place in zip(wanted, index, strict=True):
        assert place is not None
        if place in first:
            raise InputError(
                f"{first[place]} and {name} are one class, {known[place]}, for {who}: put them together, or "
                f"{remedy}"
            )
        first[place] = name
    return list(first)


def all_known(wanted: Sequence[str], known: Sequence[str]) -> bool:
    """Whether each wanted name is that of a known class of its own."""
    index = places(wanted, known)
    return None not in index and len(set(index)) == len(index)


def _few(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"


def _numbers(known: Sequence[str]) -> Mapping[str, int]:
    """Where the WordNet numbers are that a list has, or, for ImageNet's own list, stands for."""
    if tuple(known) == class_lists.class_list("imagenet-1k"):
        return _of_imagenet()
    return {name: place for place, name in enumerate(known) if re.fullmatch(NUMBER, name)}


def _unique(names: Sequence[str]) -> dict[str, int | None]:
    """Where each name is; None for one that is there twice."""
    found: dict[str, int | None] = {}
    for place, name in enumerate(names):
        found[name] = None if name in found else place
    return found


@cache
def _of_imagenet() -> Mapping[str, int]:
    """The place of each WordNet number in ImageNet's list."""
    return {number: place for place, number in enumerate(class_lists.wordnet_numbers())}


def _said(name: str) -> str:
    """What a name means that is a number of WordNet's, for classes of ImageNet; else the name."""
    place = _of_imagenet().get(name)
    return name if place is None else class_lists.class_list("imagenet-1k")[place]


def _comparable(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", _said(name)).strip().casefold()
