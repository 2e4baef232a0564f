"""Many files, one after the other or all in one picture: one bad file does not stop the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import bundle, render, report, vector, video, zoo
from ..classifier import Classifier, Prediction
from ..configs import ELSEWHERE
from ..errors import InputError
from ..targets import Targets
from .order import ENDINGS, MOST_IN_A_SHEET, Order
from .places import (
    as_text,
    check_spared,
    picture_paths,
    save_bytes,
    save_picture,
    save_sheet,
    unwritable,
)
from .single import ImageExplained, check_targets, explain_one, rows_of, sheet_row


@dataclass(frozen=True)
class Answer:
    """What `explain_files` says of one file. picture: what was written, one file of several answers too."""

    picture: Path
    targets: list[str]
    values: list[float]  # of the targets: logits, or activations; none of a clip, whose frames differ
    completeness_gap: float
    predictions: list[Prediction]


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
    check_targets(classifier, list(order.contrast) if order.contrast else targets, order.unit)
    if order.picture == "sheet" or order.format == "html":
        yield from _together(classifier, sources, targets, folder, order, model)
        return
    scale = _shared_scale(classifier, sources, targets, order) if order.shared_scale else None
    paths = picture_paths(sources, folder, ENDINGS.get(order.format, order.format))
    given = {source.resolve() for source in sources}
    for source, path in zip(sources, paths, strict=True):
        try:
            check_spared(path, given)
            if video.is_clip(source):
                yield source, _clip(classifier, source, path, targets, order)
                continue
            one = explain_one(classifier, source, targets, order)
        except InputError as error:
            yield source, error
        else:
            yield source, _answer(one, _write(classifier, one, path, order, scale, model))


def _answer(one: ImageExplained, path: Path) -> Answer:
    explanation = one.explanation
    labels = [label for row in explanation.labels or () for label in row]
    values = explanation.logits.gather(1, explanation.targets)[0].tolist()
    return Answer(path, labels, values, explanation.completeness().abs().max().item(), one.ranked[:5])


def _clip(classifier: Classifier, source: Path, path: Path, targets: Targets, order: Order) -> Answer:
    if order != Order(seconds=order.seconds):
        raise InputError(
            f"{source} is a clip, which becomes a clip on a scale of its own; leave out --picture, --format, "
            "--contrast, --shared-scale and --layer for it"
        )
    clip = video.explain_clip(classifier, source, path, target=targets, seconds=order.seconds)
    return Answer(path, [clip.label], [], clip.completeness_gap, clip.predictions)


def _shared_scale(
    classifier: Classifier, sources: Sequence[Path], targets: Targets, order: Order
) -> render.Scale | None:
    """The scale of all images that can be read; those that cannot are reported when they are drawn."""
    scales = []
    for source in sources:
        try:
            if not video.is_clip(source):
                scales.append(render.Scale.of(explain_one(classifier, source, targets, order).explanation))
        except InputError:
            continue
    return render.Scale.shared(scales) if scales else None


def _write(
    classifier: Classifier,
    one: ImageExplained,
    path: Path,
    order: Order,
    scale: render.Scale | None,
    model: str,
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
            raise unwritable(path, error) from error
    rows = rows_of(one, order.picture, scale)
    if order.format in vector.FORMATS:
        return save_bytes(vector.draw(rows, order.format), path)
    if order.picture == "rgba":
        return save_picture(render.side_by_side([panel.picture for panel in rows[0]]), path)
    height, width = one.explanation.contributions.shape[-2:]
    return save_picture(render.lay_out(rows, (width, height)), path)


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
    check_spared(path, {source.resolve() for source in sources})
    scale = _shared_scale(classifier, sources, targets, order) if order.shared_scale else None
    answers: list[tuple[Path, Answer | InputError]] = []
    rows: list[list[render.Panel]] = []
    sections: list[str] = []
    for source in sources:
        try:
            if video.is_clip(source):
                raise InputError(f"{source} is a clip; {path.name} is of images: explain it by itself")
            one = explain_one(classifier, source, targets, order)
        except InputError as error:
            answers.append((source, error))
            continue
        answers.append((source, _answer(one, path)))
        if order.format == "html":
            sections += [report.section(entry) for entry in _entries(one, scale)]
        else:
            rows.append(sheet_row(one, source.name, scale))
    if sections:
        errors = [as_text(str(answer)) for _, answer in answers if isinstance(answer, InputError)]
        save_bytes(report.page(_heading(model), sections, errors).encode(), path)
    elif rows:
        save_sheet(rows, path)
    yield from answers


def _entries(one: ImageExplained, scale: render.Scale | None) -> Iterator[report.Entry]:
    rgba = render.in_colour(one.explanation, scale)[0]
    contributions = one.explanation.contributions[0]
    limit = render.color_limit(contributions) if scale is None else scale.logits
    gaps = one.explanation.completeness()[0].abs().tolist()
    for t, title in enumerate(one.titles):
        yield report.Entry(
            file=as_text(str(one.source)),
            target=title,
            photograph=one.photograph,
            contributions=render.contribution_map(contributions[t], limit=limit),
            colour=render.rgba_image(rgba[t]),
            limit=render.limit_text(limit, scale, one.measure),
            predictions=one.ranked[:5],
            gap=gaps[t],
            measure=one.measure,
        )


def _heading(model: str) -> report.Heading:
    """What the manifest says of a network; of one from elsewhere, its name."""
    if not model or zoo.resolve(model).startswith(ELSEWHERE):
        return report.Heading(model or "network")
    record = zoo.find_checkpoint(model)
    facts = [f"{one.name} {one.value:g} % on {one.dataset}, {one.kind}" for one in record.metrics]
    return report.Heading(record.name, facts)
