"""Fine-tuning by its defaults beside what else one could do, as a table.

python benchmarks/finetune.py [--data data] [--seeds 3] [--tasks NAME ...] [--ways NAME ...]
                              [-o benchmarks/results/finetune.jsonl] [--set TABLE.KEY=VALUE ...]
                              [--large CHECKPOINT]
On each of the tasks of benchmarks/tasks.py: the checkpoint untouched, where it knows the classes; logistic
regression on its features; its classifier alone; `bcos-zoo finetune` by its defaults; the same network from
nothing; and the checkpoint's conventional twin, fine-tuned as timm's users do. All see the same training
images, and the last four take the same number of epochs. Scores are in percent of the test images, which
choose nothing: top-1, or mean average precision for several labels. CHECKPOINT: another one to begin with
where images have 224 pixels; it needs no twin. What is measured already, with the same --set and checkpoint,
is not measured again; all such rows of the file are printed as a table of means and standard deviations over
the seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import tasks
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import bcos_zoo
from bcos_zoo.data import Samples, Task, open_task
from bcos_zoo.training import defaults, engine, known_classes, scores

HERE = Path(__file__).resolve().parent
TWINS = {
    tasks.SMALL: HERE / "twins" / "resnet20.cifar10",
    tasks.LARGE: HERE / "twins" / "resnet18_w32.imagenette",
}
QUIET = ("run.trackers=[]", "run.snapshots=0")
# AdamW behind a random classifier, and a softmax with smoothed labels: what timm's users take for small sets.
AS_TIMM = (
    "model.head=random", "optimizer.name=adamw", "optimizer.lr=5e-4", "optimizer.weight_decay=0.05",
    "optimizer.head_lr=none", "optimizer.relative=false", "optimizer.clip=none",
)  # fmt: skip
SOFTMAX = ("loss.kind=ce", "loss.smoothing=0.1")  # where an image has one label
Found = tuple[float, dict[str, float]]  # the score, and what else is noted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = [task.name for task in tasks.TASKS]
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="*", default=names, choices=names, metavar="NAME")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--large", default=tasks.LARGE, metavar="CHECKPOINT")
    parser.add_argument("--set", nargs="*", default=[], dest="changes", metavar="TABLE.KEY=VALUE")
    parser.add_argument("-o", dest="file", type=Path, default=HERE / "results" / "finetune.jsonl")
    asked = parser.parse_args()
    changes = sorted(asked.changes)
    begun = {one.name: asked.large if one.model == tasks.LARGE else one.model for one in tasks.TASKS}
    every = [row for row in tasks.read_rows(asked.file) if row.get("set", []) == changes]
    usual = {one.name: one.model for one in tasks.TASKS}
    rows = [row for row in every if row.get("model", usual[row["task"]]) == begun[row["task"]]]
    done = {(row["task"], row["way"], row["seed"]) for row in rows}
    for seed in range(asked.seeds):
        for one in tasks.TASKS:
            missing = [way for way in asked.ways if (one.name, way, seed) not in done]
            if one.name in asked.tasks and missing:
                began = dataclasses.replace(one, model=begun[one.name])
                for row in measured(began, seed, missing, asked.data, changes):
                    rows.append(row)
                    tasks.add_row(asked.file, row)
    print(table(rows))


def measured(one: tasks.Task, seed: int, ways: Sequence[str], data: Path, changes: Sequence[str]):
    """A row for each way that makes sense for the task."""
    with tempfile.TemporaryDirectory() as place:
        source = one.write(Path(place) / one.folder, seed, data)
        task = open_task(str(source), log=lambda line: None)
        for way in ways:
            began = time.monotonic()
            found = WAYS[way](
                one, task, Path(place) / way, [*QUIET, f"run.seed={seed}", *one.changes, *changes]
            )
            if found is not None:
                seconds = round(time.monotonic() - began, 1)
                print(f"{one.name}, seed {seed}, {way}: {found[0]:.1f} %, {seconds} s", flush=True)
                yield (
                    {
                        "task": one.name,
                        "model": one.model,
                        "way": way,
                        "seed": seed,
                        "set": list(changes),
                        "score": round(found[0], 2),
                    }
                    | found[1]
                    | {"seconds": seconds}
                )


def untouched(one: tasks.Task, task: Task, place: Path, changes: Sequence[str]) -> Found | None:
    """The checkpoint's own logits of the task's classes; None if it does not know all of them."""
    clf = bcos_zoo.load(one.model)
    columns = known_classes.places(task.class_names, clf.class_names)
    if None in columns:
        return None
    return score(looked_at(task.test, clf, clf.model)[:, columns], task), {}


def logistic_regression(one: tasks.Task, task: Task, place: Path, changes: Sequence[str]) -> Found:
    """scikit-learn's, by its defaults, on features of zero mean and unit variance."""
    clf = bcos_zoo.load(one.model)
    train, test = (looked_at(part, clf, pooled(clf.model)).numpy() for part in (task.train, task.test))
    regression = LogisticRegression(max_iter=5000)
    if task.multilabel:
        regression = OneVsRestClassifier(regression)
    fitted = make_pipeline(StandardScaler(), regression).fit(train, task.train.labels.numpy())
    return score(torch.from_numpy(fitted.decision_function(test)).float(), task), {}


def pooled(model: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: model.forward_head(model.forward_features(x), pre_logits=True)


@torch.no_grad()
def looked_at(
    samples: Samples, clf: bcos_zoo.Classifier, see: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """What `see` makes of all images, (N, K)."""
    every = range(len(samples))
    parts = [every[i : i + 32] for i in range(0, len(every), 32)]
    return torch.cat([see(clf.preprocess([samples.load(i) for i in part])) for part in parts])


def score(logits: torch.Tensor, task: Task) -> float:
    found = scores.scores(logits, task.test.labels, task.multilabel)
    return found["map" if task.multilabel else "top1"]


def trained(
    one: tasks.Task, task: Task, place: Path, changes: Sequence[str], *, model: str = "", learn: str = "full"
) -> Found:
    """`bcos-zoo finetune` with these changes."""
    recipe = defaults.finetuning(model or one.model, learn, changes)
    recipe = defaults.for_task(recipe, task, changes)
    result = engine.train(recipe, task, place, log=lambda line: None)
    noted = {"epoch": result.best_epoch, "epochs": result.epochs}
    return result.test["map" if task.multilabel else "top1"], noted


def default(one: tasks.Task, task: Task, place: Path, changes: Sequence[str]) -> Found:
    return trained(one, task, place, changes)


def head(one: tasks.Task, task: Task, place: Path, changes: Sequence[str]) -> Found:
    return trained(one, task, place, changes, learn="head")


def from_scratch(one: tasks.Task, task: Task, place: Path, changes: Sequence[str]) -> Found:
    return trained(one, task, place, [*changes, "model.pretrained=false"])


def twin(one: tasks.Task, task: Task, place: Path, changes: Sequence[str]) -> Found | None:
    if one.model not in TWINS:
        return None
    changes = [*changes, *AS_TIMM, *(() if task.multilabel else SOFTMAX)]
    return trained(one, task, place, changes, model=str(TWINS[one.model]))


WAYS: dict[str, Callable[[tasks.Task, Task, Path, Sequence[str]], Found | None]] = {
    "untouched": untouched,
    "logistic regression": logistic_regression,
    "head": head,
    "default": default,
    "from scratch": from_scratch,
    "twin": twin,
}


def table(rows: Sequence[dict]) -> str:
    """Markdown: a line for each task, a column for each way, and the seconds that the default took."""
    lines = [f"| task | {' | '.join(WAYS)} | seconds |", "|---" * (len(WAYS) + 2) + "|"]
    for one in tasks.TASKS:
        of_task = [row for row in rows if row["task"] == one.name]
        cells = [summed([row["score"] for row in of_task if row["way"] == way]) for way in WAYS]
        seconds = [row["seconds"] for row in of_task if row["way"] == "default"]
        took = f"{statistics.mean(seconds):.0f}" if seconds else ""
        if of_task:
            lines.append(f"| {one.name} | {' | '.join(cells)} | {took} |")
    return "\n".join(lines)


def summed(values: Sequence[float]) -> str:
    """Mean ± standard deviation; empty without values."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
