"""Many files, one after the other or all in one picture: one bad file does not stop the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .. import zoo
from ..classifier import BATCH_SIZE, Classifier, Prediction
from ..errors import InputError
from ..explanations.targets import Targets
from ..files import as_text, writing
from ..images.image_like import batched
from ..pictures import figures, panels
from ..weights.config_json import ELSEWHERE
from . import bundle, clips, html
from .paths import (
    ADVICE,
    attempt,
    check_spared,
    picture_paths,
    save_bytes,
    save_picture,
    save_sheet,
)
from .render_options import ENDINGS, MOST_IN_A_SHEET, RenderOptions
from .single import ImageExplained, check_targets, explain_several, rows_of, sheet_row


@dataclass(frozen=True)
class Answer:
    """What `explain_files` says about one file. picture: the file written, which answers may share."""

    picture: Path
    targets: list[str]
    values: list[float]  # of the targets: logits or activations; empty for a clip, whose frames differ
    completeness_gap: float
    predictions: list[Prediction]


def predict_files(
    classifier: Classifier, sources: Iterable[Path], top_k: int, *, batch_size: int = BATCH_SIZE
) -> Iterator[tuple[Path, list[Prediction] | InputError]]:
    """Predictions of each file, or why it could not be read: one bad file does not stop the others.

    batch_size: how many images go through the network at once.
    """
    for some in batched(sources, batch_size):
        opened = [attempt(source, partial(classifier.preprocess, source)) for source in some]
        readable = [one for one in opened if isinstance(one, Tensor)]
        with torch.inference_mode():
            rows = iter(classifier.logits(torch.cat(readable)).cpu() if readable else ())
        for source, one in zip(some, opened, strict=True):
            yield source, one if isinstance(one, InputError) else classifier.rank(next(rows), top_k)


def explain_files(
    classifier: Classifier,
    sources: Sequence[Path],
    targets: Targets,
    folder: Path,
    options: RenderOptions | None = None,
    *,
    model: str = "",
    batch_size: int = 1,
) -> Iterator[tuple[Path, Answer | InputError]]:
    """Explain each file and write what is ordered, or say why not: one bad file does not stop the others.

    model: the name that bundles and pages give the network. batch_size: how many images are explained at
    once; clips are explained frame by frame. With a shared scale each image is explained twice: once for the
    scale, once for its picture, so that not all explanations are in memory at once.
    """
    options = options or RenderOptions()
    check_targets(classifier, list(options.contrast) if options.contrast else targets, options.unit)
    if options.picture == "sheet" or options.format == "html":
        yield from _together(classifier, sources, targets, folder, options, model, batch_size)
        return
    scale = _shared_scale(classifier, sources, targets, options, batch_size) if options.shared_scale else None
    paths = picture_paths(sources, folder, ENDINGS.get(options.format, options.format))
    given = {source.resolve() for source in sources}

    def one_file(source: Path, path: Path, explained: Iterator[ImageExplained | InputError]) -> Answer:
        check_spared(path, given)
        if clips.is_clip(source):
            return _clip(classifier, source, path, targets, options)
        if isinstance(one := next(explained), InputError):
            raise one
        return _answer(one, _write(classifier, one, path, options, scale, model))

    for some in batched(zip(sources, paths, strict=True), batch_size):
        wanted = [source for source, path in some if not (clips.is_clip(source) or _spoils(path, given))]
        explained = iter(explain_several(classifier, wanted, targets, options))
        for source, path in some:
            yield source, attempt(source, partial(one_file, source, path, explained))


def _spoils(path: Path, given: set[Path]) -> bool:
    try:
        check_spared(path, given)
    except InputError:
        return True
    return False


def _answer(one: ImageExplained, path: Path) -> Answer:
    explanation = one.explanation
    labels = [label for row in explanation.labels or () for label in row]
    values = explanation.logits.gather(1, explanation.targets)[0].tolist()
    return Answer(path, labels, values, explanation.completeness().abs().max().item(), one.ranked[:5])


def _clip(
    classifier: Classifier, source: Path, path: Path, targets: Targets, options: RenderOptions
) -> Answer:
    if options != RenderOptions(seconds=options.seconds):
        raise InputError(
            f"{source} is a clip, which becomes a clip on a scale of its own; leave out --picture, --format, "
            "--contrast, --shared-scale and --layer for it"
        )
    clip = clips.explain_clip(classifier, source, path, target=targets, seconds=options.seconds)
    return Answer(path, [clip.label], [], clip.completeness_gap, clip.predictions)


def _shared_scale(
    classifier: Classifier, sources: Sequence[Path], targets: Targets, options: RenderOptions, batch_size: int
) -> panels.Scale | None:
    """The scale over all images that can be read; unreadable ones are reported when they are drawn."""
    scales = []
    for some in batched((source for source in sources if not clips.is_clip(source)), batch_size):
        for one in explain_several(classifier, some, targets, options):
            if not isinstance(one, InputError):
                scales.append(panels.Scale.of(one.explanation))
    return panels.Scale.shared(scales) if scales else None


def _write(
    classifier: Classifier,
    one: ImageExplained,
    path: Path,
    options: RenderOptions,
    scale: panels.Scale | None,
    model: str,
) -> Path:
    if options.format == "bundle":
        assert isinstance(one.source, (str, Path))  # `explain_files` gives no others
        name = zoo.resolve(model)
        name = name if name.startswith(ELSEWHERE) else zoo.find_checkpoint(name).name
        return bundle.write(path, classifier, one.source, one.explanation, model=name)
    if options.format == "npz":
        with writing(path, ADVICE):
            return one.explanation.save(path)
    rows = rows_of(one, options.picture, scale)
    if options.format in figures.FORMATS:
        return save_bytes(figures.draw(rows, options.format), path)
    if options.picture == "rgba":
        return save_picture(panels.side_by_side([panel.picture for panel in rows[0]]), path)
    height, width = one.explanation.contributions.shape[-2:]
    return save_picture(panels.lay_out(rows, (width, height)), path)


def _together(
    classifier: Classifier,
    sources: Sequence[Path],
    targets: Targets,
    folder: Path,
    options: RenderOptions,
    model: str,
    batch_size: int,
) -> Iterator[tuple[Path, Answer | InputError]]:
    """One file for all images. Only small pictures of each are kept, so that there may be many."""
    if options.picture == "sheet" and len(sources) > MOST_IN_A_SHEET:
        raise InputError(
            f"got {len(sources)} images for one sheet; at most {MOST_IN_A_SHEET} fit: give fewer, or take "
            "--format html"
        )
    path = folder / ("report.html" if options.format == "html" else f"sheet.{options.format}")
    check_spared(path, {source.resolve() for source in sources})
    scale = _shared_scale(classifier, sources, targets, options, batch_size) if options.shared_scale else None
    answers: list[tuple[Path, Answer | InputError]] = []
    rows: list[list[panels.Panel]] = []
    sections: list[str] = []
    found: Iterator[tuple[Path, ImageExplained | InputError]] = (
        pair
        for some in batched(sources, batch_size)
        for pair in zip(some, _images_alone(classifier, some, targets, options, path), strict=True)
    )
    for source, one in found:
        if isinstance(one, InputError):
            answers.append((source, one))
            continue
        answers.append((source, _answer(one, path)))
        if options.format == "html":
            sections += [html.section(entry) for entry in _entries(one, scale, classifier.outputs.kind)]
        else:
            rows.append(sheet_row(one, source.name, scale))
    errors = [(source, answer) for source, answer in answers if isinstance(answer, InputError)]
    written: Path | InputError = path
    if sections:
        told = [as_text(str(error)) for _, error in errors]
        page = html.page(_heading(model), sections, told).encode()
        written = attempt(path, partial(save_bytes, page, path))
    elif rows:
        written = attempt(path, partial(save_sheet, rows, path))
    if isinstance(written, InputError):  # then no image has an answer; earlier errors are still reported
        answers = [*errors, (path, written)]
    yield from answers


def _images_alone(
    classifier: Classifier, sources: Sequence[Path], targets: Targets, options: RenderOptions, path: Path
) -> Iterator[ImageExplained | InputError]:
    """`explain_several` on sources that may include clips, which are refused: one file cannot hold them."""
    images = [source for source in sources if not clips.is_clip(source)]
    explained = iter(explain_several(classifier, images, targets, options))
    for source in sources:
        if clips.is_clip(source):
            yield InputError(
                f"{source} is a clip; {path.name} is a report of images: explain the clip by itself"
            )
        else:
            yield next(explained)


def _entries(one: ImageExplained, scale: panels.Scale | None, kind: str) -> Iterator[html.Entry]:
    rgba = panels.in_colour(one.explanation, scale)[0]
    contributions = one.explanation.contributions[0]
    limit = panels.color_limit(contributions) if scale is None else scale.logits
    gaps = one.explanation.completeness()[0].abs().tolist()
    for t, title in enumerate(one.titles):
        yield html.Entry(
            file=as_text(str(one.source)),
            target=title,
            photograph=one.photograph,
            contributions=panels.contribution_map(contributions[t], limit=limit),
            colour=panels.rgba_image(rgba[t]),
            limit=panels.limit_text(limit, scale, one.explanation.unit),
            predictions=one.ranked[:5],
            kind=kind,
            gap=gaps[t],
            unit=one.explanation.unit,
        )


def _heading(model: str) -> html.Heading:
    """What the manifest says about a network; for a network from elsewhere, its name."""
    if not model or zoo.resolve(model).startswith(ELSEWHERE):
        return html.Heading(model or "network")
    record = zoo.find_checkpoint(model)
    facts = [f"{one.name} {one.value:g} % on {one.dataset}, {one.kind}" for one in record.metrics]
    return html.Heading(record.name, facts)
