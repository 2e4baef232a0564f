"""Modules that a converted network's classifier got anew, changed as the others were."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from torch import nn

from .layers import BCOS_OF, BcosForm, as_bcos
from .norms import average, drop_biases, fade, is_bias, spell_out, uncentre
from .plan import Plan

CHANGES = {"uncentred": uncentre, "fading": fade, "averaged": average}


def without(plan: Plan, gone: Callable[[str], bool]) -> Plan:
    """The plan without what it says of modules and parameters of some names."""
    every = {one.name: getattr(plan, one.name) for one in fields(plan) if one.default == ()}
    return _with(plan, {key: (name for name in names if not gone(name)) for key, names in every.items()})


def _with(plan: Plan, names: Mapping[str, Iterable[str]]) -> Plan:
    values: dict[str, Any] = {key: tuple(sorted({*some})) for key, some in names.items()}
    return replace(plan, **values)


def renewed(network: nn.Module, plan: Plan, before: Mapping[str, nn.Module], asked: Collection[str]) -> Plan:
    """Change the modules that were not there before as the plan changed others; the plan for them too.

    before: all modules by name, before some were replaced. asked: the fields of the plan that a conversion
    has only if asked for, and was asked for. A fresh layer becomes a B-cos layer, unless it takes the place
    of one that is none; a fresh bias counts as one that adds a constant.
    """
    now = dict(network.named_modules(remove_duplicate=False))
    places = before.keys() | now.keys()
    other = {name for name in places if before.get(name) is not now.get(name)}
    fresh = sorted(other & now.keys())
    plan = without(plan, lambda name: (name if name in places else name.rpartition(".")[0]) in other)
    more: dict[str, list[str]] = {"bcos": [], "unbiased": [], "biases": []}
    spell_out(network)
    for key in (one for one in CHANGES if one in asked):
        more[key], _ = CHANGES[key](network, fresh)
    for name in fresh:
        module, last = network.get_submodule(name), before.get(name)
        if type(module) in BCOS_OF and type(last) not in BCOS_OF:
            as_bcos(module, b=last.b if isinstance(last, BcosForm) else plan.b, rows=plan.rows)
            more["bcos"].append(name)
        biases = [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False) if is_bias(key)]
        if "unbiased" in asked:
            drop_biases(network, biases)
        more["unbiased" if "unbiased" in asked else "biases"] += biases
    return _with(plan, {key: [*getattr(plan, key), *names] for key, names in more.items()})
