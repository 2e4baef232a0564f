"""The states from which a run can be resumed: `RUN/state/step-00001234.pt`, the newest few of them."""

from __future__ import annotations

import os
import pickle
import re
import time
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, WeightsError, reason
from ..files import replacing
from .runs import STATES, writing


def save(run: str | os.PathLike[str], state: dict[str, Any], step: int, *, keep: int) -> Path:
    """Write a state, whole or not at all, then delete all but the newest `keep`; returns its path.

    state: tensors, numbers, texts, None, and lists, tuples and dicts of these: what can be read without
    running code. step: optimiser steps done.
    Raises InputError if it cannot be written, such as on a full disk, and then keeps the older states; for
    keep < 1; and if there is a later state, which must be another run's.
    """
    if keep < 1:
        raise InputError(f"keep={keep}: allowed are 1 and more")
    folder = Path(run) / STATES
    path = folder / f"step-{step:08d}.pt"
    older = [one for one in list_(run) if one != path]
    if older and (latest := step_of(older[-1])) > step:
        raise InputError(
            f"{folder} holds step {latest} already, after step {step} of this run; give another folder"
        )
    with writing(path):
        with replacing(path) as temporary, temporary.open("wb") as file:
            _write(state, file)
        _flush(folder)  # the new name must be on the disk before an old state is deleted
        for one in older[: -(keep - 1) or None]:
            one.unlink()
    return path


class Clock:
    """When the next state is due. minutes, steps: between two states, 0 for no limit. done: steps so far."""

    def __init__(self, minutes: float, steps: int, done: int) -> None:
        self.minutes, self.steps = minutes, steps
        self.saved(done)

    def saved(self, done: int) -> None:
        self.when, self.done = time.monotonic(), done

    def due(self, done: int) -> bool:
        late = self.minutes > 0 and time.monotonic() - self.when > 60 * self.minutes
        return late or (self.steps > 0 and done - self.done >= self.steps)


def newest(run: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]] | None:
    """The newest state and its path; its tensors are on the CPU. None if there is none.

    Raises WeightsError if it is damaged: the message names the newest undamaged one.
    """
    paths = list_(run)
    if not paths:
        return None
    path = paths[-1]
    try:
        return path, read(path)
    except WeightsError as error:
        intact = next((one for one in reversed(paths[:-1]) if _intact(one)), None)
        if intact is None:
            advice = "no older one is intact; start the run anew in another folder"
        else:
            advice = f"{intact.name} is intact: delete {path.name}, and --resume goes on from there"
        raise WeightsError(f"{error}; {advice}") from error


def to_go_on(run: str | os.PathLike[str], resume: bool) -> tuple[Path, dict[str, Any]] | None:
    """`newest`, where that is what was asked for.

    Raises InputError if there is a state without `resume`, or none with it; WeightsError as `newest`.
    """
    if list_(run) and not resume:
        raise InputError(f"{run} holds a run already; continue it with --resume or give another folder")
    if resume:
        require(run)
    return newest(run)


def require(run: str | os.PathLike[str]) -> None:
    """Raise InputError unless a folder holds a state, from which a run can go on."""
    if not list_(run):
        raise InputError(
            f"{run} holds no run that could go on; leave out --resume, or name the run's folder with -o"
        )


def read(path: Path) -> dict[str, Any]:
    """A state as `save` wrote it. Raises WeightsError if its content has changed since, even by one bit."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not check the checksums that it wrote
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message is a page that advises trusting the file
        raise WeightsError(f"{path} is damaged, or holds objects that could run code") from error
    except Exception as error:  # depending on the damage, anything from EOFError to KeyError
        raise WeightsError(f"{path} is damaged ({reason(error)})") from error
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds a {type(state).__name__}, no state of a run")
    return state


def list_(run: str | os.PathLike[str]) -> list[Path]:
    """The states that exist, in the order of their steps."""
    found = (Path(run) / STATES).glob("step-*.pt")
    return sorted((path for path in found if re.fullmatch(r"step-\d+", path.stem)), key=step_of)


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _intact(path: Path) -> bool:
    try:
        read(path)
    except WeightsError:
        return False
    return True


def _write(state: dict[str, Any], file: Any) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # torch's writer, when closed, tries to write more and fails
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _flush(folder: Path) -> None:
    if os.name != "posix":  # on other systems a folder cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
