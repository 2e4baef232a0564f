"""One image: its predictions, its explanation, and the panels of its picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .. import images
from ..classifier import Classifier, Prediction
from ..errors import InputError
from ..explanations.explanation import Explanation
from ..explanations.targets import Targets, resolve_targets
from ..explanations.units import activations, explain_unit
from ..files import as_text
from ..outputs import shown
from ..pictures import panels
from .paths import attempt
from .render_options import RenderOptions
from .top_images import Unit


@dataclass(frozen=True)
class Explained:
    """What `explain_image` makes of one image."""

    predictions: list[Prediction]
    explanation: Explanation
    picture: Image.Image


@dataclass(frozen=True)
class ImageExplained:
    """One image on its way from file to picture."""

    source: str | Path | Image.Image
    photograph: Image.Image
    explanation: Explanation
    ranked: list[Prediction]
    titles: list[str]  # what is explained, in words
    short: list[str]  # the same, for small pictures


def explain_image(
    classifier: Classifier, source: str | Path | Image.Image, targets: Targets = None
) -> Explained:
    """Predict, explain and draw one image. Raises InputError for an unreadable one or an unknown target."""
    one = explain_one(classifier, source, targets, RenderOptions())
    picture = panels.figure(one.photograph, one.explanation, titles=one.titles)
    return Explained(one.ranked, one.explanation, picture)


def explain_one(
    classifier: Classifier, source: str | Path | Image.Image, targets: Targets, options: RenderOptions
) -> ImageExplained:
    """Explain the targets, or the contrast or unit of the options, in one image."""
    (one,) = explain_several(classifier, [source], targets, options)
    if isinstance(one, InputError):
        raise one
    return one


def explain_several(
    classifier: Classifier,
    sources: Sequence[str | Path | Image.Image],
    targets: Targets,
    options: RenderOptions,
) -> list[ImageExplained | InputError]:
    """`explain_one` for each, all at once in the network; an unreadable image gives an error in its place."""
    found: dict[int, ImageExplained | InputError] = {}
    opened: list[tuple[int, Image.Image, Tensor]] = []
    for place, source in enumerate(sources):
        one = attempt(source, partial(_open, classifier, source))
        if isinstance(one, InputError):
            found[place] = one
        else:
            opened.append((place, *one))
    if not opened:
        return list(found.values())
    x = torch.cat([pixels for _, _, pixels in opened])
    logits = None
    if options.unit is not None:
        explanation = explain_unit(classifier.model, x, options.unit.layer, options.unit.index)
        explanation = replace(
            explanation, smooth=classifier.head.smooth, percentile=classifier.head.percentile
        )
        with torch.inference_mode():
            logits = classifier.logits(x)
    else:
        explanation = classifier.head(x, targets if options.contrast is None else list(options.contrast))
    for i, (place, photograph, _) in enumerate(opened):
        found[place] = _described(
            classifier, sources[place], photograph, explanation.of_image(i),
            explanation.logits[i] if logits is None else logits[i], options,
        )  # fmt: skip
    return [found[place] for place in range(len(sources))]


def _open(classifier: Classifier, source: str | Path | Image.Image) -> tuple[Image.Image, Tensor]:
    photograph = images.load_rgb(source)
    return photograph, classifier.preprocess(photograph)


def _described(
    classifier: Classifier,
    source: str | Path | Image.Image,
    photograph: Image.Image,
    explanation: Explanation,
    logits: Tensor,
    options: RenderOptions,
) -> ImageExplained:
    """The explanation of one image in words. logits: (C,) of the classes, whatever is explained."""
    view, count = classifier.view(photograph), len(classifier.class_names)
    if options.unit is not None:
        short = [f"activation {float(explanation.logits):.3g}"]
        titles = [f"{options.unit}, {short[0]}"]
        ranked = classifier.rank(logits, count)
        return ImageExplained(source, view, explanation, ranked, titles, short)
    ranked = classifier.rank(logits, count)
    by_index = {prediction.index: prediction for prediction in ranked}
    chosen = [by_index[i] for i in explanation.targets[0].tolist()]
    outputs = classifier.outputs
    titles = [f"{prediction.label}, {outputs.said(prediction.probability)}" for prediction in chosen]
    short = [f"{prediction.label} {shown(prediction.probability)}" for prediction in chosen]
    if options.contrast is not None:
        explanation = explanation.contrast(*options.contrast)
        a, b = (prediction.label for prediction in chosen)
        titles = [f"{a} rather than {b}, by {explanation.logits[0, 0]:+.2f} logits"]
    return ImageExplained(source, view, explanation, ranked, titles, short)


def rows_of(one: ImageExplained, picture: str, scale: panels.Scale | None) -> list[list[panels.Panel]]:
    explanation, titles = one.explanation, one.titles
    if picture == "figure":
        return panels.figure_panels(one.photograph, explanation, titles=titles, scale=scale)
    if picture == "rgba":
        colours = panels.in_colour(explanation, scale)[0]
        size = one.photograph.size
        drawn = [panels.rgba_image(c).resize(size, Image.Resampling.BICUBIC) for c in colours]
        return [[panels.Panel(p, t, title=True) for p, t in zip(drawn, titles, strict=True)]]
    on = one.photograph if picture == "overlay" else None
    return panels.map_panels(explanation, titles=titles, on=on, scale=scale)


def sheet_row(one: ImageExplained, name: str, scale: panels.Scale | None) -> list[panels.Panel]:
    """An image's row on a contact sheet."""
    titles = one.short
    return panels.sheet_panels(
        one.photograph, one.explanation, name=as_text(name), titles=titles, scale=scale
    )


def check_targets(classifier: Classifier, targets: Targets, unit: Unit | None = None) -> None:
    """Raise InputError, before any image is opened, for a class or unit that the network does not have.

    Also if both are given: only one of them can be explained.
    """
    if targets is not None:
        if unit is not None:
            raise InputError(f"targets are classes, {unit} is a unit; explain one of both")
        resolve_targets(targets, torch.zeros(1, len(classifier.class_names)), classifier.class_names)
    if unit is not None:
        height, width = classifier.input_size
        black = classifier.preprocess(Image.new("RGB", (width, height)))
        activations(classifier.model, black, unit.layer, unit.index)
