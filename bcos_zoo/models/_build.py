"""The one file that talks to timm's model builder: cards, verified weights, stem adaptation."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

import timm.models
import torch
from timm.models import (
    PretrainedCfg,
    adapt_input_conv,
    build_model_with_cfg,
    generate_default_cfgs,
    resolve_pretrained_cfg,
)
from torch import Tensor, nn

from .. import weights
from .._compat import update_model_args
from ..errors import InputError, WeightsError
from ..layers import LayerSpec
from ..layers.antialias import Blur
from ..weights import manifest, state_dicts
from ..weights.manifest import as_tuple
from ._network import forget_names

SOURCES = {"file", "url", "hf_hub_id", "state_dict"}  # keys of a card that say where the weights are
RUNTIME = {  # keywords that do not describe the network itself
    *inspect.signature(build_model_with_cfg).parameters,
    *("features_only", "out_indices", "feature_cls", "pruned", "device", "dtype"),
}
Entrypoint = TypeVar("Entrypoint", bound=Callable[..., nn.Module])


def register_model(entrypoint: Entrypoint) -> Entrypoint:
    """timm's decorator of the same name, with types."""
    timm.models.register_model(entrypoint)
    return entrypoint


def cards(
    architectures: Mapping[str, Mapping[str, Any]], *, classifier: str, first_conv: str
) -> Mapping[str, Any]:
    """timm's `default_cfgs` of one family.

    architectures: name -> the card of the architecture without weights. Each checkpoint in the manifest adds
    a card of its own, `name.tag`. The default is the first whose network is the architecture's own; one that
    needs other arguments is a different network, which only its full name makes.
    classifier, first_conv: the modules that hold the weights of the classifier and of the stem.
    """
    base = dict(interpolation="bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    base |= dict(classifier=classifier, first_conv=first_conv)
    out: dict[str, dict[str, Any]] = {}
    defaults: dict[str, str] = {}
    for name, card in architectures.items():
        known = [record for record in manifest.registered().values() if record.architecture == name]
        for checkpoint in known:
            out[checkpoint.name] = base | dict(card) | manifest.timm_card(checkpoint)
        defaults[name] = next((record.tag for record in known if not record.arguments), "")
        if not defaults[name]:
            out[name] = base | dict(card)
    made: Mapping[str, Any] = generate_default_cfgs(out)
    for name in architectures:
        tags = made[name].tags  # timm would put the first one with a url there
        tags.remove(defaults[name])
        tags.appendleft(defaults[name])
    return made


def build(
    cls: Callable[..., nn.Module],
    name: str,
    pretrained: bool,
    arch: Mapping[str, Any],
    kwargs: Mapping[str, Any],
    *,
    spec: type = LayerSpec,
) -> Any:
    """Build `cls` through timm, with verified weights if `pretrained`.

    arch: the arguments of this architecture; the checkpoint's own arguments override them, and kwargs, what
    timm's caller asked for, override both. Those that are fields of `spec` reach the class as one object.
    spec: the dataclass that says how the layers are made.

    features_only gives every level that the network has, unless out_indices says otherwise.
    The network's `build_arguments` are those that differ from `arch`, as plain JSON data (except values that
    JSON cannot hold, such as a class): they build it again, and timm writes them into a config.json. They do
    not change when the network does; its attributes num_classes and global_pool are current. Its
    `pretrained_from` names the checkpoint, or the `hf-hub:org/name@revision`, whose weights it started with;
    None if these are random or from the caller's file. Its card names classes only if its classifier came
    with these names: from a checkpoint, or from a file for which the caller gave the tag, the card or names.
    Raises WeightsError if the checkpoint is missing, damaged or does not fit; InputError for an output_stride
    in a family that has no dilated form, and for antialias in a network without strides; TypeError for other
    unknown keywords.
    """
    kwargs = {key: value if key in RUNTIME else as_tuple(value) for key, value in kwargs.items()}
    features = {"feature_cls": "getter"} | kwargs.get("feature_cfg", {})
    kwargs["feature_cfg"] = features
    every_level = "out_indices" not in {**features, **kwargs}

    def make(**made_of: Any) -> Any:
        made: Any = cls(**made_of)
        way = getattr(made_of["spec"], "antialias", None)
        if way and not any(isinstance(module, Blur) for module in made.modules()):
            raise InputError(
                f"antialias={way!r}: {name} has no layer with a stride to blur ahead of; leave it"
            )
        if every_level:  # only now known; timm, which would take five, hands this dict on when it is done
            features["out_indices"] = tuple(range(len(made.feature_info)))
        return made

    card = kwargs.get("pretrained_cfg")
    overlay = kwargs.get("pretrained_cfg_overlay") or {}
    arguments: Mapping[str, Any] = {}
    began: str | None = None
    file: str | None = None
    if isinstance(card, (dict, PretrainedCfg)):  # a complete card, from the hub or a caller
        ready = card if isinstance(card, dict) else card.to_dict()
        began = f"hf-hub:{ready['hf_hub_id']}" if pretrained and ready.get("source") == "hf-hub" else None
    else:
        tag = _registered_tag(name, card)
        full = f"{name}.{tag}" if tag else name
        arguments = manifest.load()[full].arguments if tag else {}
        file = overlay.get("file") if pretrained else None
        if pretrained and not overlay.keys() & SOURCES:
            began, file = full, str(weights.fetch(full, kwargs.get("cache_dir")))
        if (
            file and "state_dict" not in overlay
        ):  # read here: timm's reader picks other sets and prefixes, and may raise any error
            overlay = overlay | {"file": str(file), "state_dict": state_dicts.read(file)}
            kwargs["pretrained_cfg_overlay"] = overlay
    options = {**arch, **arguments, **kwargs}
    if "output_stride" in options and "output_stride" not in inspect.signature(cls).parameters:
        raise InputError(
            f"output_stride={options['output_stride']!r}: {name} has no dilated form; ResNets (bcos_resnet*, "
            "bcos_resnext*, bcos_wide_resnet*) and bcos_convnext_* have one"
        )
    shared = {field.name: options.pop(field.name) for field in fields(spec) if field.name in options}
    fit = partial(_fit, name=name, headless=bool(kwargs.get("features_only")))
    model = build_model_with_cfg(
        make, name, pretrained, pretrained_filter_fn=fit, spec=spec(**shared), **options
    )
    if pretrained:
        model.pretrained_cfg.pop("state_dict", None)  # off the card: the tensors are the network's now
    named = bool(card or began or overlay.get("label_names"))
    loaded = pretrained and not kwargs.get("features_only")
    if not (named and loaded and model.num_classes == model.pretrained_cfg["num_classes"]):
        forget_names(model)
    asked = {**arguments, **kwargs}.items()
    own = {k: _plain(v) for k, v in asked if k not in RUNTIME and (k not in arch or arch[k] != v)}
    model.build_arguments, model.pretrained_from = own, began
    update_model_args(model, **own)  # timm itself adds only keywords, no checkpoint's arguments
    return model


def _registered_tag(name: str, tag: str | None) -> str:
    try:
        found: str = resolve_pretrained_cfg(name, tag).tag
        return found
    except RuntimeError:
        if f"{name}.{tag}" not in manifest.load():
            raise
        raise WeightsError(
            f"{name}.{tag} was no record when bcos_zoo was imported, so timm was not told of it; set "
            f"{manifest.MORE} before the import"
        ) from None


def _plain(value: Any) -> Any:
    """The value as it comes back from JSON; unchanged if JSON cannot hold it."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return value


def own_names(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The tensors of a published file under the network's own names, whatever the file calls them.

    Those of an auxiliary head are left out if the network has none.
    """
    own = model.state_dict()
    named = state_dicts.unwrap(state_dict, own.keys())
    rename = getattr(model, "rename", None)
    if rename is not None:
        named = {key if rename(key) in named else rename(key): value for key, value in named.items()}
    auxiliary = getattr(model, "AUXILIARY", "")
    if auxiliary and getattr(model, auxiliary) is None:
        named = {key: value for key, value in named.items() if not key.startswith(auxiliary)}
    return named


def _fit(state_dict: dict[str, Tensor], model: Any, *, name: str, headless: bool) -> dict[str, Tensor]:
    """The file's tensors under the network's names, with the stem adapted; refuse a file of another network.

    headless: the classifiers will not be used. Nor are the file's, if the number of classes differs from the
    card's. In both cases timm itself would load with strict=False, which ignores any missing key.
    """
    own, card = model.state_dict(), model.pretrained_cfg
    state_dict = own_names(state_dict, model)
    spare: set[str] = set()
    if headless or model.num_classes != card["num_classes"]:
        classifier = f"{card['classifier']}.weight"
        if not headless and classifier in own and len(state_dict.get(classifier, ())) == len(own[classifier]):
            raise WeightsError(
                f"the file has a classifier of {model.num_classes} classes, but the card says "
                f"{card['num_classes']}, so it would be lost; add num_classes to pretrained_cfg_overlay"
            )
        auxiliary = getattr(model, "AUXILIARY", "")
        heads = (f"{card['classifier']}.", f"{auxiliary}." if headless else f"{auxiliary}.fc.")
        spare = {key for key in (*own, *state_dict) if key.startswith(heads)}
    stem = next(iter(own))
    if stem in state_dict:
        channels = model.spec.encoded_channels(model.in_chans)
        parts = model.spec.encoded_channels(1)
        state_dict[stem] = _adapt_stem(state_dict[stem], own[stem], channels, parts)
    state_dicts.check_fit(state_dict, own, name, spare=spare)
    return {key: value for key, value in state_dict.items() if key not in spare}


def _adapt_stem(weight: Tensor, own: Tensor, channels: int, parts: int) -> Tensor:
    """The first layer's weight for another number of input channels; unchanged if it cannot be adapted.

    channels: those that `own` sees. parts: 2 for the encoding [x, 1-x], whose halves each hold all channels
    and are adapted separately; 1 for a plain image.
    """
    if weight.ndim != own.ndim or weight.shape == own.shape:
        return weight
    if weight.ndim == 2:  # a weight of patches, flattened with the channels last
        pixels = own.shape[1] // channels
        if weight.shape[1] % pixels:
            return weight
        weight, own = (w.reshape(len(w), pixels, -1, 1).transpose(1, 2) for w in (weight, own))
        return _adapt_stem(weight, own, channels, parts).transpose(1, 2).flatten(1)
    if weight.shape[1] == channels or weight.shape[1] % parts:
        return weight
    pieces = weight.chunk(parts, dim=1)
    return torch.cat([adapt_input_conv(channels // parts, one, one.shape[1]) for one in pieces], dim=1)
