"""What bcos_zoo raises when the fault is in what it was given.

BcosZooError
├── InputError          an image, a tensor, a target or a setting that cannot be used (also a ValueError)
├── UnknownModelError   no architecture or checkpoint of that name (also a ValueError)
└── WeightsError        a checkpoint that is missing, damaged, or of another network (also a RuntimeError)

Every message is one line: what came, what is allowed, what to do.
"""

from __future__ import annotations


class BcosZooError(Exception):
    """Base of all errors that name a fault in the input; the command line turns them into exit code 2."""


class InputError(BcosZooError, ValueError):
    """An image, a tensor, a target or a setting that cannot be used."""


class UnknownModelError(BcosZooError, ValueError):
    """No architecture or checkpoint of that name."""


class WeightsError(BcosZooError, RuntimeError):
    """A checkpoint that is missing, damaged, or of another network."""
