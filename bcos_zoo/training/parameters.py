"""Which weights learn, and how fast. Works on any network of timm's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from timm.utils import adaptive_clip_grad
from torch import nn

from ..data import bounds
from ..errors import InputError
from ..layers import BcosConv2d, BcosLinear

FULL, HEAD, FROM = "full", "head", "from:"
LEAST = 0.01  # what begins at zero, such as a bias, would never move
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def freeze(model: nn.Module, train: str) -> None:
    """Turn off gradients of what is not to learn; `set_training` then keeps its batch statistics fixed, too.

    train: "full", nothing changes; "head", only the classifier learns (a linear probe); or "from:LAYER", that
    layer and all layers after it learn.

    Raises InputError for another text, an unknown layer, and a network without a classifier.
    """
    if train == FULL:
        return
    if train == HEAD:
        learning = {id(p) for p in _head(model)}
        if not learning:
            raise InputError(
                "model.train='head': the network has no classifier; give it classes (num_classes)"
            )
    elif train.startswith(FROM):
        learning = {id(p) for p in _from(model, train.removeprefix(FROM))}
    else:
        raise InputError(f"model.train={train!r}: allowed are {FULL!r}, {HEAD!r} and '{FROM}LAYER'")
    for p in model.parameters():
        if id(p) not in learning:
            p.requires_grad_(False)


@torch.no_grad()
def to_unit_rows(model: nn.Module) -> None:
    """Scale each row of B-cos weights that learn to unit norm, where the layer normalises its rows itself.

    The network computes the same, up to rounding. But a step of the optimiser turns a long row less than a
    short one, and training makes rows long: weights from a finished run would hardly move at usual rates.
    """
    for module in model.modules():
        if isinstance(module, (BcosConv2d, BcosLinear)) and module.normalize and _learns(module):
            weight = module.linear.weight
            lengths = weight.flatten(1).norm(dim=1).clamp_min(torch.finfo(weight.dtype).tiny)
            weight.div_(lengths.view(-1, *[1] * (weight.ndim - 1)))


def _learns(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def set_training(model: nn.Module) -> None:
    """Like `model.train()`, but every module that has weights and learns none of them stays in eval mode.

    So do the modules inside it: frozen layers neither track statistics nor apply dropout.
    """
    model.train()
    for module in model.modules():
        weights = list(module.parameters())
        if weights and not any(p.requires_grad for p in weights):
            module.eval()


def groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    layer_decay: float | None,
    head_lr: float | None,
    relative: bool = False,
    sizes: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Groups of the weights that learn, for timm's optimisers and schedules, which multiply by `lr_scale`.

    lr: the rate that the optimiser is given. head_lr: that of the classifier, if it differs.
    layer_decay: factor on the rate from each of the network's levels to the one before it; the last has `lr`.
    relative: the rate of each weight is multiplied by its size: as `learning_sizes` gave it, or
    as it is now without `sizes`. Sizes also decide which weights share a group, so a run that goes on must be
    given those that it began with.
    weight_decay: for all but one-dimensional weights (norms, biases) and those that the network exempts: ours
    exempt all that are not weights of a linear map, such as a layer scale of any shape. A B-cos layer
    normalises its weights in the forward pass: there decay does not change the function, only how far a step
    of the same rate turns them.

    Raises InputError for factors that make no sense, and if nothing learns.
    """
    if faults := bounds.faults("optimizer", {"layer_decay": layer_decay}):
        raise InputError(faults[0])
    spared: set[str] = getattr(model, "no_weight_decay", set)()
    if layer_decay is None:
        made = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=spared)
    else:
        made = param_groups_layer_decay(
            model, weight_decay, no_weight_decay_list=spared, layer_decay=layer_decay
        )
    if not made:
        raise InputError("no weight of the network learns; change model.train")
    if head_lr is not None:
        made = _with_head(made, {id(p) for p in _head(model)}, head_lr / lr)
    if not relative:
        return made
    known = learning_sizes(model) if sizes is None else sizes
    return _by_size(made, {id(p): known[name] for name, p in model.named_parameters() if p.requires_grad})


def _with_head(made: list[dict[str, Any]], head: set[int], scale: float) -> list[dict[str, Any]]:
    """The groups, with the head's weights in groups of their own that have that scale."""
    split = []
    for group in made:
        for inside in (False, True):
            if params := [p for p in group["params"] if (id(p) in head) == inside]:
                split.append(group | {"params": params} | ({"lr_scale": scale} if inside else {}))
    return split


def _by_size(made: list[dict[str, Any]], sizes: Mapping[int, float]) -> list[dict[str, Any]]:
    """The groups, split by the sizes of their weights (by id), whose scales are multiplied by them."""
    split = []
    for group in made:
        of_size: dict[float, list[nn.Parameter]] = {}
        for p in group["params"]:
            of_size.setdefault(sizes[id(p)], []).append(p)
        split += [
            group | {"params": params, "lr_scale": group.get("lr_scale", 1.0) * its}
            for its, params in of_size.items()
        ]
    return split


def learning_sizes(model: nn.Module) -> dict[str, float]:
    """The `size` of each weight that learns, by its name."""
    return {name: size(p) for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def size(p: nn.Parameter) -> float:
    """The root mean square of a weight, in two digits, so that like ones share a group; `LEAST` or more.

    1 / sqrt(n) for rows of unit norm with n elements: a step of Adam with the rate r turns them by about r.
    """
    values: Any = p.detach()
    whole = values.full_tensor() if hasattr(values, "full_tensor") else values  # a shard holds a part
    return max(float(f"{float(whole.float().square().mean().sqrt()):.2g}"), LEAST)


def clip_adaptively(model: nn.Module, factor: float) -> None:
    """timm's adaptive clipping of gradients, row by row; a gain is one row, whatever its shape.

    The paper's code (Brock et al. 2021) does the same: it drops dimensions of one element.
    """
    for p in model.parameters():
        if p.grad is not None:
            row = p.detach().squeeze() if is_one_row(p) else p
            row.grad = p.grad.squeeze() if is_one_row(p) else p.grad
            adaptive_clip_grad([row], factor)


def is_one_row(p: torch.Tensor) -> bool:
    """Whether a weight is a vector, also in a shape such as (K, 1, 1)."""
    return sum(size > 1 for size in p.shape) <= 1


def layer_names(model: nn.Module) -> list[str]:
    """Names that "from:LAYER" takes, in the order in which the network runs them."""
    return list(_names(model, ""))


def _names(parent: nn.Module, prefix: str) -> Iterator[str]:
    # Networks register their modules in the order of the forward pass: ours (a test checks it) and timm's.
    for name, child in parent.named_children():
        if any(True for _ in child.parameters()):
            yield prefix + name
            if isinstance(child, _CONTAINERS):
                yield from _names(child, f"{prefix}{name}.")


def _from(model: nn.Module, layer: str) -> list[nn.Parameter]:
    """The weights of a layer and of what comes after it."""
    known = layer_names(model)
    if layer not in known:
        raise InputError(f"model.train='{FROM}{layer}': no such layer; known: {_shortened(known)}")
    names = [name for name, _ in model.named_modules()]
    after = set(names[names.index(layer) :])
    return [p for name, m in model.named_modules() if name in after for p in m.parameters(recurse=False)]


def _shortened(names: list[str]) -> str:
    """The names in one line; of a numbered series only the first and the last."""
    runs = (list(run) for _, run in groupby(names, key=lambda name: name.rstrip("0123456789")))
    return ", ".join(f"{run[0]} … {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def _head(model: Any) -> list[nn.Parameter]:
    """The weights of the classifier, or classifiers."""
    found = model.get_classifier()
    return [p for module in (found if isinstance(found, tuple) else (found,)) for p in module.parameters()]
