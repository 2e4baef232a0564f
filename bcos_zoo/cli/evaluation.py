"""The verb that measures networks and their explanations: evaluate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .choices import EXPLAINERS, METRICS
from .console import BatchSize, Device, Json, Model, load, print_json

if TYPE_CHECKING:
    from rich.table import Table


def evaluate_(
    data: Annotated[
        Path,
        typer.Argument(help="Folder with a sub-folder of images for each class, unless boxes name them."),
    ],
    model: Model = None,
    device: Device = "auto",
    batch_size: BatchSize = 250,
    as_json: Json = False,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help=f"accuracy, or of explanations: {', '.join(METRICS)}."),
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
    stride: Annotated[
        int | None,
        typer.Option(
            "--stride", min=1, help="See grids through windows of the network's size, for ViTs; pixels."
        ),
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option("--boxes", help="Of energy: CSV (image,x0,y0,x1,y1,label) or COCO JSON.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option("--masks", help="Of energy: folder of a PNG an image, not zero is object.")
    ] = None,
    folder: Annotated[Path, typer.Option("-o", help="Folder of the run; continued if it is there.")] = Path(
        "runs/evaluate"
    ),
) -> None:
    """Measure accuracy, or explanations beside those of other methods, on a folder of labelled images."""
    from rich.console import Console
    from rich.progress import Progress

    from .. import evaluate
    from ..training import machine

    wanted = metric or ["accuracy"]
    explained = tuple(one for one in wanted if one != "accuracy")
    settings = evaluate.Settings(
        explainers=tuple(explainer or EXPLAINERS), metrics=explained, grid=grid, samples=samples,
        fewer=evaluate.parse_counts(fewer or []), smooth=smooth, seed=seed, stride=stride, boxes=boxes,
        masks=masks,
    )  # fmt: skip
    name, classifier = load(model, device)
    document: dict[str, Any] = {"model": name, "data": str(data)}
    summary: list[dict[str, Any]] = []
    if explained:
        progress = Progress(console=Console(stderr=True))
        summary = evaluate.run(classifier, data, folder, settings, batch_size=batch_size, progress=progress)
        document |= {"folder": str(folder), "summary": evaluate.for_json(summary)}
    if not machine.is_main():  # one table is enough
        return None
    accuracy = evaluate.evaluate(classifier, data, batch_size=batch_size) if "accuracy" in wanted else None
    if as_json:
        return print_json(document | (asdict(accuracy) if accuracy else {}))
    if accuracy is not None:
        typer.echo(
            f"{name} on {accuracy.images} images: top-1 {accuracy.top1:.2f} %, top-5 {accuracy.top5:.2f} %, "
            f"calibration error {accuracy.calibration_error:.3f}, Brier score {accuracy.brier_score:.3f}"
        )
    if explained:
        Console().print(_table(summary))


def _table(summary: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    scores = {"mean": "mean", "p25": "p25", "p50": "median", "p75": "p75", "chance": "chance"}
    table = Table("metric", "explainer", "samples", "maps", *scores.values(), box=None)
    for line in summary:
        cells = [f"{line[key]:.3f}" if key in line else "" for key in scores]
        table.add_row(line["metric"], line["explainer"], str(line["samples"]), str(line["maps"]), *cells)
    return table
