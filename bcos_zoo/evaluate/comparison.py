"""The grid pointing game and pixel deletion, for any of the explainers: one row a map, kept as they come.

A run is a folder. What is in it is not done again, so an interrupted run continues where it was; several
processes or machines (`accelerate launch -m bcos_zoo evaluate ...`) share the samples between them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import metrics, state_dicts
from ..classifier import Classifier
from ..errors import InputError
from ..explain import explain
from ..files import replacing
from ..posthoc import EXPLAINERS, attribute
from .accuracy import labelled_files, logits_of

METRICS = ("localisation", "deletion", "insertion", "sparseness", "stability", "completeness")
STEPS = 64  # of a deletion curve
Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a comparison does. The samples are grids for localisation, single images for all else."""

    explainers: tuple[str, ...] = EXPLAINERS
    metrics: tuple[str, ...] = ("localisation",)
    grid: int = 3
    samples: int = 250
    fewer: dict[str, int] = field(default_factory=dict)  # samples of single explainers, for the slow ones
    smooth: int = 1  # pixels; published: 15 for ImageNet, 1 for CIFAR-10
    seed: int = 42

    def __post_init__(self) -> None:
        for name, values, known in (
            ("explainer", (*self.explainers, *self.fewer), EXPLAINERS),
            ("metric", self.metrics, METRICS),
        ):
            if unknown := [value for value in values if value not in known]:
                raise InputError(f"no {name} named {', '.join(unknown)}; known: {', '.join(known)}")
        if min(self.samples, *self.fewer.values(), 1) < 1:
            raise InputError("the number of samples must be 1 or more for each explainer")

    def count(self, explainer: str) -> int:
        return min(self.samples, self.fewer.get(explainer, self.samples))


def compare(
    classifier: Classifier,
    root: str | Path,
    folder: str | Path,
    settings: Settings,
    *,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[str, int, int], None] = lambda name, done, of: None,
) -> list[Row]:
    """Measure explanations on `root/<class>/<image>`; returns the rows of all that `folder` then holds.

    Each row: explainer, metric, sample, map (of the sample), score. They are appended to files in `folder`
    as they are made, and what is there is not done again, so that a later run may ask for more explainers,
    metrics or samples.
    share: (i, n), this process does every n-th sample from the i-th on.
    progress: called after each sample, with what is done, and how many of how many.
    Raises InputError for images that are too few or too poorly classified, and for a folder that holds the
    rows of another grid, smoothing or seed, of other data or weights.
    """
    folder = Path(folder)
    paths, labels = labelled_files(classifier, root)
    same = {name: getattr(settings, name) for name in ("grid", "smooth", "seed")}
    _begin(folder, same | {"data": str(root), "weights": state_dicts.sha256(classifier.model.state_dict())})
    logits, truth = logits_of(classifier, paths, labels)
    done = {(row["explainer"], row["metric"], row["sample"]) for row in rows(folder)}
    index, of = share
    for metric in settings.metrics:
        n = settings.grid if metric == "localisation" else 1
        chosen = _choose(logits, truth, n, settings)
        for explainer in settings.explainers:
            if metric == "completeness" and explainer != "inherent":
                continue  # the others do not claim it
            wanted = [i for i in range(settings.count(explainer)) if i % of == index]
            missing = [i for i in wanted if (explainer, metric, i) not in done]
            with (folder / f"{metric}.{explainer}.{index}-{of}.jsonl").open("a") as file:
                for position, sample in enumerate(missing):
                    images = torch.cat([classifier.preprocess(paths[i]) for i in chosen[sample].tolist()])
                    scores = _scores(
                        classifier, images, truth[chosen[sample]], n, explainer, metric, settings
                    )
                    for i, score in enumerate(scores):
                        row = dict(explainer=explainer, metric=metric, sample=sample, map=i)
                        file.write(json.dumps(row | score) + "\n")
                    file.flush()
                    progress(f"{metric} {explainer}", position + 1, len(missing))
    return list(rows(folder))


def parse_counts(texts: Iterable[str]) -> dict[str, int]:
    """Numbers of samples from texts such as "rise=5". Raises InputError for any other text."""
    counts = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not number.isdigit():
            raise InputError(f"{text!r}: give an explainer and its number of samples, such as rise=5")
        counts[name] = int(number)
    return counts


def rows(folder: Path) -> Iterator[Row]:
    """The rows in a folder; the unfinished sample that a killed run may have left is no row."""
    complete: dict[tuple[str, str, int], list[Row]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the last line of a process that was killed
                continue
            complete.setdefault((row["explainer"], row["metric"], row["sample"]), []).append(row)
    grid = json.loads((folder / "settings.json").read_text())["grid"]
    for (_, metric, _), found in complete.items():
        distinct = {row["map"]: row for row in found}
        if len(distinct) == (grid**2 if metric == "localisation" else 1):
            yield from distinct.values()


def _choose(logits: Tensor, truth: Tensor, n: int, settings: Settings) -> Tensor:
    """(samples, n * n): the images of each sample, all rightly and confidently classified."""
    if n > 1:
        return metrics.make_grids(logits, truth, n, settings.samples, seed=settings.seed)
    top, predicted = logits.sigmoid().max(1)
    usable = ((predicted == truth) & (top > 0.5)).nonzero().flatten()
    if len(usable) < settings.samples:
        raise InputError(
            f"{len(usable)} images are right with confidence above 0.5, not {settings.samples}; "
            "add images or ask for fewer samples"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    return usable[torch.randperm(len(usable), generator=generator)][: settings.samples, None]


def _scores(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor,
    n: int,
    explainer: str,
    metric: str,
    settings: Settings,
) -> list[Row]:
    """One score a target of one sample: `images` (n * n, 3, H, W) as one of n x n cells."""
    image = metrics.tile(images, n) if n > 1 else images[0]
    if metric == "completeness":
        explanation = explain(classifier.model, image[None], targets[None])
        logits = explanation.logits.gather(1, explanation.targets)
        gap = metrics.completeness_gap(explanation.contributions, explanation.bias, logits)
        return [{"score": float(gap.relative.max())}]
    if metric == "stability":

        def again(noisy: Tensor) -> Tensor:
            return _maps(classifier, noisy, targets.expand(len(noisy)), explainer, settings.seed)

        return [{"score": float(metrics.stability(again, image, seed=settings.seed).mean)}]
    if n > 1:
        maps = _maps(classifier, image.expand(len(targets), -1, -1, -1), targets, explainer, settings.seed)
        return [{"score": v} for v in metrics.localisation_score(maps, n, smooth=settings.smooth).tolist()]
    [attribution] = _maps(classifier, image[None], targets, explainer, settings.seed)
    if metric == "sparseness":
        return [{"score": float(metrics.sparseness(attribution))}]
    along = metrics.deletion_curve if metric == "deletion" else metrics.insertion_curve
    curve = along(classifier.model, image, attribution, int(targets[0]), steps=STEPS)
    return [{"score": curve.area, "curve": curve.scores.tolist()}]


def _maps(classifier: Classifier, x: Tensor, targets: Tensor, explainer: str, seed: int) -> Tensor:
    """(N, H, W): what each image of x (N, 3, H, W) owes to its target."""
    if explainer != "inherent":
        return attribute(classifier.model, x, targets, explainer, batch=len(x), seed=seed)
    if len(x) > 1 and x.stride(0) == 0:  # one image, for many targets: one forward pass
        return explain(classifier.model, x[:1], targets[None]).contributions[0]
    return explain(classifier.model, x, targets).contributions[:, 0]


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    """Write what all rows share, or raise InputError if those in the folder share something else."""
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    path = folder / "settings.json"
    if path.exists() and path.read_text() != text:
        raise InputError(
            f"{folder} holds rows of other settings, data or weights; give another folder with -o"
        )
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_text(text)
