"""One image: predicted, explained, and as the panels of its picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from .. import images, render
from ..classifier import Classifier, Prediction
from ..explanation import Explanation
from ..targets import Target, Targets, resolve_targets


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
    chosen: list[Prediction]  # the classes that are explained
    titles: list[str]


def explain_image(
    classifier: Classifier, source: str | Path | Image.Image, targets: Targets = None
) -> Explained:
    """Predict, explain and draw one image. Raises InputError for an unreadable one or an unknown target."""
    one = explain_one(classifier, source, targets, None)
    picture = render.figure(one.photograph, one.explanation, titles=one.titles)
    return Explained(one.ranked, one.explanation, picture)


def explain_one(
    classifier: Classifier,
    source: str | Path | Image.Image,
    targets: Targets,
    contrast: tuple[Target, Target] | None,
) -> ImageExplained:
    photograph = images.load_rgb(source)
    explanation = classifier.explain(photograph, targets if contrast is None else list(contrast))
    ranked = classifier.rank(explanation.logits[0], len(classifier.class_names))
    by_index = {prediction.index: prediction for prediction in ranked}
    chosen = [by_index[i] for i in explanation.targets[0].tolist()]
    titles = [f"{prediction.label}, probability {prediction.probability:.3g}" for prediction in chosen]
    if contrast is not None:
        explanation = explanation.contrast(*contrast)
        a, b = (prediction.label for prediction in chosen)
        titles = [f"{a} rather than {b}, by {explanation.logits[0, 0]:+.2f} logits"]
    return ImageExplained(source, classifier.view(photograph), explanation, ranked, chosen, titles)


def rows_of(one: ImageExplained, picture: str, scale: render.Scale | None) -> list[list[render.Panel]]:
    if picture == "figure":
        return render.figure_panels(one.photograph, one.explanation, titles=one.titles, scale=scale)
    if picture == "rgba":
        colours = render.in_colour(one.explanation, scale)[0]
        size = one.photograph.size
        drawn = [render.rgba_image(c).resize(size, Image.Resampling.BICUBIC) for c in colours]
        return [[render.Panel(p, t, title=True) for p, t in zip(drawn, one.titles, strict=True)]]
    on = one.photograph if picture == "overlay" else None
    return render.map_panels(one.explanation, titles=one.titles, on=on, scale=scale)


def check_targets(classifier: Classifier, targets: Targets) -> None:
    """Raise InputError for a class that the network does not know, before any image is opened."""
    if targets is not None:
        resolve_targets(targets, torch.zeros(1, len(classifier.class_names)), classifier.class_names)
