"""Explanations of the same few images as a network learns: a sheet for each epoch, and a film strip of them.

`RUN/snapshots/epoch-0005.png` is a sheet; beside it are the small pictures of the strip `RUN/snapshots.png`.
Besides every so many epochs, as the recipe says, epoch 0, the last and the one that is kept are drawn.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from ..classifier import Classifier
from ..data.samples import Samples
from ..errors import InputError
from ..explanations.explanation import Explanation
from ..explanations.inputs import unwrapped
from ..files import replacing
from ..images import own_info
from ..layers import Encode
from ..outputs import shown
from ..pictures import panels
from ..pictures.panels import Panel
from .runs import SNAPSHOTS, writing

STRIP = "snapshots.png"
COLUMNS = 8  # epochs in the strip
ROWS = 8  # images in the part of it that stands on the page of a run
TILE = 120  # pixels: the longer side of a picture in it
COUNT = 8


@dataclass(frozen=True)
class Pick:
    """An image of the validation set, by index, and its class to explain."""

    index: int
    label: int


def choose(labels: Tensor, count: int = COUNT, *, seed: int = 0) -> list[Pick]:
    """Images to follow: one of each class, then a second one of each, and so on; in the order of the classes.

    labels: (M,) class indices; or (M, C) zeros and ones, where an image stands for one of its classes. If
    there are more classes than `count`, some are drawn. Gives fewer if too few images are labelled.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator).tolist()
    several = (labels[:, None] if labels.ndim == 1 else labels).cpu()
    queues: dict[int, list[int]] = {}
    for i in order:
        row = several[i]
        for label in [int(row)] if labels.ndim == 1 else row.nonzero().flatten().tolist():
            queues.setdefault(label, []).append(i)
    classes = sorted(queues)
    if len(classes) > count:
        drawn = torch.randperm(len(classes), generator=generator)[:count].tolist()
        classes = sorted(classes[i] for i in drawn)
    picks: list[Pick] = []
    used: set[int] = set()
    while len(picks) < count:
        before = len(picks)
        for label in classes:
            left = (i for i in queues[label] if i not in used)
            if len(picks) < count and (index := next(left, None)) is not None:
                used.add(index)
                picks.append(Pick(index, label))
        if len(picks) == before:
            break
    return sorted(picks, key=lambda pick: (pick.label, pick.index))


def why_none(model: nn.Module) -> str | None:
    """Why a network can have no snapshots, for the log; None if it can."""
    network: Any = unwrapped(model)
    if not any(isinstance(module, Encode) for module in network.modules()):
        return "no snapshots: a conventional network has no exact explanation to show"
    if network.in_chans not in (1, 3):
        return f"no snapshots: the network takes {network.in_chans} channels, image files have 3 or 1"
    return None


@dataclass(frozen=True)
class Film:
    """The first rows of a finished run's strip."""

    picture: Image.Image
    titles: Sequence[str]  # the true class of each row
    epochs: Sequence[int]  # of the columns after that of the photographs


class Snapshots:
    """The pictures of one run.

    photographs: the images that are followed. labels: the index of the class explained in each. titles: the
    true class of each, as shown to people.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        photographs: Sequence[Image.Image],
        labels: Sequence[int],
        titles: Sequence[str],
    ) -> None:
        if not photographs or not len(photographs) == len(labels) == len(titles):
            raise InputError(
                f"{len(photographs)} images, {len(labels)} labels and {len(titles)} titles; give one of each "
                "for each image, and one image at least"
            )
        self.run, self.photographs = Path(run), list(photographs)
        self.labels, self.titles = list(labels), list(titles)

    @staticmethod
    def of(
        run: str | os.PathLike[str],
        samples: Samples,
        class_names: Sequence[str],
        count: int = COUNT,
        *,
        seed: int = 0,
    ) -> Snapshots | None:
        """Snapshots of the images that `choose` picks. class_names: of the labels.

        Unreadable images are not followed. None if there is nothing to follow.
        """
        photographs, labels = [], []
        for pick in choose(samples.labels, count, seed=seed):
            try:
                photographs.append(samples.load(pick.index))
            except InputError:  # validation meets it too, and lists it
                continue
            labels.append(pick.label)
        if not photographs:
            return None
        return Snapshots(run, photographs, labels, [class_names[label] for label in labels])

    def draw(self, classifier: Classifier, epoch: int) -> Path:
        """Explain the images with the network as it is now; write the epoch's sheet and the strip so far.

        The network is not changed, and stays in training mode if it is in it.
        Returns the path of the sheet. Raises InputError if it cannot be written, and for a network that has
        no exact explanation.
        """
        explanation = _explained(classifier, self.photographs, self.labels)
        views = self._views(classifier)
        sheet = _sheet(classifier, explanation, views, self.titles)
        tiles = [panels.rgba_image(rgba) for rgba in explanation.rgba()[:, 0]]
        path = self._sheet_of(epoch)
        probabilities = _probabilities(classifier, explanation)
        _save_tiles(self.run / SNAPSHOTS / f"tiles-{epoch:04d}.png", tiles, probabilities)
        _save(sheet, path)
        _save(self._strip(views), self.run / STRIP)
        return path

    def end(self, classifier: Classifier, kept: int) -> Film:
        """Draw the epoch that is kept, unless it is drawn already, and mark it in the strip.

        classifier: with the network that is kept. Returns the first rows of the strip. Raises as `draw`.
        """
        if kept not in self._films() or not self._sheet_of(kept).is_file():
            self.draw(classifier, kept)
        views = self._views(classifier)
        _save(self._strip(views, kept), self.run / STRIP)
        epochs = _spaced(sorted(self._films()), COLUMNS, kept)
        return Film(self._strip(views[:ROWS], kept), self.titles[:ROWS], epochs)

    def _sheet_of(self, epoch: int) -> Path:
        return self.run / SNAPSHOTS / f"epoch-{epoch:04d}.png"

    def _views(self, classifier: Classifier) -> list[Image.Image]:
        return [classifier.view(photograph) for photograph in self.photographs]

    def _films(self) -> dict[int, list[tuple[Image.Image, float]]]:
        """The epochs that are drawn, each with the pictures of these images and their probabilities."""
        found = _read_tiles(self.run / SNAPSHOTS)
        return {epoch: tiles for epoch, tiles in found if len(tiles) == len(self.photographs)}

    def _strip(self, views: Sequence[Image.Image], kept: int | None = None) -> Image.Image:
        """Rows are images, columns are epochs, evenly spaced among those drawn, and the one that is kept.

        views: of all images, or of the first ones.
        """
        films = self._films()
        epochs = _spaced(sorted(films), COLUMNS, kept)
        rows = []
        for i, (view, title) in enumerate(zip(views, self.titles, strict=False)):
            row = [Panel(view, title, title=True)]
            for picture, probability in (films[epoch][i] for epoch in epochs):
                row.append(Panel(panels.on_white(picture), shown(probability)))
            rows.append(row)
        body = panels.lay_out(rows, side=TILE)
        strip = Image.new("RGB", (body.width, body.height + panels.CAPTION), panels.WHITE)
        strip.paste(body, (0, panels.CAPTION))
        pen = ImageDraw.Draw(strip)
        width = (body.width - panels.MARGIN) // (len(epochs) + 1)
        for column, epoch in enumerate(epochs, 1):
            at = (panels.MARGIN + column * width, panels.MARGIN)
            title = f"epoch {epoch}, kept" if epoch == kept else f"epoch {epoch}"
            panels.write_line(pen, at, title, width - panels.MARGIN, panels.BLACK)
        return strip


def _explained(
    classifier: Classifier, photographs: Sequence[Image.Image], labels: Sequence[int]
) -> Explanation:
    targets = torch.tensor(labels)
    with _evaluating(classifier.model):
        explanation: Explanation = classifier.head(classifier.preprocess(photographs), targets)
    tensors = ("logits", "targets", "weights", "contributions", "bias")
    on_cpu: dict[str, Any] = {name: getattr(explanation, name).cpu() for name in tensors}
    return replace(explanation, **on_cpu)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards every module is back in its mode."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _probabilities(classifier: Classifier, explanation: Explanation) -> list[float]:
    """The probability of the class explained in each image."""
    of_all = classifier.outputs.probabilities(explanation.logits)
    values: list[float] = of_all.gather(1, explanation.targets)[:, 0].tolist()
    return values


def _sheet(
    classifier: Classifier, explanation: Explanation, views: Sequence[Image.Image], titles: Sequence[str]
) -> Image.Image:
    """Each image, the contributions to its true class, W(x) for it in colour, and its probability."""
    rows = []
    rgba = explanation.rgba()
    for i, probability in enumerate(_probabilities(classifier, explanation)):
        best = classifier.rank(explanation.logits[i], 1)[0]
        caption = f"probability {shown(probability)}"
        if best.index != int(explanation.targets[i]) and best.probability > probability:
            caption = f"{shown(probability)}, but {best.label} {shown(best.probability)}"
        contributions = explanation.contributions[i, 0]
        limit = panels.color_limit(contributions)
        rows.append(
            [
                Panel(views[i], titles[i], title=True),
                Panel(
                    panels.contribution_map(contributions, limit=limit),
                    panels.limit_text(limit, None, explanation.unit),
                    sharp=True,
                ),
                Panel(panels.on_white(panels.rgba_image(rgba[i, 0])), caption),
            ]
        )
    return panels.lay_out(panels.in_columns(rows, 2, tall=4), side=panels.SMALL)


def _spaced(epochs: Sequence[int], most: int, kept: int | None = None) -> list[int]:
    """At most `most` of them at equal steps, including the first and the last.

    kept: one of them that is included too; it takes the place of the nearest one between these two.
    """
    if len(epochs) <= most:
        return list(epochs)
    spaced = [epochs[round(i * (len(epochs) - 1) / (most - 1))] for i in range(most)]
    if kept is not None and kept not in spaced:
        nearest = min(range(1, most - 1), key=lambda i: abs(spaced[i] - kept))
        spaced[nearest] = kept
    return spaced


def _save(picture: Image.Image, path: Path) -> None:
    with writing(path), replacing(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=own_info())


def _save_tiles(path: Path, tiles: Sequence[Image.Image], probabilities: Sequence[float]) -> None:
    """The pictures one above the other in one file, which also stores the probabilities of their classes."""
    for tile in tiles:
        tile.thumbnail((TILE, TILE), Image.Resampling.BICUBIC)
    width, height = tiles[0].size
    column = Image.new("RGBA", (width, height * len(tiles)))
    for i, tile in enumerate(tiles):
        column.paste(tile, (0, i * height))
    said = own_info()
    said.add_text("probabilities", json.dumps(probabilities))
    with writing(path), replacing(path) as temporary:
        column.save(temporary, format="PNG", pnginfo=said)


def _read_tiles(folder: Path) -> Iterator[tuple[int, list[tuple[Image.Image, float]]]]:
    """Epochs with their pictures and probabilities; damaged files are left out, being only pictures."""
    for path in folder.glob("tiles-*.png"):
        if not (number := re.fullmatch(r"tiles-(\d+)", path.stem)):
            continue
        try:
            with Image.open(path) as column:
                probabilities = json.loads(column.info["probabilities"])
                whole = column.convert("RGBA")
        except (OSError, KeyError, ValueError, SyntaxError):
            continue
        height = whole.height // max(len(probabilities), 1)
        boxes = [(0, i * height, whole.width, (i + 1) * height) for i in range(len(probabilities))]
        yield int(number[1]), [(whole.crop(b), p) for b, p in zip(boxes, probabilities, strict=True)]
