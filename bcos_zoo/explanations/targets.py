"""What is to be explained: class indices, from any of the forms in which targets are given."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, closest

Target = int | str
Targets = Target | Sequence[Target] | Tensor | NDArray[Any] | None


def as_targets(given: Targets) -> Target | Sequence[Target] | Tensor | None:
    """The same targets, with class indices in an array as a tensor. Raises InputError for other arrays."""
    if not isinstance(given, np.ndarray):
        return given
    if given.dtype.kind not in "iu":
        raise InputError(
            f"targets are an array of {given.dtype}; allowed are class indices, as integers: "
            "targets.tolist() makes a list of labels"
        )
    return torch.from_numpy(given.astype(np.int64))


def resolve_targets(targets: Targets, logits: Tensor, class_names: Sequence[str] | None) -> Tensor:
    """(N, T) long class indices, from any form that `explain` takes. Raises InputError for any other form."""
    n, c = logits.shape
    if class_names is not None and len(class_names) != c:
        raise InputError(f"{len(class_names)} class names for {c} classes; give one for each")
    targets = as_targets(targets)
    if targets is None:
        return logits.argmax(1, keepdim=True)
    if isinstance(targets, Tensor):
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            raise InputError(
                f"targets are a tensor of {targets.dtype}; allowed are class indices, as integers"
            )
        check_shape(targets, n)
        own = targets.detach().clone()  # inference tensors cannot enter a graph
        picked = own.to(logits.device, torch.long).reshape(n, -1)
    else:
        wanted = targets if isinstance(targets, Sequence) and not isinstance(targets, str) else [targets]
        if not wanted:
            raise InputError(
                "targets are an empty list; give at least one class, or None for the predicted one"
            )
        indices = [_index(target, class_names) for target in wanted]
        if wrong := [index for index in indices if not 0 <= index < c]:
            raise _no_class(wrong[0], c)
        picked = torch.tensor(indices, device=logits.device).expand(n, -1)
    if (outside := (picked < 0) | (picked >= c)).any():
        raise _no_class(int(picked[outside][0]), c)
    return picked


def _no_class(index: int, c: int) -> InputError:
    return InputError(f"target {index} is no class of this model; allowed are 0 to {c - 1}")


def check_shape(targets: Tensor, n: int) -> None:
    """Raise InputError unless a tensor has the shape of targets for n images: (N,) or (N, T)."""
    if targets.shape[:1] != (n,) or targets.ndim > 2 or targets.numel() == 0:
        raise InputError(
            f"targets have shape {tuple(targets.shape)}; for {n} images allowed are ({n},) and ({n}, T)"
        )


def _index(target: Target, class_names: Sequence[str] | None) -> int:
    if isinstance(target, str):
        if class_names is None:
            raise InputError(
                f"target {target!r} is a label, but this model has no class names; give the class index"
            )
        indices = labelled(target, class_names)
        if not indices:
            raise InputError(f"no class named {target!r}; {_known(target, class_names)}")
        if len(indices) > 1:
            raise InputError(f"{target!r} is the name of the classes {indices}; give the index of one")
        return indices[0]
    if isinstance(target, bool) or not isinstance(target, Integral):
        raise InputError(
            f"target {target!r} is a {type(target).__name__}; allowed are class indices and labels, "
            "a list of them, or a tensor or array of indices"
        )
    return int(target)


def labelled(label: str, names: Sequence[str]) -> list[int]:
    """The positions of a label in `names`: exact matches or, failing that, matches in any letter case."""
    exact = [index for index, name in enumerate(names) if name == label]
    return exact or [index for index, name in enumerate(names) if name.casefold() == label.casefold()]


def _known(label: str, names: Sequence[str]) -> str:
    if (near := closest(label, dict.fromkeys(names))) != "none":
        return f"did you mean {near}?"
    if len(names) <= 20:
        return f"this model knows {', '.join(names)}"
    return f"this model knows {len(names)} classes, such as {', '.join(names[:3])}; nothing is close to it"
