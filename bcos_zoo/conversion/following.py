"""A network of timm converted as a plan says, without a trial; and its classifier replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import InputError, check_integer
from .blurring import blur_strides
from .layers import BCOS_OF, as_bcos
from .network import Converted
from .norms import drop_biases, spell_out
from .plan import Plan
from .renewal import CHANGES, without
from .trial import widen_stem


def follow(network: nn.Module, plan: Plan, *, in_chans: int, conversion: Mapping[str, Any]) -> Converted:
    """A network of timm made into a B-cos network as a plan says, in place; its weights are kept.

    in_chans: of its images; mean and std are averaged for another number of channels. conversion: what the
    result says of itself. What the plan says of a classifier that the network was built without is left out.
    Raises InputError if the network has other layers than the plan's.
    """
    name = conversion.get("from", type(network).__name__)
    check_integer("in_chans", in_chans, 1)
    plan = without_missing_classifier(network, plan)
    modules, parameters = dict(network.named_modules()), dict(network.named_parameters())
    layers = {*plan.bcos, *plan.uncentred, *plan.fading, *plan.averaged, *plan.blurred}
    layers |= {*filter(None, [plan.stem])}
    if missing := sorted(layers - modules.keys()):
        raise InputError(f"{name} has no layer {missing[0]!r}, which the plan changes; give its own plan")
    if missing := sorted({*plan.unbiased} - parameters.keys()):
        raise InputError(f"{name} has no {missing[0]!r}, which the plan takes away; give its own plan")
    spell_out(network)
    for key, change in CHANGES.items():
        wanted = getattr(plan, key)
        done, _ = change(network, wanted)
        if left := sorted(set(wanted) - set(done)):
            raise InputError(f"{name}: {left[0]!r} cannot be {key.replace('_', ' ')}; give its own plan")
    model = Converted(network, in_chans=in_chans, plan=plan, card={}, conversion=dict(conversion))
    drop_biases(network, plan.unbiased)
    if plan.stem is not None:
        widen_stem(model, plan.stem)
    for one in plan.bcos:
        if type(network.get_submodule(one)) not in BCOS_OF:
            raise InputError(f"{name}: {one!r} cannot be a B-cos layer; give its own plan")
        as_bcos(network.get_submodule(one), b=plan.b, rows=plan.rows)
    if left := sorted({*plan.blurred} - {*blur_strides(network, plan.blurred)}):
        raise InputError(f"{name}: {left[0]!r} has no stride to blur ahead of; give its own plan")
    return model


def without_missing_classifier(network: nn.Module, plan: Plan) -> Plan:
    """The plan without what it says of a classifier that the network was built without (num_classes=0)."""
    card = getattr(network, "pretrained_cfg", None) or {}
    names = card.get("classifier") or ()
    modules = dict(network.named_modules(remove_duplicate=False))
    missing = set()
    for name in (names,) if isinstance(names, str) else names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):  # it may be missing with more around it
            place = ".".join(parts[:end])
            if isinstance(modules.get(place), (nn.Identity, type(None))):
                missing.add(place)
                break
    return without(plan, lambda name: any(f"{name}.".startswith(f"{place}.") for place in missing))
