"""The verb that measures networks and their explanations: evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .choices import EXPLAINERS, METRICS, PREDICTIONS
from .console import BatchSizeOption, DeviceOption, JsonOption, ModelOption, console, load, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from ..evaluate import Asked, Score


def evaluate_(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with a sub-folder of images for each class, unless boxes name them; for predictions "
            "a CSV too."
        ),
    ],
    model: ModelOption = None,
    device: DeviceOption = "auto",
    batch_size: BatchSizeOption = 250,
    as_json: JsonOption = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help=f"{', '.join(PREDICTIONS)}; or for explanations: {', '.join(METRICS)}."
        ),
    ] = None,
    specificity: Annotated[
        float | None,
        typer.Option("--specificity", help="Specificity for the metric sensitivity; 0.95 if not given."),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option("--confidence", help="Add bootstrap intervals, at 0.95 for example."),
    ] = None,
    resamples: Annotated[
        int | None, typer.Option("--resamples", min=1, help="How many for the bootstrap; 1000 if not given.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            help="What the bootstrap draws, such as patients: a column of the CSV, or a pattern for paths.",
        ),
    ] = None,
    explainer: Annotated[
        list[str] | None, typer.Option("--explainer", help=f"{', '.join(EXPLAINERS)}; all if not given.")
    ] = None,
    grid: Annotated[int, typer.Option("--grid", min=2, help="Cells per side in the grid pointing game.")] = 3,
    samples: Annotated[int, typer.Option("--samples", min=1, help="How many grids, or images.")] = 250,
    fewer: Annotated[
        list[str] | None,
        typer.Option("--fewer", metavar="EXPLAINER=N", help="Samples for one slow explainer."),
    ] = None,
    smooth: Annotated[int, typer.Option("--smooth", min=0, help="Smoothing of the maps, pixels.")] = 1,
    seed: Annotated[int, typer.Option("--seed")] = 42,
    stride: Annotated[
        int | None,
        typer.Option(
            "--stride",
            min=1,
            help="See grids through a sliding window of the network's size; pixels per step, for ViTs.",
        ),
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option("--boxes", help="For energy: CSV (image,x0,y0,x1,y1,label) or COCO JSON.")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option("--masks", help="For energy: folder of PNG masks, one per image, 0 outside."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "-o",
            help="Folder for predictions.json, or for a run on explanations, which is continued if it is "
            "there; by default no predictions.json, and runs/evaluate for explanations.",
        ),
    ] = None,
) -> None:
    """Measure accuracy, or explanations against those of other methods, on a folder of labelled images."""
    from rich.progress import Progress

    from .. import evaluate
    from ..training import runtime

    wanted = metric or ["accuracy"]
    explained = tuple(one for one in wanted if one not in PREDICTIONS)
    predicted = tuple(one for one in wanted if one in PREDICTIONS)
    pattern = None if data.is_file() else group  # in a CSV it always counts: a group's column is no class
    asked = _asked(predicted, specificity, confidence, resamples, pattern, seed)
    settings = evaluate.Settings(
        explainers=tuple(explainer or EXPLAINERS), metrics=explained, grid=grid, samples=samples,
        fewer=evaluate.parse_counts(fewer or []), smooth=smooth, seed=seed, stride=stride, boxes=boxes,
        masks=masks,
    )  # fmt: skip
    name, classifier = load(model, device)
    document: dict[str, Any] = {"model": name, "data": str(data)}
    summary: list[dict[str, Any]] = []
    if explained:
        folder = folder or Path("runs/evaluate")
        progress = Progress(console=console(stderr=True))
        summary = evaluate.run(classifier, data, folder, settings, batch_size=batch_size, progress=progress)
        document |= {"folder": str(folder), "summary": evaluate.for_json(summary)}
    if not runtime.is_main():  # one process prints for all
        return None
    if predicted:
        found = evaluate.measure(classifier, data, asked, group=group, batch_size=batch_size)
        document |= found.document()
        if not as_json:
            for line in found.lines(name):
                typer.echo(line)
    if as_json:
        print_json(document)
    if predicted and found.scores and not as_json:
        console().print(_scores(found.scores, asked))
    if explained and not as_json:
        console().print(_table(summary))
    if predicted and folder is not None:  # last: results are printed even if this fails
        _keep({"model": name, "data": str(data)} | found.document(), folder)
    return None


def _keep(document: dict[str, Any], folder: Path) -> None:
    """Write the measures of predictions into the folder of those of explanations, whole or not at all."""
    from ..files import replacing, writing

    path = folder / "predictions.json"
    with writing(path, "give another folder with -o"), replacing(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _asked(
    predicted: tuple[str, ...],
    specificity: float | None,
    confidence: float | None,
    resamples: int | None,
    group: str | None,
    seed: int,
) -> Asked:
    """What to measure of predictions. Raises InputError for options that would change nothing."""
    from ..evaluate import RESAMPLES, SPECIFICITY, Asked

    given = {"--resamples": resamples, "--group": group}
    if specificity is not None and "sensitivity" not in predicted:
        raise InputError(
            "--specificity belongs to the metric sensitivity; add --metric sensitivity, or leave it out"
        )
    if confidence is not None and not predicted:
        raise InputError(
            f"--confidence belongs to the metrics {', '.join(PREDICTIONS)}; add one with --metric"
        )
    if useless := [name for name, value in given.items() if value is not None and confidence is None]:
        raise InputError(
            f"{useless[0]} belongs to confidence intervals; add --confidence 0.95, or leave it out"
        )
    return Asked(
        predicted,
        SPECIFICITY if specificity is None else specificity,
        confidence,
        RESAMPLES if resamples is None else resamples,
        seed,
    )


def _scores(scores: list[Score], asked: Asked) -> Table:
    """A row for the mean over classes, and one for each class."""
    from rich.table import Table
    from rich.text import Text

    from ..evaluate import RANKED

    interval = [] if asked.confidence is None else [f"{100 * asked.confidence:g} % interval"]
    table = Table("metric", "class", "score", *interval, "", box=None)
    for one in scores:
        name = one.metric
        written = ".3f" if name in RANKED else ".2f"
        unit = "" if name in RANKED else " %"
        value = "undefined" if one.value is None else f"{one.value:{written}}{unit}"
        span = "" if one.low is None else f"{one.low:{written}} to {one.high:{written}}{unit}"
        if name == "sensitivity":
            name += f" at specificity {asked.specificity:g}"
        cells = [name, "all" if one.label is None else one.label, value, *([span] if interval else [])]
        table.add_row(*map(Text, cells), Text(one.undefined or ""))
    return table


def _table(summary: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    scores = {"mean": "mean", "p25": "p25", "p50": "median", "p75": "p75", "chance": "chance"}
    table = Table("metric", "explainer", "samples", "maps", *scores.values(), box=None)
    for line in summary:
        cells = [f"{line[key]:.3f}" if key in line else "" for key in scores]
        table.add_row(line["metric"], line["explainer"], str(line["samples"]), str(line["maps"]), *cells)
    return table
