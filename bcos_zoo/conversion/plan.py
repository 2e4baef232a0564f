"""What a conversion made of each layer, as plain data; and a network of the same form made so again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import nn

from ..errors import InputError, check_integer
from .layers import BCOS_OF, ROWS, Rows, as_bcos
from .network import Converted
from .norms import average, drop_biases, fade, spell_out, uncentre
from .trial import widen_stem

OWN = "give the plan of a network that bcos_zoo.bcosify made"
CHANGES = {"uncentred": uncentre, "fading": fade, "averaged": average}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The layers of a converted network that are not the original's, by their names in the original.

    mean, std: of each input channel, by which the original's images were normalised. b, rows: of all B-cos
    layers. stem: the layer that sees colours and inverted colours; None if it sees half their difference.
    bcos: the B-cos layers. uncentred: norms that subtract no mean. fading: batch norms that subtract a share
    of the mean. averaged: poolings. unbiased: biases that were taken away. biases: those left that add a
    constant to the logits.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    b: float
    rows: Rows
    stem: str | None = None
    bcos: tuple[str, ...] = ()
    uncentred: tuple[str, ...] = ()
    fading: tuple[str, ...] = ()
    averaged: tuple[str, ...] = ()
    unbiased: tuple[str, ...] = ()
    biases: tuple[str, ...] = field(default=(), repr=False)

    def as_json(self) -> dict[str, Any]:
        """Plain data that `read` takes."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


def read(given: Any) -> Plan:
    """The plan of plain data, as a config.json has it. Raises InputError, in one line, for other data."""
    if isinstance(given, Plan):
        return given
    known = {one.name: one for one in fields(Plan)}
    if not isinstance(given, Mapping) or (other := given.keys() ^ known.keys()):
        keys = isinstance(given, Mapping) and f"lacks or adds {', '.join(sorted(map(str, other)))}"
        raise InputError(f"plan={given!r:.60} {keys or 'is none'}; {OWN}")
    values: dict[str, Any] = {}
    for key, value in given.items():
        numbers = key in ("mean", "std")
        if isinstance(value, (list, tuple)) and key not in ("b", "rows", "stem"):
            kind = (int, float) if numbers else (str,)
            fits = all(type(one) in kind for one in value)
            values[key] = tuple(value)
        else:
            fits = key == "rows" and value in ROWS
            fits |= key == "stem" and isinstance(value, (str, type(None)))
            fits |= key == "b" and type(value) in (int, float) and value >= 1
            values[key] = value
        if not fits:
            raise InputError(f"plan.{key}={value!r:.60} does not fit; {OWN}")
    return Plan(**values)


def follow(network: nn.Module, plan: Plan, *, in_chans: int, conversion: Mapping[str, Any]) -> Converted:
    """A network of timm made into a B-cos network as a plan says, in place; its weights are kept.

    in_chans: of its images; mean and std are averaged for another number of channels. conversion: what the
    result says of itself. Raises InputError if the network has other layers than the plan's.
    """
    name = conversion.get("from", type(network).__name__)
    check_integer("in_chans", in_chans, 1)
    modules, parameters = dict(network.named_modules()), dict(network.named_parameters())
    layers = {*plan.bcos, *plan.uncentred, *plan.fading, *plan.averaged, *filter(None, [plan.stem])}
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
    model = Converted(
        network, in_chans=in_chans, mean=fitting(plan.mean, in_chans), std=fitting(plan.std, in_chans),
        card={}, biases=frozenset(f"network.{one}" for one in plan.biases), conversion=dict(conversion),
    )  # fmt: skip
    drop_biases(network, plan.unbiased)
    if plan.stem is not None:
        widen_stem(model, plan.stem)
    for one in plan.bcos:
        if type(network.get_submodule(one)) not in BCOS_OF:
            raise InputError(f"{name}: {one!r} cannot be a B-cos layer; give its own plan")
        as_bcos(network.get_submodule(one), b=plan.b, rows=plan.rows)
    return model


def fitting(values: tuple[float, ...], in_chans: int) -> tuple[float, ...]:
    """One value for each channel: the mean of those given, if their number is another."""
    return values if len(values) == in_chans else (sum(values) / len(values),) * in_chans
