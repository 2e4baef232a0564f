"""From image file to picture, hop by hop; the command line and the web page compose the same functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from . import bundle, images, render, report, vector, video, zoo
from .classifier import Classifier, Prediction
from .configs import ELSEWHERE
from .errors import InputError
from .explanation import Explanation
from .files import replacing
from .targets import Target, Targets, resolve_targets

PICTURES = ("figure", "rgba", "map", "overlay", "sheet")
FORMATS = ("png", *vector.FORMATS, "npz", "bundle", "html")
ENDINGS = {"bundle": "bundle.zip"}  # of a format that is not its own ending
MOST_IN_A_SHEET = 400


@dataclass(frozen=True)
class Explained:
    """What `explain_image` makes of one image."""

    predictions: list[Prediction]
    explanation: Explanation
    picture: Image.Image


@dataclass(frozen=True)
class Order:
    """What is to be made of explained images.

    picture: figure (photograph, contribution map and W(x) side by side, a row a target), rgba (W(x),
    transparent), map (of contributions), overlay (the map on the photograph), sheet (one of all images).
    format: of each picture; or npz (arrays), bundle (arrays with their origins), html (one page of all).
    contrast: two classes, of which the first rather than the second is explained.
    shared_scale: whether one colour means the same in all pictures. seconds: of clips, how much.
    Raises InputError for what is not among these, or does not go together.
    """

    picture: str = "figure"
    format: str = "png"
    contrast: tuple[Target, Target] | None = None
    shared_scale: bool = False
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, given, allowed in (("picture", self.picture, PICTURES), ("format", self.format, FORMATS)):
            if given not in allowed:
                raise InputError(f"{name} {given!r}: allowed are {', '.join(allowed)}")
        drawn = self.format in ("png", *vector.FORMATS)
        if not drawn and (self.picture != "figure" or self.contrast and self.format != "npz"):
            what = "contrast" if self.contrast else f"picture {self.picture}"
            raise InputError(f"format {self.format} has no {what}; take png, svg or pdf for it")
        if self.picture == "sheet" and self.contrast:
            raise InputError("a sheet shows the predicted classes, no contrast; take picture figure")
        if self.shared_scale and self.format in ("npz", "bundle"):
            raise InputError(
                f"format {self.format} has numbers, no scale of colours; leave out --shared-scale"
            )
        if self.contrast and self.contrast[0] == self.contrast[1]:
            raise InputError(f"a class has no contrast to itself, {self.contrast[0]!r}; name two")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise InputError(f"seconds={self.seconds}: allowed are finite numbers above 0")
        if self.format in vector.FORMATS:
            vector.check(self.format)


@dataclass(frozen=True)
class Answer:
    """What `explain_files` says of one file. picture: what was written, one file of several answers too."""

    picture: Path
    targets: list[str]
    completeness_gap: float
    predictions: list[Prediction]


@dataclass(frozen=True)
class _Image:
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
    one = _explain(classifier, source, targets, None)
    picture = render.figure(one.photograph, one.explanation, titles=one.titles)
    return Explained(one.ranked, one.explanation, picture)


def _explain(
    classifier: Classifier,
    source: str | Path | Image.Image,
    targets: Targets,
    contrast: tuple[Target, Target] | None,
) -> _Image:
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
    return _Image(source, classifier.view(photograph), explanation, ranked, chosen, titles)


def save_picture(picture: Image.Image, path: Path) -> Path:
    """Write a PNG, whole or not at all. Raises InputError if the place cannot be written."""
    try:
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG")
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _save(data: bytes, path: Path) -> Path:
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written: {error.strerror or error}; give another folder with -o")


def picture_paths(sources: Sequence[Path], folder: Path, ending: str = "png") -> list[Path]:
    """`folder/NAME.explained.png` for each source, numbered where two sources share a name.

    ending: of the files, but for clips, which stay clips: `NAME.explained.mp4`.
    """
    used: set[Path] = set()
    paths = []
    for source in sources:
        end = "mp4" if video.is_clip(source) else ending
        path, n = folder / f"{source.stem}.explained.{end}", 2
        while path in used:
            path, n = folder / f"{source.stem}.{n}.explained.{end}", n + 1
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
    classifier: Classifier,
    sources: Sequence[Path],
    targets: Targets,
    folder: Path,
    order: Order | None = None,
    *,
    model: str = "",
) -> Iterator[tuple[Path, Answer | InputError]]:
    """Explain each file and write what is ordered, or say why not: one bad file does not stop the others.

    model: the name that bundles and pages give the network. With a shared scale each image is explained
    twice: once for the scale, once for its picture, so that not all explanations are held at once.
    """
    order = order or Order()
    if order.picture == "sheet" or order.format == "html":
        yield from _together(classifier, sources, targets, folder, order, model)
        return
    scale = _shared_scale(classifier, sources, targets, order) if order.shared_scale else None
    paths = picture_paths(sources, folder, ENDINGS.get(order.format, order.format))
    given = {source.resolve() for source in sources}
    for source, path in zip(sources, paths, strict=True):
        try:
            _check_spared(path, given)
            if video.is_clip(source):
                yield source, _clip(classifier, source, path, targets, order)
                continue
            one = _explain(classifier, source, targets, order.contrast)
        except InputError as error:
            yield source, error
        else:
            yield source, _answer(one, _write(classifier, one, path, order, scale, model))


def _check_spared(path: Path, given: set[Path]) -> None:
    if path.resolve() in given:
        raise InputError(
            f"{path} is one of the images to explain, and would be overwritten; give another folder with -o"
        )


def _answer(one: _Image, path: Path) -> Answer:
    labels = [label for row in one.explanation.labels or () for label in row]
    return Answer(path, labels, one.explanation.completeness().abs().max().item(), one.ranked[:5])


def _clip(classifier: Classifier, source: Path, path: Path, targets: Targets, order: Order) -> Answer:
    if order != Order(seconds=order.seconds):
        raise InputError(
            f"{source} is a clip, which becomes a clip on a scale of its own; leave out --picture, --format, "
            "--contrast and --shared-scale for it"
        )
    clip = video.explain_clip(classifier, source, path, target=targets, seconds=order.seconds)
    return Answer(path, [clip.label], clip.completeness_gap, clip.predictions)


def _shared_scale(
    classifier: Classifier, sources: Sequence[Path], targets: Targets, order: Order
) -> render.Scale | None:
    """The scale of all images that can be read; those that cannot are reported when they are drawn."""
    scales = []
    for source in sources:
        try:
            if not video.is_clip(source):
                scales.append(
                    render.Scale.of(_explain(classifier, source, targets, order.contrast).explanation)
                )
        except InputError:
            continue
    return render.Scale.shared(scales) if scales else None


def _write(
    classifier: Classifier, one: _Image, path: Path, order: Order, scale: render.Scale | None, model: str
) -> Path:
    if order.format == "bundle":
        assert isinstance(one.source, (str, Path))  # of `explain_files`
        name = zoo.resolve(model)
        name = name if name.startswith(ELSEWHERE) else zoo.find_checkpoint(name).name
        return bundle.write(path, classifier, one.source, one.explanation, model=name)
    if order.format == "npz":
        try:
            return one.explanation.save(path)
        except OSError as error:
            raise _unwritable(path, error) from error
    rows = _rows(one, order.picture, scale)
    if order.format in vector.FORMATS:
        return _save(vector.draw(rows, order.format), path)
    if order.picture == "rgba":
        return save_picture(render.side_by_side([panel.picture for panel in rows[0]]), path)
    height, width = one.explanation.contributions.shape[-2:]
    return save_picture(render.lay_out(rows, (width, height)), path)


def _rows(one: _Image, picture: str, scale: render.Scale | None) -> list[list[render.Panel]]:
    if picture == "figure":
        return render.figure_panels(one.photograph, one.explanation, titles=one.titles, scale=scale)
    if picture == "rgba":
        colours = render.in_colour(one.explanation, scale)[0]
        size = one.photograph.size
        drawn = [render.rgba_image(c).resize(size, Image.Resampling.BICUBIC) for c in colours]
        return [[render.Panel(p, t, title=True) for p, t in zip(drawn, one.titles, strict=True)]]
    on = one.photograph if picture == "overlay" else None
    return render.map_panels(one.explanation, titles=one.titles, on=on, scale=scale)


def _together(
    classifier: Classifier,
    sources: Sequence[Path],
    targets: Targets,
    folder: Path,
    order: Order,
    model: str,
) -> Iterator[tuple[Path, Answer | InputError]]:
    """One file of all images. Kept of each are small pictures only, so that there may be many."""
    if order.picture == "sheet" and len(sources) > MOST_IN_A_SHEET:
        raise InputError(
            f"{len(sources)} images came for one sheet; at most {MOST_IN_A_SHEET} fit: give fewer, or take "
            "--format html"
        )
    path = folder / ("report.html" if order.format == "html" else f"sheet.{order.format}")
    _check_spared(path, {source.resolve() for source in sources})
    scale = _shared_scale(classifier, sources, targets, order) if order.shared_scale else None
    answers: list[tuple[Path, Answer | InputError]] = []
    rows: list[list[render.Panel]] = []
    sections: list[str] = []
    for source in sources:
        try:
            if video.is_clip(source):
                raise InputError(f"{source} is a clip; {path.name} is of images: explain it by itself")
            one = _explain(classifier, source, targets, None)
        except InputError as error:
            answers.append((source, error))
            continue
        answers.append((source, _answer(one, path)))
        if order.format == "html":
            sections += [report.section(entry) for entry in _entries(one, scale)]
        else:
            titles = [f"{prediction.label} {prediction.probability:.3g}" for prediction in one.chosen]
            name = _as_text(source.name)
            rows.append(
                render.sheet_panels(one.photograph, one.explanation, name=name, titles=titles, scale=scale)
            )
    if sections:
        errors = [_as_text(str(answer)) for _, answer in answers if isinstance(answer, InputError)]
        _save(report.page(_heading(model), sections, errors).encode(), path)
    elif rows:
        _sheet(render.in_columns(rows), order.format, path)
    yield from answers


def _as_text(name: str) -> str:
    """A file's name for people: it may hold bytes that are no text, which neither page nor font can show."""
    return "".join(character if character.isprintable() else "?" for character in name)


def _sheet(rows: list[list[render.Panel]], format_: str, path: Path) -> Path:
    if format_ in vector.FORMATS:
        return _save(vector.draw(rows, format_), path)
    return save_picture(render.lay_out(rows, side=render.SMALL), path)


def _entries(one: _Image, scale: render.Scale | None) -> Iterator[report.Entry]:
    rgba = render.in_colour(one.explanation, scale)[0]
    contributions = one.explanation.contributions[0]
    limit = render.color_limit(contributions) if scale is None else scale.logits
    gaps = one.explanation.completeness()[0].abs().tolist()
    for t, title in enumerate(one.titles):
        yield report.Entry(
            file=_as_text(str(one.source)),
            target=title,
            photograph=one.photograph,
            contributions=render.contribution_map(contributions[t], limit=limit),
            colour=render.rgba_image(rgba[t]),
            limit=render.limit_text(limit, scale),
            predictions=one.ranked[:5],
            gap=gaps[t],
        )


def _heading(model: str) -> report.Heading:
    """What the manifest says of a network; of one from elsewhere, its name."""
    if not model or zoo.resolve(model).startswith(ELSEWHERE):
        return report.Heading(model or "network")
    record = zoo.find_checkpoint(model)
    facts = [f"{one.name} {one.value:g} % on {one.dataset}, {one.kind}" for one in record.metrics]
    return report.Heading(record.name, facts)


def check_targets(classifier: Classifier, targets: Targets) -> None:
    """Raise InputError for a class that the network does not know, before any image is opened."""
    if targets is not None:
        resolve_targets(targets, torch.zeros(1, len(classifier.class_names)), classifier.class_names)
