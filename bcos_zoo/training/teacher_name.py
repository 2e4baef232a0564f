"""What a card and a page call the network that a student learnt from, and on what terms that one is."""

from __future__ import annotations

from pathlib import PurePath

import timm

from .. import zoo
from ..conversion.bcos_converted import DEFAULT, NAME
from ..errors import UnknownModelError
from ..files import as_text
from ..weights import config_json
from . import networks
from .distillation import Teacher
from .recipe import Model


def public(part: Teacher) -> str:
    """The name of a teacher, never with a folder of this machine.

    Weights of a file are not those of the checkpoint that the name alone would mean. Nor is the network of a
    run's folder that which the run began with: it was trained further, and nobody else has it.
    """
    if part.weights is not None:
        return f"{_architecture(part.name)} with weights of the file {as_text(PurePath(part.weights).name)}"
    name = networks.resolved(part.name)
    if not name.startswith("local-dir:"):
        return name
    base = networks.public_name(part.name)
    began = "" if base == networks.UNPUBLISHED else f", begun with {base}"
    return f"{networks.UNPUBLISHED} ({_architecture(part.name)}{began})"


def begun_with(part: Model) -> str | None:
    """What a card calls the network that a run began with; of a converted network, the original."""
    if not part.pretrained:
        return None
    if part.name == NAME and "conversion" not in part.args:
        return public(Teacher(name=str(part.args.get("original", DEFAULT)), weights=part.weights))
    return (
        networks.public_name(part.name)
        if part.weights is None
        else public(Teacher(name=part.name, weights=part.weights))
    )


def licence(part: Teacher) -> str | None:
    """The licence of its weights, where it is known: that of a published checkpoint alone."""
    name = networks.resolved(part.name)
    if part.weights is not None or name.startswith(config_json.ELSEWHERE):
        return None
    if networks.of_timm(name):
        card = timm.get_pretrained_cfg(name)
        found: str | None = getattr(card, "license", None)
        return found
    try:
        return zoo.find_checkpoint(name).licence.weights
    except UnknownModelError:  # an architecture alone, whose weights nobody published
        return None


def _architecture(name: str) -> str:
    found = networks.resolved(name)
    return config_json.read(found).architecture if found.startswith(config_json.ELSEWHERE) else found
