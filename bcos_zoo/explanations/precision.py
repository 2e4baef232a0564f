"""The precision of explanations: at least float32, and full float32 even where the process allows less."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..devices import place_of
from ..errors import InputError

Move = Callable[[Tensor], Tensor]
_lock = threading.Lock()
_inside = 0
_undo: list[Callable[[], None]] = []


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside the block, no TF32 or bfloat16 replaces float32, on CUDA, cuDNN and oneDNN.

    torch allows TF32 in convolutions by default, and more after `set_float32_matmul_precision`. These
    settings belong to the process: while any thread is in the block, they hold for its other threads too,
    which become slower, not wrong. The former settings return when the last thread leaves, also after an
    error; settings that a thread makes while another is in the block are lost.
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
    # torch has an older and a newer interface for this, and reading the older raises if they disagree. So the
    # older is set too, but only where it can be read: elsewhere the process uses the newer one alone.
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
    except RuntimeError:  # both interfaces were used, and disagree
        return None


def _restore(leaf: Any, was: str) -> None:
    leaf.fp32_precision = "none"  # which inherits the setting above it
    if leaf.fp32_precision != was:
        leaf.fp32_precision = was


@contextmanager
def computing(
    model: nn.Module, x: Tensor, dtype: torch.dtype | None = None, *, create_graph: bool = False
) -> Iterator[tuple[nn.Module, Move]]:
    """Compute as `explain` does: gives the model in that precision, and what moves images to it.

    x: the images, for their device if the model has none. Other parameters and errors are as in `explain`.
    Inside the block, gradients are on, whatever surrounds it, and autocast and TF32 are off.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InputError(f"dtype={dtype!r}: allowed are floating-point types, such as torch.float64")
    own = place_of(model)
    model_dtype, device = (torch.float32, x.device) if own is None else (own.dtype, own.device)
    wanted = torch.promote_types(model_dtype, torch.float32) if dtype is None else dtype
    copied = own is not None and (wanted != own.dtype or own.is_inference())
    if create_graph and copied:
        raise InputError(
            f"the model is of {model_dtype} and would be explained in a copy of {wanted}, whose weights have "
            "no graph; with create_graph=True give a model of that dtype that was made outside inference mode"
        )
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        full_float32(),
    ):
        if copied:
            model = copy.deepcopy(model).to(wanted)  # a copy: other threads may be using the caller's
        yield model, lambda images: images.to(device, wanted)
