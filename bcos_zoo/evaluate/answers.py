"""A network's answers to the labelled images of a folder or CSV, and how good they are."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..classifier import Classifier
from ..data import Samples, groups, of_files
from ..data.tables import to_measure
from ..errors import InputError
from ..files import is_file, is_folder
from ..outputs import Outputs
from .accuracy import BATCH_SIZE, Accuracy, accuracy_of, class_index, labelled_files, logits_of_samples
from .discrimination import RANKED, Asked, Score, discriminate

TABLES = (".csv", ".tsv")  # endings of files that are read as tables


@dataclass(frozen=True)
class Answers:
    """M images, with what they show and what a network says about them."""

    outputs: Outputs
    logits: Tensor  # (M, C)
    truth: Tensor  # (M,) class indices; for several labels (M, C) zeros and ones
    groups: Sequence[Hashable]  # (M,) the group of each image; its own index if no groups are known
    part: str | None = None  # the name of the part that was used, if the source has parts
    notes: tuple[str, ...] = ()  # what people should know about how the source was read

    def __len__(self) -> int:
        return len(self.logits)


@dataclass(frozen=True)
class Measured:
    """The results that were asked for about a network's answers."""

    answers: Answers
    asked: Asked
    accuracy: Accuracy | None  # None for several labels, and unless asked for
    scores: list[Score] = field(default_factory=list)  # for each class, or with intervals

    def document(self) -> dict[str, Any]:
        """All of it as plain data."""
        found = {} if self.accuracy is None else asdict(self.accuracy)
        found |= {"images": len(self.answers), "part": self.answers.part}
        found |= {"outputs": self.answers.outputs.kind, "notes": list(self.answers.notes) or None}
        if self.scores:
            asked = asdict(self.asked)
            if self.asked.confidence is None:
                asked = {key: asked[key] for key in ("metrics", "specificity")}
            groups = len(set(self.answers.groups))
            found |= {"asked": asked, "groups": groups, "scores": [asdict(one) for one in self.scores]}
        return {key: value for key, value in found.items() if value is not None}

    def lines(self, model: str) -> list[str]:
        """In words: the accuracy, and what the intervals are based on."""
        part = f" of {self.answers.part}" if self.answers.part else ""
        where = f"{model} on {len(self.answers)} images{part}"
        lines = list(self.answers.notes)
        if (one := self.accuracy) is not None:
            top5 = "" if one.top5 is None else f"top-5 {one.top5:.2f} %, "
            lines.append(
                f"{where}: top-1 {one.top1:.2f} %, {top5}"
                f"calibration error {one.calibration_error:.3f}, Brier score {one.brier_score:.3f}"
            )
        if self.asked.confidence is not None:
            groups = len(set(self.answers.groups))
            drawn = f"{groups} groups" if groups < len(self.answers) else "single images"
            lines.append(f"{where}: intervals by {self.asked.resamples} bootstrap resamples of {drawn}")
        return lines


def measure(
    classifier: Classifier,
    source: str | Path,
    asked: Asked,
    *,
    group: str | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
) -> Measured:
    """Run a network on labelled images and measure what is asked for. Runs and raises as `answer` does.

    ```python
    from pathlib import Path

    from PIL import Image

    import bcos_zoo
    from bcos_zoo.evaluate import Asked, measure

    Path("out/val/cat").mkdir(parents=True, exist_ok=True)
    Image.open("bcos_zoo/samples/chelsea.jpg").save("out/val/cat/1.png")
    found = measure(bcos_zoo.load("bcos_resnet20.cifar10"), "out/val", Asked(("accuracy",)))
    print(found.document())
    ```
    """
    found = answer(classifier, source, group=group, batch_size=batch_size, workers=workers)
    outputs, several = found.outputs, found.truth.ndim == 2
    accuracy = None
    if "accuracy" in asked.metrics and not several:
        accuracy = accuracy_of(outputs, found.logits, found.truth)
    scores: list[Score] = []
    wanted = asked.metrics
    if accuracy is not None and asked.confidence is None:  # then it already holds the other scores
        wanted = tuple(name for name in wanted if name in RANKED)
    if wanted:
        scores = discriminate(
            outputs, found.logits, found.truth, replace(asked, metrics=wanted), found.groups
        )
    return Measured(found, asked, accuracy, scores)


def answer(
    classifier: Classifier,
    source: str | Path,
    *,
    group: str | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
) -> Answers:
    """Run a network on the images of `root/<class>/<image>`, or of a CSV (see `bcos_zoo.data.from_csv`).

    From a CSV with parts, the test part is taken, or else the validation part, or else that for training, and
    `part` says which. Classes are those of the network, by name; the images need not show all of them.
    group: what the images of one patient, animal or video share: a column of the CSV, or a pattern for paths
    below the root (see `bcos_zoo.data.groups.by_pattern`).
    Raises InputError for a source of another kind, for classes that the network does not have, for several
    labels if the network gives one per image, and for an image that cannot be read.

    ```python
    from pathlib import Path

    from PIL import Image

    import bcos_zoo
    from bcos_zoo.evaluate import answer

    Path("out/val/cat").mkdir(parents=True, exist_ok=True)
    Image.open("bcos_zoo/samples/chelsea.jpg").save("out/val/cat/1.png")
    found = answer(bcos_zoo.load("bcos_resnet20.cifar10"), "out/val")
    assert found.logits.shape == (1, 10)
    ```
    """
    source = Path(source)
    part: str | None = None
    notes: tuple[str, ...] = ()
    if is_folder(source):
        samples = _of_folder(classifier, source, group)
    elif is_file(source) and source.suffix.lower() in TABLES:
        samples, part, notes = _of_table(classifier, source, group)
    else:
        what = "no kind of file that is measured" if is_file(source) else "no such file or folder"
        raise InputError(f"{source}: {what}; give a folder of class folders, or a .csv")
    logits, truth = logits_of_samples(classifier, samples, batch_size=batch_size, workers=workers)
    known: Sequence[Hashable] = range(len(samples)) if samples.groups is None else samples.groups.tolist()
    return Answers(classifier.outputs, logits, truth, known, part, notes)


def _of_folder(classifier: Classifier, root: Path, group: str | None) -> Samples:
    paths, labels = labelled_files(classifier, root)
    samples = of_files(paths, labels)
    if group is None:
        return samples
    names = [path.relative_to(root).as_posix() for path in paths]
    return Samples(samples.source, samples.indices, samples.labels, groups.by_pattern(root, group, names))


def _of_table(
    classifier: Classifier, path: Path, group: str | None
) -> tuple[Samples, str | None, tuple[str, ...]]:
    """The images of a table that are measured, the name of their part, and what people should know."""
    rows = to_measure(path, group)
    if not rows.one_label and not classifier.outputs.multilabel:
        raise InputError(
            f"{path}: several labels an image, but this network tells one; give a column label, or a network "
            "that was trained with several"
        )
    index = {name: class_index(classifier.class_names, name, path) for name in rows.classes}
    if rows.one_label:
        labels = torch.tensor([index[name] for shown in rows.said for name in shown], dtype=torch.int64)
    else:
        labels = torch.zeros(len(rows.said), len(classifier.class_names))
        for row, shown in zip(labels, rows.said, strict=True):
            row[[index[name] for name in shown]] = 1
    samples = Samples(rows.source, torch.arange(len(rows.said)), labels, rows.groups)
    return samples, rows.part, rows.notes
