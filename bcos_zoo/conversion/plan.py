"""What a conversion made of each layer, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any

from ..errors import InputError
from .layers import ROWS, Rows

OWN = "give the plan of a network that bcos_zoo.bcosify made"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The layers of a converted network that are not the original's, by their names in the original.

    mean, std: of each input channel, by which the original's images were normalised. b, rows: of all B-cos
    layers. stem: the layer that sees colours and inverted colours; None if it sees half their difference.
    bcos: the B-cos layers. uncentred: norms that subtract no mean. fading: batch norms that subtract a share
    of the mean. averaged: poolings. blurred: layers with a stride that see their map blurred. unbiased:
    biases that were taken away. biases: those left that add a constant to the logits.
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
    blurred: tuple[str, ...] = ()
    unbiased: tuple[str, ...] = ()
    biases: tuple[str, ...] = field(default=(), repr=False)

    def without_constants(self) -> Plan:
        """With biases that add a constant taken away, and fading norms uncentred if theirs is such a bias:
        uncentred norms have none. The biases of other fading norms make factors, as that of a query does.
        """
        ended = {name for name in self.fading if f"{name}.bias" in self.biases}
        left = {name for name in self.biases if name.rpartition(".")[0] not in ended}
        more = dict(uncentred={*self.uncentred, *ended}, unbiased={*self.unbiased, *left})
        gone: dict[str, Any] = {key: tuple(sorted(names)) for key, names in more.items()}
        return replace(self, **gone, biases=(), fading=tuple(sorted({*self.fading} - ended)))

    def as_json(self) -> dict[str, Any]:
        """Plain data that `read` takes."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


def read(given: Any) -> Plan:
    """The plan of plain data, as a config.json has it; fields with a default may be missing.

    Raises InputError, in one line, for other data.
    """
    if isinstance(given, Plan):
        return given
    if not isinstance(given, Mapping):
        raise InputError(f"plan={given!r:.60} is none; {OWN}")
    known = {one.name: one.default is MISSING for one in fields(Plan)}
    needed = {key for key, required in known.items() if required}
    for verb, other in (("lacks", needed - given.keys()), ("adds", given.keys() - known.keys())):
        if other:
            raise InputError(f"plan={given!r:.60} {verb} {', '.join(sorted(map(str, other)))}; {OWN}")
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


def whatever_constants(conversion: Mapping[str, Any]) -> dict[str, Any]:
    """What a network says of its conversion, but for whether its constants are there: for comparisons."""
    free = ("biases", "centring", "norms_uncentred", "batch_norms_fading", "batch_norms_left", "plan")
    said = {key: value for key, value in conversion.items() if key not in free}
    return said | {"plan": read(conversion.get("plan")).without_constants()}


def fitting(values: tuple[float, ...], in_chans: int) -> tuple[float, ...]:
    """One value for each channel: the mean of those given, if their number is another."""
    return values if len(values) == in_chans else (sum(values) / len(values),) * in_chans
