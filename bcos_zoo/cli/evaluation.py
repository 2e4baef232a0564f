"""The verb that measures networks and their explanations: evaluate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from .. import evaluate
from ..classifier import load
from ..posthoc import EXPLAINERS
from .console import DEFAULT_MODEL, Json, Model, err, out, print_json


def evaluate_(
    data: Annotated[Path, typer.Argument(help="Folder with a sub-folder of images for each class.")],
    model: Model = DEFAULT_MODEL,
    as_json: Json = False,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help=f"accuracy, or of explanations: {', '.join(evaluate.METRICS)}."),
    ] = None,
    explainer: Annotated[
        list[str] | None, typer.Option("--explainer", help=f"{', '.join(EXPLAINERS)}; all if not given.")
    ] = None,
    grid: Annotated[int, typer.Option("--grid", min=2, help="Cells a side of the grid pointing game.")] = 3,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Grids, or images.")] = 250,
    fewer: Annotated[
        list[str] | None, typer.Option("--fewer", metavar="EXPLAINER=N", help="Samples of a slow one.")
    ] = None,
    smooth: Annotated[int, typer.Option("--smooth", min=0, help="Window of the maps, pixels.")] = 1,
    seed: Annotated[int, typer.Option("--seed")] = 42,
    folder: Annotated[Path, typer.Option("-o", help="Folder of the run; continued if it is there.")] = Path(
        "runs/evaluate"
    ),
) -> None:
    """Measure accuracy, or explanations beside those of other methods, on a folder of labelled images."""
    wanted = metric or ["accuracy"]
    if wanted == ["accuracy"]:
        result = evaluate.evaluate(load(model), data)
        if as_json:
            return print_json({"model": model, "data": str(data)} | asdict(result))
        return typer.echo(
            f"{model} on {result.images} images: top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %, "
            f"calibration error {result.calibration_error:.3f}, Brier score {result.brier_score:.3f}"
        )
    settings = evaluate.Settings(
        explainers=tuple(explainer or EXPLAINERS), metrics=tuple(wanted), grid=grid, samples=samples,
        fewer=evaluate.parse_counts(fewer or []), smooth=smooth, seed=seed,
    )  # fmt: skip
    summary = evaluate.run(load(model), data, folder, settings, progress=Progress(console=err))
    if as_json:
        return print_json({"model": model, "data": str(data), "folder": str(folder), "summary": summary})
    table = Table("metric", "explainer", "samples", "maps", "mean", "p25", "median", "p75", box=None)
    for line in summary:
        scores = [f"{line[key]:.3f}" for key in ("mean", "p25", "p50", "p75")]
        table.add_row(line["metric"], line["explainer"], str(line["samples"]), str(line["maps"]), *scores)
    out.print(table)
