"""Every image is decoded and hashed once before a run, so that broken ones are known from the start."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..errors import InputError
from .samples import Samples, fault

T = TypeVar("T")
AHEAD = 64  # images per thread that are asked for at once


class UnreadableError(InputError):
    """Too many images that cannot be read; `unreadable` lists them all."""

    def __init__(self, message: str, unreadable: tuple[str, ...]) -> None:
        super().__init__(message)
        self.unreadable = unreadable


class Scan(NamedTuple):
    """The outcome of reading every image."""

    unreadable: tuple[str, ...]  # 'name: why'
    left_out: Tensor  # (K,) int64, the indices of these
    contents: Tensor  # (M,) int64, a hash of the bytes of each image; 0 for unreadable ones


def scan(samples: Samples, threads: int | None = None) -> Scan:
    """Read every image, in threads (one per core unless given)."""

    def look(i: int) -> int | InputError:
        try:
            samples.load(i)
            return hashed(samples.source.content(int(samples.indices[i])))
        except InputError as error:
            return error

    seen = list(_by_threads(look, len(samples), threads))
    bad = [i for i, one in enumerate(seen) if isinstance(one, InputError)]
    said = tuple(fault(samples.name(i), one) for i, one in enumerate(seen) if isinstance(one, InputError))
    contents = torch.tensor([0 if isinstance(one, InputError) else one for one in seen], dtype=torch.int64)
    return Scan(said, torch.tensor(bad, dtype=torch.int64), contents)


def hashed(content: bytes) -> int:
    """A 63-bit hash, never 0: among a million images two agree by chance in one set out of ten million."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1 or 1


def _by_threads(call: Callable[[int], T], count: int, threads: int | None) -> Iterator[T]:
    """call(i) for each i below `count`, in order."""
    threads = threads or os.cpu_count() or 1
    numbers = iter(range(count))
    with ThreadPoolExecutor(threads) as pool:
        while some := list(islice(numbers, AHEAD * threads)):
            yield from pool.map(call, some)


def check_share(unreadable: tuple[str, ...], total: int, bad_share: float) -> None:
    """Raise UnreadableError if a larger share than `bad_share` of the images cannot be read."""
    share = len(unreadable) / max(total, 1)
    if share > bad_share:
        raise UnreadableError(
            f"{len(unreadable)} of {total} images ({share:.1%}) cannot be read; at most {bad_share:.1%} "
            f"may be: mend or remove them, or raise bad_share. The first: {' | '.join(unreadable[:5])}",
            unreadable,
        )
