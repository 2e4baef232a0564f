"""Settings of fine-tuning, tried on five small tasks at 32 pixels: why `training/defaults.py` is as it is.

python benchmarks/trials.py [--data data] [--seeds 3] [--tasks NAME ...] [--settings NAME ...]
                            [-o benchmarks/results/trials.jsonl]
The embedded CIFAR-10 network on classes that it knows, photographs of others, digits and textures. Each
setting differs from the default in one thing. Every eighth of the 400 steps is validated, and the network
with the best top-1 is kept, at equal scores the one with the lower loss, as in a run. Prints top-1 on the
test images, which choose nothing, of the network that is kept and, behind the stroke, of the last one; means
over the seeds. What is in the file already is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import tasks
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo.data import Samples, Task, open_task
from bcos_zoo.training import defaults, first_classifier, networks, parameters, runtime

HERE = Path(__file__).resolve().parent
STEPS, LOOKS, SHIFT = 400, 8, 3
KNOWN = ("automobile", "cat", "frog", "ship")


@dataclass(frozen=True)
class Setting:
    """rate: of Adam. relative: to the size of each weight. head: factor for the classifier."""

    rate: float = 2e-2
    relative: bool = True
    head: float = 1.0
    fitted: bool = True  # the classifier, before the first step (LP-FT, Kumar et al. 2022)
    by_depth: float = 1.0  # factor on the rate from each block to the one before it
    warmup: float = 0.1  # share of the steps
    kept_statistics: bool = False  # norms use the checkpoint's, and do not update them
    towards_start: float = (
        0.0  # share of the way back in each step, at the highest rate (L2-SP, Li et al. 2018)
    )
    average: float = 0.0  # decay of a moving average of the weights
    interpolated: bool = (
        False  # at the end, between start and end by validation (WiSE-FT, Wortsman et al. 2022)
    )


DEFAULT = Setting()
SETTINGS = {
    "the default": DEFAULT,
    "a random classifier": replace(DEFAULT, fitted=False),
    "rate 5e-2": replace(DEFAULT, rate=5e-2),
    "rate 1e-2": replace(DEFAULT, rate=1e-2),
    "rate 3e-3": replace(DEFAULT, rate=3e-3),
    "rate 1e-3": replace(DEFAULT, rate=1e-3),
    "one rate for all, 2e-3, head 2e-2": Setting(rate=2e-3, relative=False, head=10),
    "classifier ten times as fast": replace(DEFAULT, head=10),
    "rates falling by 0.8 a block": replace(DEFAULT, by_depth=0.8),
    "no warm-up": replace(DEFAULT, warmup=0.0),
    "statistics kept": replace(DEFAULT, kept_statistics=True),
    "towards the start, 0.01": replace(DEFAULT, towards_start=0.01),
    "moving average, 0.98": replace(DEFAULT, average=0.98),
    "interpolated": replace(DEFAULT, interpolated=True),
}
OTHERS = tuple(tasks.IMAGENETTE)
TASKS = (
    tasks.Task("known classes, 4 x 30", tasks.SMALL, partial(tasks.photographs, "cifar10", KNOWN, 30, 200)),
    tasks.Task("Imagenette, 10 x 30", tasks.SMALL, partial(tasks.photographs, "imagenette", OTHERS, 30, 60)),
    tasks.Task("Imagenette, 10 x 5", tasks.SMALL, partial(tasks.photographs, "imagenette", OTHERS, 5, 60)),
    tasks.Task("digits, 10 a class", tasks.SMALL, partial(tasks.digits, 10), tasks.UPRIGHT),
    tasks.Task("textures, 6 x 10", tasks.SMALL, partial(tasks.textures, 10, 60)),
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    images: Tensor  # (N, 3, 32, 32)
    labels: Tensor  # (N,)


@dataclass(frozen=True)
class Look:
    """What validation and test say of a network, in percent of the images."""

    val: float
    loss: float
    test: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = [task.name for task in TASKS]
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="*", default=names, choices=names, metavar="NAME")
    parser.add_argument(
        "--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS), metavar="NAME"
    )
    parser.add_argument("-o", dest="file", type=Path, default=HERE / "results" / "trials.jsonl")
    asked = parser.parse_args()
    rows = tasks.read_rows(asked.file)
    done = {(row["task"], row["setting"], row["seed"]) for row in rows}
    for seed in range(asked.seeds):
        for one in TASKS:
            missing = [name for name in asked.settings if (one.name, name, seed) not in done]
            if one.name not in asked.tasks or not missing:
                continue
            with tempfile.TemporaryDirectory() as place:
                task = open_task(str(one.write(Path(place), seed, asked.data)), log=lambda line: None)
                parts = loaded(task)
                start = fitted(task, seed)
            for name in missing:
                began = time.monotonic()
                kept, last = tried(SETTINGS[name], parts, start, seed, flip=not one.changes)
                row = {"task": one.name, "setting": name, "seed": seed, "kept": kept, "last": last}
                print(f"{row}, {time.monotonic() - began:.0f} s", flush=True)
                rows.append(row)
                tasks.add_row(asked.file, row)
    print(table(rows))


def loaded(task: Task) -> dict[str, Part]:
    """All images, as the network sees them."""
    see = networks.val_transform(bcos_zoo.load(tasks.SMALL).model)

    def part(samples: Samples) -> Part:
        images = torch.stack([see(samples.load(i)) for i in range(len(samples))])
        return Part(images, torch.as_tensor(samples.labels))

    return {"train": part(task.train), "val": part(task.val), "test": part(task.test)}


def fitted(task: Task, seed: int) -> nn.Module:
    """The checkpoint with the classifier that a run begins with."""
    recipe = defaults.finetuning(tasks.SMALL, changes=[f"run.seed={seed}", "run.trackers=[]"])
    with tempfile.TemporaryDirectory() as place:
        accelerator = runtime.accelerator(recipe, place)
    torch.manual_seed(seed)
    model, _ = networks.build(recipe, task)
    parameters.to_unit_rows(model)
    first_classifier.begin(model, recipe, task, accelerator)
    return model


def tried(
    setting: Setting, parts: dict[str, Part], start: nn.Module, seed: int, *, flip: bool
) -> tuple[float, float]:
    """Top-1 of the network that is kept, and of the last one."""
    torch.manual_seed(seed)
    model = copy.deepcopy(start)
    if not setting.fitted:
        model.reset_classifier(model.num_classes)
        parameters.to_unit_rows(model.get_classifier())
    looks = [look(model, parts)]
    network = model
    for network in trained(model, start, setting, parts["train"], flip=flip):
        looks.append(look(network, parts))
    last = looks[-1].test
    if setting.interpolated:
        looks += [look(between(start, network, share), parts) for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
    kept = max(looks, key=lambda one: (one.val, -one.loss))
    return kept.test, last


def trained(
    model: nn.Module, start: nn.Module, setting: Setting, part: Part, *, flip: bool
) -> Iterator[nn.Module]:
    """Train, and yield the network, or its average, after each eighth of the steps."""
    count = len(part.labels)
    batch = defaults.batch_size(count)
    groups = [{"params": [p], "share": share(name, p, setting)} for name, p in model.named_parameters()]
    optimizer = torch.optim.Adam(groups, lr=setting.rate)
    average = copy.deepcopy(model) if setting.average else None
    order: list[int] = []
    for step in range(STEPS):
        rise = min((step + 1) / (setting.warmup * STEPS), 1) if setting.warmup else 1.0
        level = rise * falling(step, STEPS)
        for group in optimizer.param_groups:
            group["lr"] = setting.rate * group["share"] * level
        if len(order) < batch:
            order += torch.randperm(count).tolist()
        some, order = order[:batch], order[batch:]
        model.train()
        if setting.kept_statistics:
            for module in model.modules():
                if "Norm" in type(module).__name__:
                    module.eval()
        optimizer.zero_grad()
        loss_of(model(moved(part.images[some], flip=flip)), part.labels[some]).backward()
        optimizer.step()
        with torch.no_grad():
            if setting.towards_start:
                for p, was in zip(model.parameters(), start.parameters(), strict=True):
                    p.lerp_(was, setting.towards_start * level)
            if average is not None:
                decay = min(setting.average, (1 + step) / (10 + step))
                for ours, now in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                    ours.copy_(now if not now.is_floating_point() else ours.lerp(now, 1 - decay))
        if (step + 1) % (STEPS // LOOKS) == 0:
            yield copy.deepcopy(average or model)


def share(name: str, p: nn.Parameter, setting: Setting) -> float:
    """What multiplies the rate of a weight."""
    factor = parameters.size(p) if setting.relative else 1.0
    if name.startswith("fc"):
        return factor * setting.head
    blocks_after = 0 if not name.startswith("layer") else 9 - 3 * (int(name[5]) - 1) - int(name.split(".")[1])
    return factor * setting.by_depth ** (blocks_after if name.startswith("layer") else 10)


def falling(step: int, steps: int) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * step / steps)


def moved(images: Tensor, *, flip: bool) -> Tensor:
    """Each image shifted by some pixels, and maybe mirrored."""
    padded = F.pad(images, [SHIFT] * 4)
    side = images.shape[-1]
    found = []
    for image in padded:
        down, across = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
        image = image[:, down : down + side, across : across + side]
        found.append(image.flip(-1) if flip and torch.rand(()) < 0.5 else image)
    return torch.stack(found)


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, logits.shape[1]).float())


@torch.no_grad()
def look(model: nn.Module, parts: dict[str, Part]) -> Look:
    model.eval()
    logits = {
        name: torch.cat([model(some) for some in parts[name].images.split(256)]) for name in ("val", "test")
    }
    right = {
        name: 100 * (its.argmax(1) == parts[name].labels).float().mean().item()
        for name, its in logits.items()
    }
    return Look(right["val"], loss_of(logits["val"], parts["val"].labels).item(), right["test"])


def between(start: nn.Module, end: nn.Module, share: float) -> nn.Module:
    """Weights and statistics on the line from the start to the end."""
    made, before = copy.deepcopy(end), start.state_dict()
    made.load_state_dict(
        {
            key: before[key].lerp(value, share) if value.is_floating_point() else value
            for key, value in end.state_dict().items()
        }
    )
    return made


def table(rows: Sequence[dict]) -> str:
    """Markdown: a line for each setting, a column for each task."""
    names = [task.name for task in TASKS]
    lines = [f"| setting | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for setting in SETTINGS:
        cells = []
        for name in names:
            found = [row for row in rows if row["task"] == name and row["setting"] == setting]
            mean = [statistics.mean(row[key] for row in found) for key in ("kept", "last")] if found else []
            cells.append(" / ".join(f"{value:.1f}" for value in mean))
        if any(cells):
            lines.append(f"| {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
