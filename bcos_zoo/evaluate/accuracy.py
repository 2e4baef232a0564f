"""Accuracy of a classifier on a folder of labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .. import data, metrics
from ..classifier import Classifier
from ..errors import InputError
from ..outputs import Outputs
from ..weights import class_lists

BATCH_SIZE = 250  # images at once, unless told otherwise


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers, in percent, and how far the probabilities can be trusted."""

    top1: float
    top5: float | None  # None for five classes or fewer, where it means nothing
    per_class: dict[str, float]  # top-1
    calibration_error: float  # the expected calibration error of the probabilities, in [0, 1]
    brier_score: float
    images: int


class _Images(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, samples: data.Samples, classifier: Classifier) -> None:
        self.samples, self.classifier = samples, classifier

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.classifier.preprocess(self.samples.load(index))[0], self.samples.labels[index]


def labelled_files(classifier: Classifier, root: str | Path) -> tuple[list[Path], list[int]]:
    """Paths and class indices of `root/<class>/<image>`.

    A sub-folder is named after a class of the network, or by its WordNet number, as in ImageNet.
    Raises InputError for any other.
    """
    paths, labels, folders = data.list_folder(root)
    index = [class_index(classifier.class_names, folder, root) for folder in folders]
    return paths, [index[label] for label in labels]


def class_index(class_names: tuple[str, ...], folder: str, root: str | Path) -> int:
    """The class that a folder, or a label in a file, is named after. root: what holds it.

    Raises InputError if there is none, and for a name that several classes share.
    """
    called = classes_called(class_names, folder)
    if len(called) > 1:
        raise InputError(f"{root}: {folder} is the name of the classes {called}; give their WordNet numbers")
    if not called:
        few = ", ".join(class_names[:5]) + (", ..." if len(class_names) > 5 else "")
        raise InputError(f"{root}: {folder} is no class of this network; give names of its classes ({few})")
    return called[0]


def classes_called(class_names: tuple[str, ...], name: str) -> list[int]:
    """The indices of the classes of that name, or of that WordNet number, as ImageNet has them."""
    if called := [i for i, one in enumerate(class_names) if one == name]:
        return called
    numbers, imagenet = class_lists.wordnet_numbers(), class_lists.class_list("imagenet-1k")
    if name not in numbers:
        return []
    number = numbers.index(name)
    if class_names == imagenet:  # there, two classes may share a name: "crane" is a bird and a machine
        return [number]
    return [i for i, one in enumerate(class_names) if one == imagenet[number]]


def logits_of(
    classifier: Classifier,
    paths: list[Path],
    labels: list[int],
    *,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
) -> tuple[Tensor, Tensor]:
    """(M, C) logits and (M,) labels of image files. Raises InputError if one cannot be read."""
    samples = data.of_files(paths, labels)
    return logits_of_samples(classifier, samples, batch_size=batch_size, workers=workers)


@torch.inference_mode()
def logits_of_samples(
    classifier: Classifier, samples: data.Samples, *, batch_size: int = BATCH_SIZE, workers: int = 0
) -> tuple[Tensor, Tensor]:
    """(M, C) logits of labelled images, and their labels.

    Raises InputError if an image cannot be read, and if the network gives NaN.
    """
    own = torch.Generator()  # otherwise each iteration would draw from the caller's
    data = _Images(samples, classifier)
    loader = DataLoader(data, batch_size=batch_size, num_workers=workers, generator=own)
    parts = [(classifier.logits(x).cpu(), y) for x, y in loader]
    logits = torch.cat([logits for logits, _ in parts])
    classifier.outputs.check_answered(logits)
    return logits, torch.cat([y for _, y in parts])


def evaluate(
    classifier: Classifier, root: str | Path, *, batch_size: int = BATCH_SIZE, workers: int = 0
) -> Accuracy:
    """Accuracy and calibration over `root/<class>/<image>`, through the card's own transform.

    Raises InputError if a sub-folder is not named after a class of the network, or an image cannot be read.

    ```python
    from pathlib import Path

    from PIL import Image

    import bcos_zoo
    from bcos_zoo.evaluate import evaluate

    Path("out/val/cat").mkdir(parents=True, exist_ok=True)
    Image.open("bcos_zoo/samples/chelsea.jpg").save("out/val/cat/1.png")
    found = evaluate(bcos_zoo.load("bcos_resnet20.cifar10"), "out/val")
    assert found.images == 1
    ```
    """
    paths, labels = labelled_files(classifier, root)
    logits, truth = logits_of(classifier, paths, labels, batch_size=batch_size, workers=workers)
    return accuracy_of(classifier.outputs, logits, truth)


def accuracy_of(outputs: Outputs, logits: Tensor, truth: Tensor) -> Accuracy:
    """Accuracy and calibration of answers. logits: (M, C) or as the network gives them. truth: (M,) indices.

    ```python
    import torch

    import bcos_zoo
    from bcos_zoo.evaluate import accuracy_of

    clf = bcos_zoo.load("bcos_resnet20.cifar10")
    found = accuracy_of(clf.outputs, 9 * torch.eye(10), torch.arange(10))
    assert found.top1 == 100
    ```
    """
    logits, names = outputs.class_logits(logits), outputs.distinct_names
    hits = logits.topk(min(5, logits.shape[1])).indices == truth[:, None]
    per_class = {
        names[label]: 100 * float(hits[truth == label, 0].double().mean())
        for label in sorted(set(truth.tolist()))
    }
    probabilities, predicted = outputs.probabilities(logits), logits.argmax(1)
    return Accuracy(
        top1=100 * float(hits[:, 0].double().mean()),
        top5=100 * float(hits.any(1).double().mean()) if logits.shape[1] > 5 else None,
        per_class=per_class,
        calibration_error=metrics.expected_calibration_error(probabilities, truth, predicted=predicted),
        brier_score=metrics.brier_score(probabilities, truth),
        images=len(truth),
    )
