"""The command `bcos-zoo`. A verb parses, calls the library, prints: results on stdout, the rest on stderr."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from . import __version__, bundle, checksums, evaluate, hub, images, pipeline, train, weights, zoo
from .classifier import Classifier, load
from .errors import BcosZooError, InputError
from .posthoc import EXPLAINERS

DEFAULT_MODEL = "bcos_resnet20.cifar10"  # the best embedded checkpoint

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
weights_app = typer.Typer(no_args_is_help=True, help="Work on files of weights.")
app.add_typer(weights_app, name="weights")
out = Console()
err = Console(stderr=True)

Model = Annotated[str, typer.Option("--model", help="A checkpoint, hf-hub:org/name or local-dir:PATH.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Images = Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")]
Folder = Annotated[Path, typer.Option("-o", help="Folder for what is written.")]


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2))


def _report(errors: list[InputError]) -> None:
    """Name every image that could not be used, then leave with exit code 2 if there was one."""
    for error in errors:
        typer.echo(f"error: {error}", err=True)
    if errors:
        raise typer.Exit(2)


@app.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(help="Shell wildcards.")] = "*",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Checkpoints only.")] = False,
    as_json: Json = False,
) -> None:
    """List architectures, or checkpoints."""
    names = zoo.list_models(pattern, pretrained=pretrained)
    if as_json:
        return _print_json(names)
    for name in names:
        typer.echo(name)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="An architecture or a checkpoint.")], as_json: Json = False
) -> None:
    """Show what is known of an architecture and its checkpoints."""
    document = zoo.describe(name)
    if as_json:
        return _print_json(document)
    table = Table(show_header=False, box=None)
    for key, value in document.items():
        table.add_row(key, json.dumps(value) if isinstance(value, (dict, list)) else str(value))
    out.print(table)


@app.command()
def predict(
    paths: Images,
    model: Model = DEFAULT_MODEL,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="How many classes.")] = 5,
    as_json: Json = False,
) -> None:
    """Classify images."""
    sources = images.find_images(paths)
    classifier = load(model)
    documents, errors = [], []
    for path, answer in pipeline.predict_files(classifier, sources, top_k):
        if isinstance(answer, InputError):
            errors.append(answer)
            continue
        documents.append({"image": str(path), "predictions": [asdict(prediction) for prediction in answer]})
        if not as_json:
            best = ", ".join(f"{prediction.label} {prediction.probability:.3g}" for prediction in answer)
            typer.echo(f"{path}: {best}")
    if as_json:
        _print_json({"model": model, "images": documents, "errors": [str(error) for error in errors]})
    _report(errors)


@app.command()
def explain(
    paths: Images,
    model: Model = DEFAULT_MODEL,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="Class label or index; give it again for more.")
    ] = None,
    folder: Folder = Path("."),
    picture: Annotated[str, typer.Option("--picture", help=", ".join(pipeline.PICTURES))] = "figure",
    format_: Annotated[str, typer.Option("--format", help=", ".join(pipeline.FORMATS))] = "png",
    contrast: Annotated[
        tuple[str, str] | None, typer.Option("--contrast", metavar="A B", help="Why A rather than B.")
    ] = None,
    shared_scale: Annotated[
        bool, typer.Option("--shared-scale", help="One colour means the same in all pictures.")
    ] = False,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Of clips: how much.")] = None,
    as_json: Json = False,
) -> None:
    """Explain images and clips: image, contribution map and colour explanation side by side, or as chosen."""
    if contrast and target:
        raise InputError("--contrast names its two classes itself; leave out --target")
    sources = images.find_images(paths)
    classifier = load(model)
    pair = (_target(classifier, contrast[0]), _target(classifier, contrast[1])) if contrast else None
    order = pipeline.Order(picture, format_, pair, shared_scale, seconds)
    targets = [_target(classifier, one) for one in target] if target else None
    pipeline.check_targets(classifier, list(pair) if pair else targets)
    documents, errors = [], []
    for path, answer in pipeline.explain_files(classifier, sources, targets, folder, order, model=model):
        if isinstance(answer, InputError):
            errors.append(answer)
            continue
        documents.append({"image": str(path)} | asdict(answer) | {"picture": str(answer.picture)})
        if not as_json:
            best = answer.predictions[0]
            typer.echo(f"{path}: {best.label}, probability {best.probability:.3g} -> {answer.picture}")
    if as_json:
        _print_json({"model": model, "images": documents, "errors": [str(error) for error in errors]})
    _report(errors)


@app.command("verify")
def verify_bundle(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What explain --format bundle wrote.")],
    image: Annotated[Path, typer.Argument(help="The image it should be of.")],
    model: Annotated[
        str | None, typer.Option("--model", help="To recompute with; by default the one it names.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Relative to the largest value of an array.")
    ] = bundle.TOLERANCE,
    as_json: Json = False,
) -> None:
    """Recompute an explanation from its image and network; exit with 2 unless all of it holds."""
    checks = bundle.verify(file, image, model=model, tolerance=tolerance)
    if as_json:
        _print_json([asdict(check) for check in checks])
    for check in checks if not as_json else []:
        typer.echo(f"{'holds' if check.holds else 'FAILS'}  {check.what:14} {check.detail}")
    if failed := [check.what for check in checks if not check.holds]:
        typer.echo(f"error: {file} does not hold for {image}: {', '.join(failed)}", err=True)
        raise typer.Exit(2)


def _target(classifier: Classifier, text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() and text not in classifier.class_names else text


@app.command("train")
def train_(
    config: Annotated[Path, typer.Argument(help="A TOML file, such as those in configs/.")],
    data: Annotated[Path, typer.Argument(help="Folder with train/<class>/ and val/<class>/.")],
    folder: Folder = Path("runs/train"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
) -> None:
    """Train a network from nothing."""
    written = train.train(
        train.read_config(config), data, folder, resume=resume, log=lambda line: typer.echo(line, err=True)
    )
    typer.echo(written)


@app.command("evaluate")
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
            return _print_json({"model": model, "data": str(data)} | asdict(result))
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
        return _print_json({"model": model, "data": str(data), "folder": str(folder), "summary": summary})
    table = Table("metric", "explainer", "samples", "maps", "mean", "p25", "median", "p75", box=None)
    for line in summary:
        scores = [f"{line[key]:.3f}" for key in ("mean", "p25", "p50", "p75")]
        table.add_row(line["metric"], line["explainer"], str(line["samples"]), str(line["maps"]), *scores)
    out.print(table)


Sample = Annotated[Path | None, typer.Option("--sample", help="Photograph of the card's explanation.")]


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="NAME", help="What --model takes elsewhere.")],
    folder: Annotated[Path, typer.Option("-o", help="Folder to write.")],
    format_: Annotated[str, typer.Option("--format", help="hf: as the Hugging Face Hub has models.")] = "hf",
    sample: Sample = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write a checkpoint as a folder: weights, config, model card with a sample explanation."""
    if format_ != "hf":
        raise InputError(f"--format {format_}: allowed is hf")
    typer.echo(hub.export(model, folder, sample=sample, force=force))


@app.command()
def push(
    model: Annotated[str, typer.Argument(metavar="NAME", help="What --model takes elsewhere.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="organisation/name")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch; made if missing.")] = None,
    sample: Sample = None,
) -> None:
    """Upload a checkpoint to the Hugging Face Hub, as `export` writes it."""
    typer.echo(hub.push_to_hub(model, repo_id, private=private or None, revision=revision, sample=sample))


Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Checkpoints, or architectures.")]
Some = Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Checkpoints, or architectures.")]
CacheDir = Annotated[Path | None, typer.Option("--cache-dir", help="Another cache than the usual ones.")]


@weights_app.command()
def fetch(names: Names, cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """Download the files of checkpoints, unless they are there, and verify them."""
    records = [zoo.find_checkpoint(name) for name in names]
    files = {record.name: str(weights.fetch(record, cache_dir)) for record in records}
    if as_json:
        return _print_json(files)
    for file in files.values():
        typer.echo(file)


@weights_app.command()
def path(names: Names, cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """Say where the files of checkpoints are, or would be after a download."""
    records = [zoo.find_checkpoint(name) for name in names]
    files = {record.name: str(weights.location(record, cache_dir)) for record in records}
    if as_json:
        return _print_json(files)
    for file in files.values():
        typer.echo(file)


@weights_app.command()
def verify(names: Some = None, cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """Hash the files that are here, of all checkpoints or of some; exit with 2 if one is bad."""
    records = [zoo.find_checkpoint(name) for name in names] if names else weights.cached(cache_dir)
    verdicts = list(weights.verify(records, cache_dir))
    wanted = ("ok",) if names else ("ok", "missing")  # one of them may go meanwhile
    bad = [verdict for verdict in verdicts if verdict.state not in wanted]
    if as_json:
        _print_json([asdict(verdict) | {"path": str(verdict.path)} for verdict in verdicts])
    else:
        _print_verdicts(verdicts)
    if bad:
        typer.echo(
            f"error: of {len(verdicts)} files {len(bad)} are not as they should be "
            f"({', '.join(verdict.name for verdict in bad)}); `bcos-zoo weights fetch` gets them anew",
            err=True,
        )
        raise typer.Exit(2)


def _print_verdicts(verdicts: list[weights.Verdict]) -> None:
    for verdict in verdicts:
        hashes = f"expected {verdict.expected}, got {verdict.sha256}" if verdict.state == "bad" else ""
        typer.echo(
            f"{verdict.state:12} {_size(verdict.bytes)}  {verdict.name}  {verdict.path or ''}  {hashes}"
        )


def _size(count: int | None) -> str:
    return "-".rjust(11) if count is None else f"{count / 1e6:8.1f} MB"


@weights_app.command("list")
def list_weights(
    cached: Annotated[bool, typer.Option("--cached", help="Only those whose files are here.")] = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """List the checkpoints, with the sizes of the files that are here."""
    here = {record.name: weights.location(record, cache_dir) for record in weights.cached(cache_dir)}
    sizes = {name: file.stat().st_size for name, file in here.items()}
    names = list(here) if cached else zoo.list_models(pretrained=True)
    if as_json:
        files = {name: str(file) for name, file in here.items()}
        return _print_json([{"name": n, "bytes": sizes.get(n), "file": files.get(n)} for n in names])
    for name in names:
        typer.echo(f"{_size(sizes.get(name))}  {name}")


@weights_app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="As published: .safetensors, or .pth, .pkl, .ckpt.")
    ],
    name: Annotated[
        str, typer.Option("--to", metavar="NAME", help="The checkpoint, or architecture, it is of.")
    ],
    target: Annotated[
        Path, typer.Option("-o", help="File or folder to write; NAME.safetensors if not given.")
    ] = Path("."),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Turn a published file, in whatever layout it has its weights, into a .safetensors file of our own."""
    path = zoo.convert(source, name, target, force=force)
    if as_json:
        document = {"name": name, "source": str(source), "file": str(path), "sha256": checksums.sha256(path)}
        return _print_json(document | {"bytes": path.stat().st_size})
    typer.echo(path)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit code: 0, or 2 with one `error:` line for bad input or usage."""
    try:
        code = app(arguments, standalone_mode=False)
    except BcosZooError as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    except typer.exceptions.TyperException as error:
        if message := error.format_message():  # none where no command was given: then help was printed
            typer.echo(f"error: {message}; see bcos-zoo --help", err=True)
        return 2
    except typer.Abort:
        return 130
    return int(code or 0)


def main() -> None:
    sys.exit(run())
