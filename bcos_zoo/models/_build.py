"""The one file that talks to timm's model builder: cards, verified weights, stem adaptation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import timm.models
import torch
from timm.models import (
    PretrainedCfg,
    adapt_input_conv,
    build_model_with_cfg,
    generate_default_cfgs,
    load_state_dict,
    resolve_pretrained_cfg,
)
from torch import Tensor, nn

from .. import manifest, weights
from ..errors import WeightsError

Entrypoint = TypeVar("Entrypoint", bound=Callable[..., nn.Module])


def register_model(entrypoint: Entrypoint) -> Entrypoint:
    """timm's decorator of that name, with types."""
    timm.models.register_model(entrypoint)
    return entrypoint


def cards(architectures: Mapping[str, Mapping[str, Any]], *, classifier: str) -> Mapping[str, Any]:
    """timm's `default_cfgs` of one family.

    architectures: name -> the card of the architecture without weights. Each checkpoint in the manifest adds
    a card of its own, `name.tag`, and the first one listed there is the default.
    classifier: module that holds the classifier's weight.
    """
    base = dict(interpolation="bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), classifier=classifier)
    out: dict[str, dict[str, Any]] = {}
    for name, card in architectures.items():
        known = manifest.checkpoints(name)
        for checkpoint in known:
            out[checkpoint.name] = base | dict(card) | manifest.timm_card(checkpoint)
        if not known:
            out[name] = base | dict(card)
    made: Mapping[str, Any] = generate_default_cfgs(out)
    return made


def build(
    cls: type[nn.Module],
    name: str,
    pretrained: bool,
    arch: Mapping[str, Any],
    kwargs: Mapping[str, Any],
    *,
    stem: str,
    levels: int,
) -> Any:
    """Build `cls` through timm, with verified weights if `pretrained`.

    arch: what makes this architecture; kwargs: what timm's caller asked for, which wins.
    stem: state-dict key of the first convolution, whose input channels follow in_chans.
    levels: how many feature maps features_only gives unless out_indices are asked for.
    Raises WeightsError if the checkpoint is missing, damaged or does not fit; TypeError for unknown keywords.
    """
    kwargs = dict(kwargs)
    features = {"feature_cls": "getter", "out_indices": tuple(range(levels))}
    kwargs["feature_cfg"] = features | kwargs.get("feature_cfg", {})
    card = kwargs.get("pretrained_cfg")
    if pretrained and not isinstance(card, (dict, PretrainedCfg)):  # a ready card is the hub's or a caller's
        overlay = kwargs.get("pretrained_cfg_overlay") or {}
        if overlay.get("file"):
            _check_readable(overlay["file"])
        elif not overlay.keys() & {"url", "hf_hub_id", "state_dict"}:
            tag = resolve_pretrained_cfg(name, card).tag
            file = weights.fetch(f"{name}.{tag}" if tag else name, kwargs.get("cache_dir"))
            kwargs["pretrained_cfg_overlay"] = overlay | {"file": str(file)}
    fit = partial(_fit, name=name, stem=stem, headless=bool(kwargs.get("features_only")))
    return build_model_with_cfg(cls, name, pretrained, pretrained_filter_fn=fit, **(dict(arch) | kwargs))


def _check_readable(path: str) -> None:
    """Raise WeightsError for a file timm cannot read; it raises anything itself, as the damage has it."""
    try:
        load_state_dict(path)
    except Exception as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise WeightsError(
            f"{path} is missing, damaged or no file of weights ({reason}); get it anew"
        ) from error


def _fit(
    state_dict: dict[str, Tensor], model: nn.Module, *, name: str, stem: str, headless: bool
) -> dict[str, Tensor]:
    """Adapt the stem to the model's input channels; refuse a file of another network.

    headless: the classifier will not be used. Nor is the file's where the number of classes is not the
    card's. timm itself would then load with strict=False, and so let any key go missing in silence.
    """
    own = model.state_dict()
    card: Any = model.pretrained_cfg
    classifier, spare = f"{card['classifier']}.weight", set()
    if headless or model.num_classes != card["num_classes"]:
        spare = {classifier}
        if not headless and classifier in own and len(state_dict.get(classifier, ())) == model.num_classes:
            raise WeightsError(
                f"the file has a classifier of {model.num_classes} classes, but the card says "
                f"{card['num_classes']}, so it would be lost; add num_classes to pretrained_cfg_overlay"
            )
    missing = sorted(own.keys() - state_dict.keys() - spare)
    surplus = sorted(state_dict.keys() - own.keys() - spare)
    if missing or surplus:
        raise WeightsError(
            f"the file is not of {name}: {_count(missing, 'missing')}, {_count(surplus, 'surplus')}; "
            "give a file of this network"
        )
    in_chans, weight = own[stem].shape[1] // 2, state_dict[stem]
    if weight.ndim == 4 and weight.shape[1] % 2 == 0 and weight.shape[1] != 2 * in_chans:
        # The encoding is [x, 1-x]: each half sees all channels, so each is adapted by itself.
        halves = [adapt_input_conv(in_chans, half, half.shape[1]) for half in weight.chunk(2, dim=1)]
        state_dict = state_dict | {stem: torch.cat(halves, dim=1)}
    shapes = [
        f"{key} {tuple(state_dict[key].shape)} for {tuple(value.shape)}"
        for key, value in own.items()
        if key not in spare and state_dict[key].shape != value.shape
    ]
    if shapes:
        raise WeightsError(
            f"the file is not of {name}: {_count(shapes, 'of another shape')}; give a file of this network"
        )
    return state_dict


def _count(keys: list[str], fault: str) -> str:
    some = f" ({', '.join(keys[:3])}{', ...' if keys[3:] else ''})" if keys else ""
    return f"{len(keys)} {fault}{some}"
