"""Accuracy of a classifier on a folder of labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from . import data
from .classifier import Classifier
from .errors import InputError


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers, in percent."""

    top1: float
    top5: float
    images: int


class _Files(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, paths: list[Path], labels: list[int], classifier: Classifier) -> None:
        self.paths, self.labels, self.classifier = paths, labels, classifier

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.classifier.preprocess(self.paths[index])[0], self.labels[index]


@torch.inference_mode()
def evaluate(
    classifier: Classifier, root: str | Path, *, batch_size: int = 250, workers: int = 0
) -> Accuracy:
    """Top-1 and top-5 accuracy over `root/<class>/<image>`, through the card's own transform.

    Raises InputError if a sub-folder is not named after a class of the network, or an image cannot be read.
    """
    paths, labels, folders = data.list_folder(root)
    unknown = [name for name in folders if name not in classifier.class_names]
    if unknown:
        raise InputError(
            f"{root}: {', '.join(unknown[:3])} is no class of this network; "
            "name the sub-folders after its classes"
        )
    index = [classifier.class_names.index(name) for name in folders]
    files = _Files(paths, [index[label] for label in labels], classifier)
    top1 = top5 = 0
    for x, y in DataLoader(files, batch_size=batch_size, num_workers=workers):
        ranked = classifier.model(x).topk(min(5, len(classifier.class_names))).indices
        hits = ranked == y[:, None]
        top1, top5 = top1 + int(hits[:, 0].sum()), top5 + int(hits.any(1).sum())
    return Accuracy(100 * top1 / len(files), 100 * top5 / len(files), len(files))
