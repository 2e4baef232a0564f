"""The page of a finished run, `RUN/index.html`: how it went, where it is wrong and why, and how to go on.

One file of at most a few MB, without script. It shows images, and their paths below the one folder that holds
them all, but no folder above that: whoever passes it on shows these, too. `export` and `push` leave it out.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from ..classifier import Classifier
from ..data import Task
from ..files import as_text
from ..outputs import shown as shown_probability
from ..pipeline.html import document, figure
from ..weights.config_json import Training
from . import confusion, curves, going_on, mistakes, recipe, scores
from .history import EpochRow
from .mistakes import Evidence, Shown
from .recipe import Recipe
from .scores import Answers
from .snapshots import Film, why_none

PAGE = "index.html"
CLASSES = 40  # rows of the table of classes
NAMED = 10  # class names below the title
CONFUSED = 5  # pairs of classes that are named
LARGEST = 1600  # pixels: the longer side of the confusion matrix
LEAST = 0.6  # of its own width: what a wide picture has at least
QUALITY = 75  # of JPEG: what keeps the page below 3 MB
SHARP = 64  # pixels: pictures up to this size are shown with their pixels as squares
COUNTS, SHARES = ("images", "predicted", "right"), ("recall", "precision", "f1")
STYLE = """
section { border-top: 1px solid var(--line); margin-top: 28px; padding-top: 16px; }
h2 { font-size: 1.25em; }
h3 { font-size: 1em; margin: 0 0 4px; overflow-wrap: anywhere; }
main article { border: 0; margin-top: 24px; padding: 0; }
.scroll { overflow-x: auto; }
.scroll img { max-width: 100%; min-width: var(--least); width: auto; }
table.numbers { margin: 10px 0; width: auto; }
.numbers th, .numbers td { border-bottom: 1px solid var(--line); padding: 4px 24px 4px 0; width: auto; }
.numbers td, .numbers thead th + th { text-align: right; }
.curves { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 520px)); }
.mistake { display: grid; gap: 14px; grid-template-columns: 1fr 2fr 2fr; margin-top: 8px; }
.photographs { display: grid; gap: 0 14px; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); }
.photographs .mistake { display: block; }
.pair { align-content: start; display: grid; gap: 8px; grid-template-columns: 1fr 1fr; }
pre { border: 1px solid var(--line); border-radius: 4px; font-size: 0.9em; margin: 4px 0 14px;
  overflow-x: auto; padding: 10px 12px; user-select: all; }
pre code { overflow-wrap: anywhere; white-space: pre-wrap; }
summary { cursor: pointer; }
@media (max-width: 700px) { .mistake { grid-template-columns: 1fr; } .mistake > figure { max-width: 60%; }
  .photographs { grid-template-columns: 1fr 1fr; } .photographs .mistake > figure { max-width: none; }
  .numbers th, .numbers td { padding-right: 14px; } }
"""


@dataclass(frozen=True)
class Parts:
    """What the page is made of."""

    folder: Path
    recipe: Recipe
    task: Task
    training: Training  # what the card says about the run
    classifier: Classifier  # the network that is kept
    rows: Sequence[EpochRow]
    epoch: int  # the one that is kept
    answers: Answers  # of the network that is kept, on the validation images
    test: Mapping[str, float] | None
    test_images: int
    film: Film | None  # None where no explanations were drawn
    left_out: int  # images that could not be read

    @property
    def names(self) -> tuple[str, ...]:
        return self.classifier.outputs.distinct_names


def make(parts: Parts) -> str:
    """The HTML of the page. The tables and pictures of classes in the run's folder are read for it."""
    why, several = why_none(parts.classifier.model), parts.task.multilabel
    sections = {
        "Scores": _scores(parts),
        "Learning curves": _curves(parts),
        "Classes" if several else "Confusion matrix": ("" if several else _confusion(parts))
        + _of_classes(parts),
        "The worst mistakes": _mistakes(parts, why),
        "Explanations over the epochs": _film(parts.film, why),
        "The recipe": _recipe(parts.recipe),
        "How to go on": _next(parts, why),
    }
    body = "".join(f"<section>\n<h2>{title}</h2>\n{text}</section>\n" for title, text in sections.items())
    title = as_text(Path(os.path.abspath(parts.folder)).name) or "run"
    return document(title, _intro(parts), body, STYLE)


def _intro(parts: Parts) -> str:
    task, model, images = parts.task, parts.classifier.model, parts.training.data
    base = getattr(model, "pretrained_from", None) or parts.training.base
    began = f"begun with {base}" if base else "begun with random weights"
    began += f", taught by {parts.training.teacher}" if parts.training.teacher else ""
    tested = "" if task.test is None else f", {len(task.test):,} for the final test"
    classes = ", ".join(parts.names[:NAMED]) + (", …" if len(parts.names) > NAMED else "")
    said = [
        f"The network {model.pretrained_cfg['architecture']}, {began}, trained on {images or 'images'}: "
        f"{_images(len(task.train))} for training, {len(task.val):,} for validation{tested}.",
        f"{len(parts.names)} classes: {classes}.",
    ]
    if parts.left_out:
        said.append(f"{_images(parts.left_out)} could not be read; unreadable.txt in the folder names them.")
    return "".join(f'<p class="soft">{escape(line)}</p>\n' for line in said)


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _table(head: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> str:
    """head: of all columns. lines: a name and the cells after it. All are texts."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    rows = [
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(one)}</td>" for one in cells)}</tr>\n'
        for name, cells in lines
    ]
    return (
        f'<div class="scroll" tabindex="0"><table class="numbers"><thead><tr>{titles}</tr></thead>\n'
        f"<tbody>\n{''.join(rows)}</tbody></table></div>\n"
    )


def _scores(parts: Parts) -> str:
    columns = {f"validation, {_images(len(parts.answers.targets))}": parts.answers.scores}
    if parts.test is not None:
        columns[f"test, {_images(parts.test_images)}"] = dict(parts.test)
    lines = [
        (curves.shown(name), [_score(name, of.get(name, math.nan)) for of in columns.values()])
        for name in parts.answers.scores
    ]
    run, last = parts.recipe.run, int(parts.rows[-1]["epoch"])
    why, chose = "the last one", ""
    if run.keep_best:
        watched = scores.to_watch(run.monitor, parts.classifier.model.num_classes, parts.task.multilabel)
        why = f"the best by {curves.shown(watched)}"
        chose = " The validation images chose it, so their scores flatter it"
        chose += "; the test images chose nothing." if parts.test is not None else "."
    said = f"The network of epoch {parts.epoch} of {last} is kept: {why}.{chose}"
    return _table(["score", *columns], lines) + f"<p>{escape(said)}</p>\n"


def _score(name: str, value: float) -> str:
    if not math.isfinite(value):
        return "not defined"
    return f"{value:.4g}" if name == "loss" else f"{value:.2f} %"


def _curves(parts: Parts) -> str:
    drawn = [
        figure(picture, escape(said), escape(said)) for said, picture in curves.apart(parts.rows, parts.epoch)
    ]
    return f'<div class="curves">{"".join(drawn)}</div>\n'


def _confusion(parts: Parts) -> str:
    """Which class is taken for which."""
    names, answers = parts.names, parts.answers
    counts = scores.confusion(answers.logits, answers.targets).fill_diagonal_(0)
    most = counts.flatten().topk(min(CONFUSED, counts.numel()))
    pairs = [
        f"{names[i // len(names)]} for {names[i % len(names)]} ({_images(count)})"
        for count, i in zip(most.values.tolist(), most.indices.tolist(), strict=True)
        if count
    ]
    said = f"Taken for another most often: {'; '.join(pairs)}." if pairs else "None is taken for another."
    with Image.open(parts.folder / confusion.PICTURE) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((LARGEST, LARGEST))
    alt = f"Confusion matrix of the {len(names)} classes. {said}"
    drawn = _wide(picture, alt, "rows: true classes; columns: what is answered")
    return f"{drawn}<p>{escape(said)}</p>\n"


def _wide(picture: Image.Image, alt: str, caption: str, *, photographic: bool = False) -> str:
    """A picture that is made smaller on a narrow screen as far as it can be read, and then scrolls."""
    drawn = figure(picture, escape(alt), caption, photographic=photographic, quality=QUALITY)
    return (
        f'<div class="scroll" tabindex="0" style="--least: {round(LEAST * picture.width)}px">{drawn}</div>\n'
    )


def _of_classes(parts: Parts) -> str:
    """How well each class is found."""
    with (parts.folder / confusion.PER_CLASS).open(newline="", encoding="utf-8") as file:
        every = sorted(csv.DictReader(file), key=lambda row: float(row["f1"] or math.inf))
    shares = [[f"{row[name]} %" if row[name] else "–" for name in SHARES] for row in every[:CLASSES]]
    lines = [
        (row["class"], [*(row[name] for name in COUNTS), *of])
        for row, of in zip(every[:CLASSES], shares, strict=True)
    ]
    few = f"The {CLASSES} of {len(every)} classes" if len(every) > CLASSES else "Each class"
    return (
        f"<details{' open' if parts.task.multilabel else ''}><summary>{few}, lowest F1 first</summary>\n"
        f"{_table(['class', *COUNTS, *SHARES], lines)}</details>\n"
    )


def _mistakes(parts: Parts, why: str | None) -> str:
    outputs, total = parts.classifier.outputs, len(parts.answers.targets)
    every = mistakes.wrong(parts.answers, outputs)
    if not every:
        return f"<p>None: all {_images(total)} for validation are answered rightly.</p>\n"
    found = mistakes.shown(every, parts.answers, parts.task.val, parts.classifier, explain=why is None)
    kind = "a label wrong" if outputs.multilabel else "a wrong answer"
    said = f"Of {_images(total)} for validation, {len(every):,} have {kind}. "
    said += "Shown are all of them" if len(found) == len(every) else f"Shown are the worst {len(found)}"
    said += ", each with its worst label: one" if outputs.multilabel else ", the surest wrong answer first"
    said += " that is predicted though absent, or missed though present" if outputs.multilabel else ""
    about = (
        "For each image the network is one linear map W(x), and the contributions of the pixels sum to the "
        "logit of a class: red speaks for it, blue against it. The maps of an image share one scale."
    )
    about = about if why is None else f"There are no explanations beside them: {why.partition(': ')[2]}."
    articles = "".join(_mistake(one, parts) for one in found)
    if why is not None:
        articles = f'<div class="photographs">{articles}</div>\n'
    return (
        f"<p>{escape(said)}. Numbers are probabilities ({outputs.kind}).</p>\n"
        f'<p class="soft">{escape(about)}</p>\n{articles}'
    )


def _mistake(one: Shown, parts: Parts) -> str:
    mistake, name = one.mistake, escape(one.name)
    spoken = [
        f"<b>{escape(parts.names[label])}</b> {escape(shown_probability(probability))}"
        for label, probability in one.probabilities.items()
    ]
    roles = ["answered", "true"]
    if parts.classifier.outputs.multilabel:
        roles = ["predicted"] if mistake.true is None else ["missed"]
        truth = parts.answers.targets[mistake.row].nonzero().flatten().tolist()
        shows = escape(", ".join(parts.names[i] for i in truth) or "none of the classes")
        said = f"{roles[0]} {spoken[0]}; it shows {shows}"
    else:
        said = f"answered {spoken[0]}, but it is {spoken[1]}"
    large = max(one.photograph.size) > SHARP
    pictures = figure(
        one.photograph, f"Photograph {name}", "what the network saw", photographic=large, quality=QUALITY
    )
    for role, evidence in zip(roles, one.evidence, strict=False):
        pictures += _pair(name, f"{escape(parts.names[evidence.label])}, {role}", evidence)
    return f'<article>\n<h3>{name}</h3>\n<p>{said}</p>\n<div class="mistake">{pictures}</div>\n</article>\n'


def _pair(file: str, target: str, evidence: Evidence) -> str:
    """file, target: HTML."""
    large = max(evidence.contributions.size) > SHARP
    contributions = figure(
        evidence.contributions,
        f"Contributions of the pixels of {file} to {target}",
        f"{target}: contributions, up to {escape(evidence.limit)}",
        sharp=not large,
        photographic=large,
        quality=QUALITY,
    )
    alt = f"W(x) of {file} for {target}, in colour"
    colour = figure(evidence.colour, alt, f"{target}: W(x), in colour", photographic=large, quality=QUALITY)
    return f'<div class="pair">{contributions}{colour}</div>\n'


def _film(film: Film | None, why: str | None) -> str:
    if film is None:
        reason = (
            "run.snapshots is 0, or no image could be followed" if why is None else why.partition(": ")[2]
        )
        return f"<p>None were drawn: {escape(reason)}.</p>\n"
    epochs = ", ".join(map(str, film.epochs))
    alt = f"Rows: images of {', '.join(film.titles)}. Columns: W(x) in colour in the epochs {epochs}."
    return (
        "<p>W(x) in colour for the true class of the same validation images, and the probability of that "
        f"class.</p>\n{_wide(film.picture, alt, '', photographic=True)}"
    )


def _recipe(wanted: Recipe) -> str:
    text = escape(recipe.to_toml(wanted, public=True))
    return f"<details><summary>All settings, as in recipe.toml</summary>\n<pre>{text}</pre></details>\n"


def _next(parts: Parts, why: str | None) -> str:
    where = going_on.place(parts.folder)
    said = "In this folder:" if where == os.curdir else f"In the folder that holds {where}:"
    lines = [f'<p class="soft">{escape(said)}</p>\n']
    for purpose, text in going_on.steps(parts.folder, parts.classifier.model, explains=why is None):
        lines.append(f"<p>{escape(purpose)}:</p>\n<pre><code>{escape(text)}</code></pre>\n")
    return "".join(lines)
