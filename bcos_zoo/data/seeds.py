"""Randomness as a function: a draw depends only on the numbers that say what it is for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_WORD = 2**64 - 1


def mix(*numbers: int) -> int:
    """63 bits that depend on each of the numbers and on their order (splitmix64).

    Not numpy's SeedSequence, which would do as well: the split and the order of every run, and so the scores
    in README and the runs that may be resumed, follow from these bits.
    """
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
        state ^= state >> 31
    return state >> 1


def generator(*numbers: int) -> torch.Generator:
    """A torch generator on the CPU, seeded by the numbers."""
    return torch.Generator().manual_seed(mix(*numbers))


def seed_all(*numbers: int) -> None:
    """Seed the global generators that augmentations draw from: random's, numpy's, and torch's on the CPU."""
    seed = mix(*numbers)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


@contextmanager
def kept() -> Iterator[None]:
    """Restore the generators of `seed_all`, after the block, to what they were before it."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """A block whose draws depend on the numbers alone, and leave no trace in the generators."""
    with kept():
        seed_all(*numbers)
        yield
