"""Converted networks in timm's registry: built by name and arguments alone, so that a config.json can.

`bcosify` finds out what becomes of each layer, by a trial. A converted network keeps that in `conversion`, by
which one of the same architecture is made again without a trial.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import timm
import torch
from torch import nn

from ..errors import InputError
from ..models._build import RUNTIME, build, cards, register_model
from .bcosify import NAME as NAME
from .bcosify import Options, bcosify, check_name
from .following import follow
from .network import Converted
from .plan import read

DEFAULT = "resnet18"  # what `bcos_converted` is made from, unless told
OPTIONS = frozenset(one.name for one in fields(Options))
_CARD = dict(input_size=(3, 224, 224), crop_pct=0.875, num_classes=1000)

default_cfgs = cards({NAME: _CARD}, classifier="network.fc", first_conv="network.conv1")


@dataclass(frozen=True)
class Place:
    """Where the layers are made; the original's code says how."""

    device: torch.device | str | None = None
    dtype: torch.dtype | None = None


@register_model
def bcos_converted(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Any network of timm as a B-cos network, by rule: `original` names it; ResNet-18 unless given.

    Options of the conversion are those of `bcos_zoo.bcosify`; all other arguments are the original's. With
    `pretrained` it begins with the original's weights. `conversion`, that of a network which was converted
    before, makes the same layers again, whatever the rules are now.
    """
    return _create(NAME, pretrained, {"original": DEFAULT} | kwargs)


def _create(name: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    model: Any
    if kwargs.get("conversion") is not None:
        said = kwargs["conversion"] if isinstance(kwargs["conversion"], dict) else {}
        for option in sorted(OPTIONS & kwargs.keys()):  # timm adds its caller's to those of the network
            asked = kwargs.pop(option)
            if asked != said.get(option):
                other = f"a conversion with {option}={said.get(option)!r}"
                raise InputError(f"{name}: {option}={asked!r} beside {other}; leave one out")
        model = build(again, name, pretrained, {}, kwargs, spec=Place)
        return model
    options = {key: kwargs.pop(key) for key in OPTIONS & kwargs.keys()}
    own = {key: value for key, value in kwargs.items() if key not in RUNTIME and key != "original"}
    if not isinstance(kwargs["original"], str):
        raise InputError(f"original={kwargs['original']!r:.60}: allowed are the names of networks of timm's")
    if ":" not in kwargs["original"]:
        check_name(kwargs["original"].partition(".")[0])
    with torch.device("cpu"):  # the trial needs numbers, also where what is asked for has none
        source = timm.create_model(kwargs["original"], pretrained=pretrained, **own)
        made = bcosify(source.eval(), **options)

    @torch.no_grad()
    def filled(**arguments: Any) -> Converted:
        empty, values = again(**arguments), made.state_dict()
        for key, value in empty.state_dict().items():
            if not value.is_meta and value.shape == values[key].shape:  # features_only has other classifiers
                value.copy_(values[key])
        return empty

    known = dict(conversion=made.conversion, pretrained_cfg=made.pretrained_cfg)
    model = build(filled, name, False, {}, kwargs | known, spec=Place)
    if pretrained and not kwargs.get("features_only"):
        model.pretrained_cfg = model.default_cfg = made.pretrained_cfg  # with the names of its classes
    return model


def again(*, original: str, conversion: Any, spec: Place, **arguments: Any) -> Converted:
    """A network that was converted before, its weights random. arguments: the original's."""
    if not isinstance(conversion, dict) or "plan" not in conversion:
        raise InputError(
            f"conversion={conversion!r:.60}; give the `conversion` of a network that bcos_zoo.bcosify made"
        )
    with torch.device(spec.device or torch.get_default_device()):
        network = timm.create_model(original, pretrained=False, **arguments)
        network = network if spec.dtype is None else network.to(spec.dtype)
        plan, in_chans = read(conversion["plan"]), arguments.get("in_chans", 3)
        return follow(network, plan, in_chans=in_chans, conversion=conversion)
