"""Which options of a verb work only together with others: one that would change nothing is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from typer.core import TyperCommand

from ..errors import InputError
from .choices import METRICS, PREDICTIONS

Values = Mapping[str, Any]  # the values of all parameters of a verb, by name


@dataclass(frozen=True)
class Needs:
    """When an option has an effect. said: the condition, and what to do if it does not hold."""

    works: Callable[[Values], bool]
    said: str


def _measures(*metrics: str) -> Callable[[Values], bool]:
    def works(given: Values) -> bool:
        wanted = set(given["metric"] or ["accuracy"])
        misspelt = wanted - {*METRICS, *PREDICTIONS}  # which the verb itself will name
        return bool(misspelt or wanted & set(metrics))

    return works


EXPLAINED = Needs(_measures(*METRICS), "metrics of explanations; add one with --metric, such as localisation")
GRIDS = Needs(_measures("localisation"), "the metric localisation; add it with --metric")
BEGUN = "a run goes on as its recipe.toml says"
NEEDS: dict[str, dict[str, Needs]] = {
    "evaluate": {
        "--explainer": EXPLAINED,
        "--samples": EXPLAINED,
        "--fewer": EXPLAINED,
        "--grid": GRIDS,
        "--smooth": GRIDS,
        "--stride": GRIDS,
        "--boxes": Needs(_measures("energy"), "the metric energy; add it with --metric"),
        "--masks": Needs(_measures("energy"), "the metric energy; add it with --metric"),
        "--seed": Needs(
            lambda given: EXPLAINED.works(given) or given.get("confidence") is not None,
            "metrics of explanations and to intervals; add one with --metric, or --confidence 0.95",
        ),
    },
    "finetune": {
        "--train": Needs(lambda given: not given["resume"], f"new runs only: with --resume, {BEGUN}"),
        "--model": Needs(
            lambda given: not given["resume"] or given["folder"] is None,  # then it tells which folder
            f"new runs only: with --resume and -o, {BEGUN}",
        ),
    },
    "explain": {
        "--seconds": Needs(
            lambda given: any(map(_is_clip, given["paths"])), "clips, and none is given; name one"
        ),
    },
}  # fmt: skip
TRAINING = frozenset(
    {
        *("-o", "--set", "--device", "--epochs", "--minutes", "--lr", "--batch-size"),
        "--group",
        *("--resume", "--dry-run", "--json"),
    }
)
ALWAYS: dict[str, frozenset[str]] = {  # always have an effect, or are refused by the verb itself
    "list": frozenset({"--pretrained", "--json"}),
    "info": frozenset({"--json"}),
    "predict": frozenset({"--model", "--top-k", "--device", "--batch-size", "--json"}),
    "explain": frozenset(
        {
            *(
                "--model",
                "--target",
                "-o",
                "--picture",
                "--format",
                "--contrast",
                "--shared-scale",
                "--layer",
            ),
            *("--unit", "--device", "--batch-size", "--json"),
        }
    ),
    "units": frozenset(
        {"--layer", "--unit", "--model", "--count", "-o", "--device", "--batch-size", "--json"}
    ),
    "verify": frozenset({"--model", "--tolerance", "--device", "--json"}),
    "finetune": TRAINING,
    "train": TRAINING | {"--teacher", "--labels"},
    "bcosify": TRAINING | {"--labels", "--b"},
    "evaluate": frozenset(
        {
            *("--model", "--device", "--batch-size", "--json", "--metric", "-o"),
            *("--specificity", "--confidence", "--resamples", "--group"),
        }
    ),
    "export": frozenset({"-o", "--format", "--sample", "--force"}),
    "push": frozenset({"--private", "--revision", "--sample"}),
    "weights fetch": frozenset({"--cache-dir", "--json"}),
    "weights path": frozenset({"--cache-dir", "--json"}),
    "weights verify": frozenset({"--cache-dir", "--json"}),
    "weights list": frozenset({"--cached", "--cache-dir", "--json"}),
    "weights convert": frozenset({"--to", "--take", "-o", "--force", "--json"}),
}


class Verb(TyperCommand):
    """A verb that refuses, before it begins, options that it was given and would not use."""

    def invoke(self, ctx: Any) -> Any:
        for parameter in self.params:
            source = getattr(ctx.get_parameter_source(parameter.name), "name", "")  # an enum from click
            need = NEEDS.get(self.name or "", {}).get(parameter.opts[0])
            if source == "COMMANDLINE" and need is not None and not need.works(ctx.params):
                raise InputError(
                    f"{parameter.opts[0]} applies to {need.said}, or leave out {parameter.opts[0]}"
                )
        return super().invoke(ctx)


def _is_clip(path: Any) -> bool:
    from ..pipeline import clips

    return clips.is_clip(path)
