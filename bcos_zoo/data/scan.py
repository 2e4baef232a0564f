"""Every image is decoded once before a run, so that a broken one is known at the start."""

from __future__ import annotations

from ..errors import InputError
from .samples import Samples, decoded, fault


class UnreadableError(InputError):
    """Too many images that cannot be read; `unreadable` lists them all."""

    def __init__(self, message: str, unreadable: tuple[str, ...]) -> None:
        super().__init__(message)
        self.unreadable = unreadable


def scan(samples: Samples, threads: int | None = None) -> tuple[Samples, tuple[str, ...]]:
    """The samples that can be decoded, and of the others 'name: why'."""
    good, bad = [], []
    for i, image in enumerate(decoded(samples, threads)):
        if isinstance(image, InputError):
            bad.append(fault(samples.name(i), image))
        else:
            good.append(i)
    return (samples.select(good), tuple(bad)) if bad else (samples, ())


def check_share(unreadable: tuple[str, ...], total: int, bad_share: float) -> None:
    """Raise UnreadableError if a larger share than `bad_share` of the images cannot be read."""
    share = len(unreadable) / max(total, 1)
    if share > bad_share:
        raise UnreadableError(
            f"{len(unreadable)} of {total} images ({share:.1%}) cannot be read; at most {bad_share:.1%} "
            f"may be: mend or remove them, or raise bad_share. The first: {' | '.join(unreadable[:5])}",
            unreadable,
        )
