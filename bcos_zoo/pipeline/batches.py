"""Some at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from ..errors import InputError

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last of what is left. Raises InputError for a size below 1."""
    if size < 1:
        raise InputError(f"batch_size={size}: allowed are 1 and more")
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
