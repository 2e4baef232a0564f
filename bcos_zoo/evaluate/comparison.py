"""Metrics of explanations, for any of the explainers: one row per map, saved as soon as it is made.

A run is a folder. What it holds is not done again, so an interrupted run continues where it stopped; several
processes or machines (`accelerate launch -m bcos_zoo evaluate ...`) share the samples.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from timm.data import resolve_model_data_config

from .._version import __version__
from ..classifier import Classifier
from ..data import identity
from ..errors import InputError, reason
from ..files import replacing
from ..weights import state_dicts
from .accuracy import BATCH_SIZE, labelled_files
from .objects import Boxes, Objects, read_boxes, read_masks
from .samples import Pool, Sample, energy_pool
from .scoring import Scorer, ScoreRow
from .settings import OF_THE_INHERENT, Settings


def compare(
    classifier: Classifier,
    root: str | Path,
    folder: str | Path,
    settings: Settings,
    *,
    batch_size: int = BATCH_SIZE,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[str, int, int], None] = lambda name, done, of: None,
) -> list[ScoreRow]:
    """Measure explanations on `root/<class>/<image>`; returns all rows that `folder` then holds.

    For "energy" with boxes that name their classes, `root` may be any folder of images.
    Each row: explainer, metric, sample, map (of the sample), score. Rows are appended to files in `folder` as
    they are made, and what is there is not done again, so that a later run may ask for more explainers,
    metrics or samples.
    batch_size: how many images, or variants of one, go through the network at once, at most.
    share: (i, n): this process does every n-th sample, starting with number i.
    progress: called after each sample with "METRIC EXPLAINER", how many samples are done, and of how many.
    Raises InputError if too few images are classified well enough, for a network that does not take a grid
    or whose strides are not known,
    and for a folder with rows of another grid, smoothing or seed, or of other data or weights.

    ```python
    from pathlib import Path

    from PIL import Image

    import bcos_zoo
    from bcos_zoo.evaluate import Settings, compare, rows

    Path("out/val/cat").mkdir(parents=True, exist_ok=True)
    Image.open("bcos_zoo/samples/chelsea.jpg").save("out/val/cat/1.png")
    settings = Settings(("inherent", "ixg"), ("sparseness",), samples=1)
    found = compare(bcos_zoo.load("bcos_resnet20.cifar10"), "out/val", "out/compared", settings)
    assert len(found) == len(list(rows(Path("out/compared")))) == 2
    ```
    """
    folder, objects = Path(folder), _objects(settings, root)
    scorer = Scorer(classifier, settings, objects, batch_size)
    scorer.check()
    _begin(folder, _identity(scorer, root))
    done = {(row["explainer"], row["metric"], row["sample"]) for row in rows(folder)}
    index, of = share
    for metric, samples in _samples(scorer, root, batch_size).items():
        for explainer in settings.explainers:
            if metric in OF_THE_INHERENT and explainer != "inherent":
                continue
            wanted = [i for i in range(settings.count(explainer)) if i % of == index]
            missing = [i for i in wanted if (explainer, metric, i) not in done]
            with (folder / f"{metric}.{explainer}.{index}-{of}.jsonl").open("a") as file:
                if file.tell():
                    file.write("\n")  # the last row may be cut off, and would spoil the next one
                for position, i in enumerate(missing):
                    for k, score in enumerate(scorer.rows(samples[i], explainer, metric)):
                        row = dict(explainer=explainer, metric=metric, sample=i, map=k)
                        file.write(json.dumps(row | score) + "\n")
                    file.flush()
                    progress(f"{metric} {explainer}", position + 1, len(missing))
    return list(rows(folder))


def rows(folder: Path) -> Iterator[ScoreRow]:
    """The rows in a folder, without the unfinished sample that a killed run may have left.

    ```python
    from pathlib import Path

    from PIL import Image

    import bcos_zoo
    from bcos_zoo.evaluate import Settings, compare, rows

    Path("out/val/cat").mkdir(parents=True, exist_ok=True)
    Image.open("bcos_zoo/samples/chelsea.jpg").save("out/val/cat/1.png")
    settings = Settings(("inherent",), ("sparseness",), samples=1)
    made = compare(bcos_zoo.load("bcos_resnet20.cifar10"), "out/val", "out/rows", settings)
    assert [row["score"] for row in rows(Path("out/rows"))] == [row["score"] for row in made]
    ```
    """
    complete: dict[tuple[str, str, int], list[ScoreRow]] = {}
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


def _objects(settings: Settings, root: str | Path) -> Objects | None:
    if settings.boxes is not None:
        return read_boxes(settings.boxes, root)
    return None if settings.masks is None else read_masks(settings.masks, root)


def _samples(scorer: Scorer, root: str | Path, batch_size: int) -> dict[str, list[Sample]]:
    """The samples of each metric; the network sees the images once for all of them."""
    settings, classifier, found = scorer.settings, scorer.classifier, {}
    if set(settings.metrics) != {"energy"}:
        pool = Pool.of(classifier, *labelled_files(classifier, root), batch_size=batch_size)
    for metric in settings.metrics:
        if metric == "localisation":
            found[metric] = pool.grids(settings.grid, settings.samples, settings.seed)
        elif metric != "energy":
            found[metric] = pool.singles(settings.samples, settings.seed)
        else:
            assert scorer.objects is not None  # `Settings` has made sure of them
            own = energy_pool(classifier, scorer.objects, root, batch_size=batch_size)
            found[metric] = own.singles(
                settings.samples, settings.seed, lambda sample: bool(scorer.mask(sample).any())
            )
    return found


def _identity(scorer: Scorer, root: str | Path) -> dict[str, Any]:
    """What all rows of a folder share: every number in them depends on this and on nothing else."""
    settings, classifier, objects = scorer.settings, scorer.classifier, scorer.objects
    images = _images(scorer, root)
    outputs = [classifier.outputs.kind, *classifier.outputs.class_names]
    same: dict[str, Any] = {name: getattr(settings, name) for name in ("grid", "smooth", "seed")}
    same |= {
        **{name: identity.of_files((os.path.relpath(p, root), p) for p in images[name]) for name in images},
        "weights": state_dicts.sha256(classifier.model.state_dict()),
        "network": _hash(repr(classifier.model)),  # at another exponent, the same weights give other numbers
        "outputs": _hash(json.dumps(outputs)),
        "preprocessing": identity.plain(resolve_model_data_config(classifier.model)),
        "version": __version__,
    }
    if "localisation" in settings.metrics:
        same["stride"] = settings.stride
    if objects is not None:
        same["objects"] = objects.identity({path for some in images.values() for path in some})
    return same


def _images(scorer: Scorer, root: str | Path) -> dict[str, list[Path]]:
    """The images that samples are drawn from: those in class folders, and those whose boxes name a class."""
    objects, found = scorer.objects, dict[str, list[Path]]()
    labelled = isinstance(objects, Boxes) and objects.labelled
    if set(scorer.settings.metrics) != {"energy"} or not labelled:
        found["data"] = labelled_files(scorer.classifier, root)[0]
    if isinstance(objects, Boxes) and labelled:
        found["pictures"] = objects.pairs(scorer.classifier)[0]
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _begin(folder: Path, same: dict[str, Any]) -> None:
    """Write what all rows share, or raise InputError if those in the folder share something else."""
    path = folder / "settings.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:  # from the disk; from a file that is not JSON
        raise InputError(f"{path} cannot be used ({reason(error)}); give another folder with -o") from error
    if there and "network" not in there:  # written by a version that recorded less
        there |= {"version": "an older one"}
    if other := [name for name, value in there.items() if same.get(name, value) != value]:
        raise InputError(
            f"{folder} holds rows of other settings, data or weights; give another folder with -o "
            f"(they differ in {', '.join(other)})"
        )
    if there != there | same:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(there | same, indent=2, sort_keys=True) + "\n")
