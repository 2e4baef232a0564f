"""A whole comparison: samples shared between processes, then tables and plots."""

from __future__ import annotations

import os
import statistics
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from ..classifier import Classifier
from ..extras import required
from .accuracy import BATCH_SIZE
from .comparison import compare, rows
from .scoring import ScoreRow
from .settings import CURVES, Settings
from .summary import box_plot, curve_plot, summarise, write_tables

WAIT = timedelta(days=30)  # how long a process that is done waits for the others


def run(
    classifier: Classifier,
    root: str | Path,
    folder: str | Path,
    settings: Settings,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress,
) -> list[dict[str, Any]]:
    """`compare`, then summary.json, rows.parquet and a plot per metric in `folder`; returns the summary.

    Under `accelerate launch` or torchrun the processes share the samples, and the first one writes the
    tables when all are done; it must be able to see the others' files. Raises InputError as `compare` does.

    ```python
    from pathlib import Path

    from PIL import Image

    from rich.progress import Progress

    import bcos_zoo
    from bcos_zoo.evaluate import Settings, run

    Path("out/val/cat").mkdir(parents=True, exist_ok=True)
    Image.open("bcos_zoo/samples/chelsea.jpg").save("out/val/cat/1.png")
    clf = bcos_zoo.load("bcos_resnet20.cifar10")
    settings = Settings(("inherent",), ("sparseness",), samples=1)
    summary = run(clf, "out/val", "out/run", settings, progress=Progress(disable=True))
    assert summary[0]["explainer"] == "inherent"
    ```
    """
    folder, share = Path(folder), (int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    tasks: dict[str, TaskID] = {}

    def advance(name: str, done: int, of: int) -> None:
        if name not in tasks:
            tasks[name] = progress.add_task(name, total=of)
        progress.update(tasks[name], completed=done)

    with progress:
        compare(classifier, root, folder, settings, batch_size=batch_size, share=share, progress=advance)
    if share[1] > 1:
        accelerate, cpu = required("accelerate", "accelerate"), classifier.device.type == "cpu"
        accelerate.PartialState(cpu=cpu, timeout=WAIT).wait_for_everyone()
    found = list(rows(folder))
    if share[0] == 0:
        write_tables(found, folder)
        for metric in settings.metrics:
            box_plot(found, folder / f"{metric}.png", metric=metric, chance=_chance(found, metric))
            if metric in CURVES:
                curve_plot(found, folder / f"{metric}.curves.png", metric=metric)
    return summarise(found)


def _chance(rows: list[ScoreRow], metric: str) -> float | None:
    """The mean score of an uninformative map, if the metric has one."""
    chances = [row["chance"] for row in rows if row["metric"] == metric and "chance" in row]
    return statistics.fmean(chances) if chances else None
