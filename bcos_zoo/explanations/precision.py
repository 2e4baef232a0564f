"""Multiplication in full float32, whatever the process has allowed in its place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

_lock = threading.Lock()
_inside = 0
_undo: list[Callable[[], None]] = []


@contextmanager
def full_float32() -> Iterator[None]:
    """TF32 and bfloat16 in the place of float32 off inside the block, on CUDA, cuDNN and oneDNN.

    torch allows TF32 in convolutions by default, and more after `set_float32_matmul_precision`. These
    settings are of the process, so they hold for its other threads too while any thread is in the block,
    which makes those slower, not wrong. They come back when the last thread leaves it, whatever happens;
    what one thread sets while another is in the block is lost.
    """
    global _inside
    with _lock:
        if not _inside:
            _undo.extend(_switch_off())
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for undo in _undo:
                    undo()
                _undo.clear()


def _switch_off() -> list[Callable[[], None]]:
    """Set everything to plain float32; returns what puts it back, in this order."""
    undo: list[Callable[[], None]] = []
    backends: Any = torch.backends
    leaves = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    leaves += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    before = [leaf.fp32_precision for leaf in leaves]
    # torch has an older and a newer way to say it, and reading the older raises if they disagree. So the
    # older is kept in step, but only where it is readable: elsewhere the process uses the newer one alone.
    matmul, conv = _readable(torch.get_float32_matmul_precision), _readable(lambda: backends.cudnn.allow_tf32)
    if matmul is not None:
        torch.set_float32_matmul_precision("highest")
        undo.append(lambda: torch.set_float32_matmul_precision(matmul))
    if conv is not None:
        backends.cudnn.allow_tf32 = False
        undo.append(lambda: setattr(backends.cudnn, "allow_tf32", conv))
    for leaf in leaves:
        leaf.fp32_precision = "ieee"
    undo += [partial(_restore, leaf, was) for leaf, was in zip(leaves, before, strict=True)]
    return undo


def _readable(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RuntimeError:  # both ways were used and disagree
        return None


def _restore(leaf: Any, was: str) -> None:
    leaf.fp32_precision = "none"  # which follows the setting above it
    if leaf.fp32_precision != was:
        leaf.fp32_precision = was
