"""What a comparison is to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError, closest
from ..posthoc import EXPLAINERS

# Curves along which pixels are removed or added, the most or the least important first.
CURVES = ("deletion", "deletion-least", "insertion", "insertion-least")
OF_THE_INHERENT = ("completeness", "constants")  # the other explainers do not claim to add up to the logit
METRICS = ("localisation", "energy", *CURVES, "sparseness", "stability", *OF_THE_INHERENT, "checkerboard")


@dataclass(frozen=True)
class Settings:
    """What a comparison does. The samples are grids for localisation, single images for all else.

    stride: explain a grid through windows of the network's size at this distance, in pixels; for networks
    that take no other size or, like ViTs, have learnt positions for one size only.
    The metric "checkerboard" is the strongest pattern of all the network's strides. The largest of more
    numbers is larger, by chance alone: so it favours fewer strides, and compares networks that have the same.
    boxes, masks: where the objects for "energy" are, for `read_boxes` and `read_masks`; one of the two.
    Raises InputError for unknown values, and for values that do not go together.
    """

    explainers: tuple[str, ...] = EXPLAINERS
    metrics: tuple[str, ...] = ("localisation",)
    grid: int = 3
    samples: int = 250
    fewer: dict[str, int] = field(default_factory=dict)  # explainer -> samples, for slow explainers
    smooth: int = 1  # pixels, for localisation; published: 15 for ImageNet, 1 for CIFAR-10
    seed: int = 42
    stride: int | None = None
    boxes: Path | None = None
    masks: Path | None = None

    def __post_init__(self) -> None:
        for name, values, known in (
            ("explainer", (*self.explainers, *self.fewer), EXPLAINERS),
            ("metric", self.metrics, METRICS),
        ):
            if unknown := [value for value in values if value not in known]:
                near = closest(unknown[0], known)
                raise InputError(
                    f"no {name} named {', '.join(unknown)}; known: {', '.join(known)}; closest: {near}"
                )
        if min(self.samples, *self.fewer.values(), 1) < 1:
            raise InputError("the number of samples must be 1 or more for each explainer")
        if self.metrics and (idle := [name for name in self.fewer if name not in self.explainers]):
            raise InputError(
                f"fewer samples are set for {', '.join(idle)}, which is not among the explainers; "
                "leave that out"
            )
        if more := [name for name, count in self.fewer.items() if count > self.samples]:
            raise InputError(
                f"{self.fewer[more[0]]} samples of {more[0]} are no fewer than {self.samples}; ask for less, "
                "or raise the number for all"
            )
        alone = [name for name in OF_THE_INHERENT if name in self.metrics]
        if alone and "inherent" not in self.explainers:
            raise InputError(f"the metric {alone[0]} is defined for the explainer inherent alone; add it")
        given = [name for name in ("boxes", "masks") if getattr(self, name) is not None]
        if "energy" in self.metrics and len(given) != 1:
            came = "both boxes and masks" if given else "neither boxes nor masks"
            raise InputError(
                f"metric energy with {came}; say where the objects are with one: --boxes FILE or --masks DIR"
            )
        if given and "energy" not in self.metrics:
            raise InputError(
                f"{given[0]} are of the metric energy; add --metric energy or leave out --{given[0]}"
            )
        if self.stride is not None and "localisation" not in self.metrics:
            raise InputError(
                "--stride belongs to the metric localisation; add it with --metric, or leave out --stride"
            )

    def count(self, explainer: str) -> int:
        return min(self.samples, self.fewer.get(explainer, self.samples))


def parse_counts(texts: Iterable[str]) -> dict[str, int]:
    """Numbers of samples from texts such as "rise=5". Raises InputError for any other text.

    ```python
    from bcos_zoo.evaluate import parse_counts

    assert parse_counts(["rise=5", "lime=2"]) == {"rise": 5, "lime": 2}
    ```
    """
    counts = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not number.isdecimal():
            raise InputError(f"{text!r}: give an explainer and its number of samples, such as rise=5")
        counts[name] = int(number)
    return counts
