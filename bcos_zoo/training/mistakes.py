"""The images that a network gets most wrong, and what it saw in each: for the page of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import torch
from PIL import Image
from torch import Tensor

from ..classifier import Classifier
from ..data import Samples
from ..errors import InputError
from ..explanations.explanation import Explanation
from ..files import as_text
from ..outputs import Outputs
from ..pictures import panels
from .scores import Answers

MOST = 12  # mistakes that are shown
TRIED = 3 * MOST  # images that are opened for them, should some have become unreadable
SIDE = 256  # pixels: the longer side of each picture
AT_ONCE = 4  # images that are explained together
LAST = 2  # parts of a path that are shown where a set has no common folder


@dataclass(frozen=True)
class Mistake:
    """An image of one label that is taken for another class, or the worst label of an image of several.

    With several labels, a class is predicted though absent (then `true` is None), or missed though present
    (then `answered` is None).
    """

    row: int  # of the logits
    index: int  # of the image in its part
    answered: int | None
    true: int | None

    @property
    def classes(self) -> list[int]:
        """The class that was answered and the true one, as far as there are such."""
        return [one for one in (self.answered, self.true) if one is not None]


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against a class in an image."""

    label: int
    contributions: Image.Image
    limit: str  # what full red and full blue stand for
    colour: Image.Image  # W(x) on white


@dataclass(frozen=True)
class Shown:
    """A mistake with its pictures."""

    mistake: Mistake
    name: str  # of the image: its path below the folder that holds all of them
    probabilities: dict[int, float]  # of the classes of the mistake
    photograph: Image.Image  # what the network saw
    evidence: Sequence[Evidence]  # one for each class of the mistake; none for a conventional network


def wrong(answers: Answers, outputs: Outputs) -> list[Mistake]:
    """All mistakes, the worst first: those whose wrong answer has the highest log-odds.

    With several labels, an image is a mistake if one of its labels is wrong, and the worst of these stands
    for it.
    """
    odds, targets = outputs.log_odds(answers.logits), answers.targets
    if outputs.multilabel:
        predicted, truth = outputs.predicted(answers.logits), targets > 0.5
        how_wrong, labels = odds.abs().where(predicted != truth, -torch.inf).max(1)
    else:
        labels = odds.argmax(1)
        how_wrong = odds.amax(1).where(labels != targets, -torch.inf)
    order = how_wrong.argsort(descending=True, stable=True)
    found = []
    for row in order[how_wrong[order] > -torch.inf].tolist():
        label, index = int(labels[row]), int(answers.indices[row])
        if outputs.multilabel:
            missed = bool(truth[row, label])
            found.append(Mistake(row, index, None if missed else label, label if missed else None))
        else:
            found.append(Mistake(row, index, label, int(targets[row])))
    return found


def shown(
    mistakes: Sequence[Mistake], answers: Answers, samples: Samples, classifier: Classifier, *, explain: bool
) -> list[Shown]:
    """The first `MOST` mistakes whose images can still be read, with their pictures.

    mistakes: as `wrong` gives them. samples: the images that the answers are about. explain: whether the
    network has an exact explanation. The network is in eval mode, and not changed.
    """
    found: list[Mistake] = []
    photographs: list[Image.Image] = []
    for mistake in mistakes[:TRIED]:
        if len(found) == MOST:
            break
        try:
            photographs.append(samples.load(mistake.index))
        except InputError:  # it was read a moment ago, and is not worth the end of a run
            continue
        found.append(mistake)
    if not found:
        return []
    every: Sequence[Sequence[Evidence]] = [[] for _ in found]
    if explain:
        targets = torch.tensor([mistake.classes for mistake in found])
        explanation = classifier.explain(photographs, targets, batch_size=AT_ONCE).cpu()
        every = [_evidence(explanation, i) for i in range(len(found))]
    probabilities = classifier.outputs.probabilities(answers.logits)
    names = public_names(samples)
    return [
        Shown(
            mistake,
            names[mistake.index],
            {label: float(probabilities[mistake.row, label]) for label in mistake.classes},
            _small(classifier.view(photograph)),
            evidence,
        )
        for mistake, photograph, evidence in zip(found, photographs, every, strict=True)
    ]


def _evidence(explanation: Explanation, i: int) -> list[Evidence]:
    """Of each target of image i. Their maps share a scale, so that they can be compared."""
    limit = panels.color_limit(explanation.contributions[i])
    text = panels.limit_text(limit, None, explanation.unit)
    maps, colours, labels = explanation.contributions[i], _rgba(explanation, i), explanation.targets[i]
    return [
        Evidence(
            label,
            _small(panels.contribution_map(contributions, limit=limit)),
            text,
            _small(panels.on_white(panels.rgba_image(colour))),
        )
        for label, contributions, colour in zip(labels.tolist(), maps, colours, strict=True)
    ]


def _rgba(explanation: Explanation, i: int) -> Tensor:
    return explanation.of_image(i).rgba()[0]


def _small(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    return picture


def public_names(samples: Samples) -> list[str]:
    """What to call each image where others may see it: its path below the folder that holds all of them.

    Where they have no such folder, the last parts of the path. What is no text in a name is shown as "?".
    """
    return [as_text(name) for name in _below_all(samples)]


def _below_all(samples: Samples) -> list[str]:
    paths = [PurePath(samples.name(i)) for i in range(len(samples))]
    try:
        common = PurePath(os.path.commonpath({path.parent for path in paths}))
    except ValueError:  # on several drives, or some of them relative
        common = PurePath()
    apart = common == PurePath() or common == PurePath(common.anchor)
    if apart:
        return ["/".join(path.parts[-LAST:]) if path.is_absolute() else path.as_posix() for path in paths]
    return [path.relative_to(common).as_posix() for path in paths]
