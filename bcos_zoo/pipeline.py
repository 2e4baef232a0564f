"""From image file to picture, hop by hop; the command line and the web page compose the same functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from . import images, render
from .classifier import Classifier, Prediction
from .errors import InputError
from .explanation import Explanation
from .files import replacing
from .targets import Targets, resolve_targets


@dataclass(frozen=True)
class Explained:
    """What `explain_image` makes of one image."""

    predictions: list[Prediction]
    explanation: Explanation
    picture: Image.Image


def explain_image(
    classifier: Classifier, source: str | Path | Image.Image, targets: Targets = None
) -> Explained:
    """Predict, explain and draw one image. Raises InputError for an unreadable one or an unknown target."""
    photograph = images.load_rgb(source)
    explanation = classifier.explain(photograph, targets)
    logits = explanation.logits[0]
    ranked = classifier.rank(logits, len(classifier.class_names))
    by_index = {prediction.index: prediction for prediction in ranked}
    chosen = [by_index[i] for i in explanation.targets[0].tolist()]
    titles = [f"{prediction.label}, probability {prediction.probability:.3g}" for prediction in chosen]
    picture = render.figure(classifier.view(photograph), explanation, titles=titles)
    return Explained(ranked, explanation, picture)


def save_picture(picture: Image.Image, path: Path) -> Path:
    """Write a PNG, whole or not at all. Raises InputError if the place cannot be written."""
    try:
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror or error}; give another folder with -o"
        ) from error
    return path


def picture_paths(sources: Sequence[Path], folder: Path) -> list[Path]:
    """`folder/NAME.explained.png` for each source, numbered where two sources share a name."""
    used: set[Path] = set()
    paths = []
    for source in sources:
        path, n = folder / f"{source.stem}.explained.png", 2
        while path in used:
            path, n = folder / f"{source.stem}.{n}.explained.png", n + 1
        used.add(path)
        paths.append(path)
    return paths


def predict_files(
    classifier: Classifier, sources: Iterable[Path], top_k: int
) -> Iterator[tuple[Path, list[Prediction] | InputError]]:
    """Predictions of each file, or why it could not be read: one bad file does not stop the others."""
    for source in sources:
        try:
            yield source, classifier.predict(source, top_k)
        except InputError as error:
            yield source, error


def explain_files(
    classifier: Classifier, sources: Sequence[Path], targets: Targets, folder: Path
) -> Iterator[tuple[Path, tuple[Explained, Path] | InputError]]:
    """Explain each file and save its picture, or say why not: one bad file does not stop the others."""
    for source, path in zip(sources, picture_paths(sources, folder), strict=True):
        try:
            explained = explain_image(classifier, source, targets)
        except InputError as error:
            yield source, error
        else:
            yield source, (explained, save_picture(explained.picture, path))


def check_targets(classifier: Classifier, targets: Targets) -> None:
    """Raise InputError for a class that the network does not know, before any image is opened."""
    if targets is not None:
        resolve_targets(targets, torch.zeros(1, len(classifier.class_names)), classifier.class_names)
