"""Groups of images that stay on one side of every split, such as those of a patient, an animal or a video."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import InputError
from .samples import Samples

HELP = r"give a pattern such as 'patient(\d+)', whose parentheses hold what tells groups apart"


def by_pattern(where: object, pattern: str, names: Sequence[str]) -> np.ndarray:
    """(M,) the group of each image: what a pattern matches in its path, relative to the root, written with /.

    The parentheses named `group`, (?P<group>...), count; without them the first ones, and without any the
    whole match. Raises InputError for an invalid pattern, and for a path that it does not match.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"group {pattern!r} is no regular expression ({error}); {HELP}") from error
    which: str | int = "group" if "group" in compiled.groupindex else min(compiled.groups, 1)
    found = [match and match[which] for match in map(compiled.search, names)]
    if without := [name for name, one in zip(names, found, strict=True) if not one]:
        raise InputError(
            f"{where}: group {pattern!r} finds nothing in {len(without)} of {len(names)} paths, such as "
            f"{without[0]}; {HELP}"
        )
    return np.array(found, dtype=object)


def check_apart(where: object, parts: Mapping[str, Samples | None]) -> None:
    """Raise InputError if two parts that a set came with share a group."""
    seen: dict[str, str] = {}
    for part, samples in parts.items():
        if samples is None or samples.groups is None:
            continue
        own = dict.fromkeys(samples.groups.tolist(), part)
        if both := [group for group in own if group in seen]:
            raise InputError(
                f"{where}: {len(both)} groups are in {seen[both[0]]} and in {part}, such as {both[0]!r}; "
                "move each to one side, or make one part of both, and it is split by groups"
            )
        seen |= own
