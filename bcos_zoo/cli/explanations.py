"""The verbs for images: predict, explain, units, verify."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .choices import FORMATS, PICTURES, TOLERANCE
from .console import (
    BatchSizeOption,
    DeviceOption,
    FolderOption,
    Images,
    JsonOption,
    ModelOption,
    load,
    on_one_line,
    parse_target,
    print_json,
    report,
)

if TYPE_CHECKING:
    from .. import pipeline
    from ..outputs import Outputs
    from ..pipeline.top_images import Unit


def predict(
    paths: Images,
    model: ModelOption = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="How many classes.")] = 5,
    device: DeviceOption = "auto",
    batch_size: BatchSizeOption = 32,
    as_json: JsonOption = False,
) -> None:
    """Classify images."""
    from .. import images, pipeline
    from ..outputs import shown

    sources, errors = images.gather(paths)
    if not sources:
        return _finish({"model": model}, [], errors, as_json)
    name, classifier = load(model, device)
    documents: list[Any] = []
    for path, answer in pipeline.predict_files(classifier, sources, top_k, batch_size=batch_size):
        if isinstance(answer, InputError):
            errors.append(answer)
            continue
        documents.append({"image": str(path), "predictions": [asdict(prediction) for prediction in answer]})
        if not as_json:
            best = ", ".join(f"{prediction.label} {shown(prediction.probability)}" for prediction in answer)
            typer.echo(on_one_line(f"{path}: {best} ({classifier.outputs.kind})"))
    _finish({"model": name, "outputs": classifier.outputs.kind}, documents, errors, as_json)


def explain(
    paths: Images,
    model: ModelOption = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="Class label or index; repeatable.")
    ] = None,
    folder: FolderOption = Path("."),
    picture: Annotated[str, typer.Option("--picture", help=", ".join(PICTURES))] = "figure",
    format_: Annotated[str, typer.Option("--format", help=", ".join(FORMATS))] = "png",
    contrast: Annotated[
        tuple[str, str] | None, typer.Option("--contrast", metavar="A B", help="Explain why A rather than B.")
    ] = None,
    shared_scale: Annotated[
        bool, typer.Option("--shared-scale", help="One colour means the same in all pictures.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="How much of each clip to explain.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", help="Explain a unit of this layer, such as layer3.1.conv2.")
    ] = None,
    unit: Annotated[int | None, typer.Option("--unit", help="Which unit of --layer, from 0.")] = None,
    device: DeviceOption = "auto",
    batch_size: BatchSizeOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Explain images and clips: image, contribution map and colour explanation side by side, or as chosen."""
    from .. import images, pipeline

    if contrast and target:
        raise InputError("--contrast names its two classes itself; leave out --target")
    explained = _unit(layer, unit)
    if explained and (contrast or target):
        raise InputError(f"{explained} is explained in place of a class; leave out --target and --contrast")
    sources, errors = images.gather(paths)
    if not sources:
        return _finish({"model": model}, [], errors, as_json)
    name, classifier = load(model, device)
    pair = (
        (parse_target(classifier, contrast[0]), parse_target(classifier, contrast[1])) if contrast else None
    )
    order = pipeline.RenderOptions(picture, format_, pair, shared_scale, seconds, explained)
    targets = [parse_target(classifier, one) for one in target] if target else None
    documents: list[Any] = []
    answers = pipeline.explain_files(
        classifier, sources, targets, folder, order, model=name, batch_size=batch_size
    )
    for path, answer in answers:
        if isinstance(answer, InputError):
            errors.append(answer)
            continue
        documents.append({"image": str(path)} | asdict(answer) | {"picture": str(answer.picture)})
        if not as_json:
            said = _said(answer, explained, classifier.outputs)
            typer.echo(on_one_line(f"{path}: {said} -> {answer.picture}"))
    _finish({"model": name, "outputs": classifier.outputs.kind}, documents, errors, as_json)


def _finish(
    said: dict[str, str | None], documents: list[Any], errors: list[InputError], as_json: bool
) -> None:
    if as_json:
        print_json(said | {"images": documents, "errors": [str(error) for error in errors]})
    report(errors)


def _unit(layer: str | None, index: int | None) -> Unit | None:
    from ..pipeline.top_images import Unit

    if layer is not None and index is not None:
        return Unit(layer, index)
    if layer is not None or index is not None:
        raise InputError(
            "a unit is named by --layer and --unit; give both, such as --layer layer3.1.conv2 --unit 39"
        )
    return None


def _said(answer: pipeline.Answer, unit: Unit | None, outputs: Outputs) -> str:
    best = answer.predictions[0]
    if unit is None:
        return f"{best.label}, {outputs.said(best.probability)}"
    return f"{unit}, activation {answer.values[0]:.3g}"


def units(
    paths: Images,
    layer: Annotated[str, typer.Option("--layer", help="Such as layer3.1.conv2.")],
    unit: Annotated[int, typer.Option("--unit", help="A channel of the layer's output, from 0.")],
    model: ModelOption = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many images.")] = 9,
    folder: FolderOption = Path("."),
    device: DeviceOption = "auto",
    batch_size: BatchSizeOption = 32,
    as_json: JsonOption = False,
) -> None:
    """Find the images that activate a unit inside the network most, and draw them with what it sees."""
    from .. import pipeline
    from ..pipeline.top_images import Unit

    name, classifier = load(model, device)
    sheet = pipeline.draw_unit(
        classifier, paths, Unit(layer, unit), folder, count=count, batch_size=batch_size
    )
    picture = None if sheet.picture is None else str(sheet.picture)
    if as_json:
        documents = [{"image": str(one.path), "activation": one.value} for one in sheet.found]
        errors = [str(error) for error in sheet.errors]
        print_json(
            {
                "model": name,
                "layer": layer,
                "unit": unit,
                "picture": picture,
                "images": documents,
                "errors": errors,
            }
        )
    for one in sheet.found if not as_json else []:
        typer.echo(on_one_line(f"{one.value:10.4g}  {one.path}"))
    if picture and not as_json:
        typer.echo(f"-> {picture}")
    report(sheet.errors)


def verify_bundle(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What explain --format bundle wrote.")],
    image: Annotated[Path, typer.Argument(help="The image that it explains.")],
    model: Annotated[
        str | None,
        typer.Option("--model", help="Network to recompute with; by default the one that the bundle names."),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", help="Allowed difference, relative to the largest value of an array."),
    ] = TOLERANCE,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Recompute an explanation from its image and network; exit with 2 unless all of it holds."""
    from .. import devices
    from ..pipeline import bundle

    place = devices.choose(device)
    checks = bundle.verify(file, image, model=model, tolerance=tolerance, device=place)
    if as_json:
        print_json([asdict(check) for check in checks])
    for check in checks if not as_json else []:
        typer.echo(f"{'holds' if check.holds else 'FAILS'}  {check.what:14} {check.detail}")
    if failed := [check.what for check in checks if not check.holds]:
        typer.echo(f"error: {file} does not hold for {image}: {', '.join(failed)}", err=True)
        raise typer.Exit(2)
