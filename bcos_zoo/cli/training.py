"""The verbs that train: finetune, train."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .choices import DEVICES
from .console import FolderOption, JsonOption, console, print_json

if TYPE_CHECKING:
    from ..data import Task
    from ..training.recipe import Recipe

HUB_SETS = ("hfds/", "hfids/")
DataOption = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Folder with a sub-folder of images for each class (or train/ and val/ of such), a CSV file, or "
        "one of timm's: hfds/NAME, wds/PATH, torch/NAME, a tar.",
    ),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change the recipe; repeatable.")
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group",
        help="Keep images of a patient, animal or video on one side of the split: a column of the CSV, or a "
        r"pattern for the paths, such as 'patient(\d+)'.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]
BatchSizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Images per step; as the recipe says if not given."),
]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", min=1, help="Passes over the training images, in place of the recipe's."),
]
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", help="End within so many minutes, with fewer epochs if need be."),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--lr",
        help="The highest learning rate, in place of the recipe's; finetune's is a share of a weight's size.",
    ),
]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        metavar="NAME[+FILE]",
        help="Learn from a network, of this zoo or timm's, with weights that are fetched or in a file.",
    ),
]
Labels = Annotated[
    bool | None,
    typer.Option("--labels/--no-labels", help="Whether labels count beside the teacher; as the recipe says."),
]
Where = Annotated[
    str | None,
    typer.Option("--device", help=f"Where to compute: {DEVICES}; as the recipe says if not given."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what the run would do, and stop.")]


def finetune(
    data: DataOption,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="The network to begin with; if not given, the best that comes with bcos_zoo."
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("-o", help="The run folder; runs/DATA-MODEL if not given.")
    ] = None,
    learn: Annotated[
        str,
        typer.Option(
            "--train",
            help="What learns: full, head (linear probe), or from:LAYER (that layer and all after it).",
        ),
    ] = "full",
    changes: Set = None,
    device: Where = None,
    epochs: Epochs = None,
    minutes: Minutes = None,
    lr: Rate = None,
    batch_size: BatchSizeOption = None,
    group: Group = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a network into a classifier of your own images."""
    from .. import zoo
    from ..training import defaults

    changes = all_changes(changes, group, device, epochs, minutes, lr, batch_size)
    model = zoo.best_embedded() if model is None else model
    run = folder or Path("runs") / f"{Path(data).stem}-{Path(model).name}"
    if resume:
        return go_on(run, changes, data, dry_run, as_json)
    settings = defaults.finetuning(model, learn, changes)
    task = open_images(data, settings, dry_run)
    run_recipe(defaults.for_task(settings, task, changes), task, data, run, resume, dry_run, as_json)


def go_on(
    run: Path,
    changes: list[str],
    data: str,
    dry_run: bool,
    as_json: bool,
    check: Callable[[Recipe], None] = lambda begun: None,
) -> None:
    """Go on with a run by the recipe in its folder, which `check` may refuse. Raises InputError for none."""
    from ..training import recipe, states
    from ..training.records import RECIPE

    states.require(run)
    if not (run / RECIPE).is_file():
        raise InputError(
            f"{run} holds no {RECIPE}, by which a run goes on; put it back, or start anew in another folder"
        )
    check(recipe.read(run / RECIPE))
    wanted = recipe.read(run / RECIPE, changes)
    run_recipe(wanted, open_images(data, wanted, dry_run), data, run, True, dry_run, as_json)


def train_(
    config: Annotated[Path, typer.Argument(help="A TOML file, such as those in configs/.")],
    data: DataOption,
    folder: FolderOption = Path("runs/train"),
    changes: Set = None,
    device: Where = None,
    epochs: Epochs = None,
    minutes: Minutes = None,
    lr: Rate = None,
    batch_size: BatchSizeOption = None,
    group: Group = None,
    teacher: TeacherOption = None,
    labels: Labels = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: JsonOption = False,
) -> None:
    """Train a network as a recipe says."""
    from ..training import effects, recipe, states

    if resume:
        states.require(folder)
    changes = all_changes(changes, group, device, epochs, minutes, lr, batch_size, teacher, labels)
    wanted = recipe.read(config, changes)
    effects.check(wanted)
    run_recipe(wanted, open_images(data, wanted, dry_run), data, folder, resume, dry_run, as_json)


def all_changes(
    changes: list[str] | None,
    group: str | None,
    device: str | None,
    epochs: int | None,
    minutes: float | None,
    lr: float | None,
    batch_size: int | None,
    teacher: str | None = None,
    labels: bool | None = None,
    b: float | None = None,
) -> list[str]:
    """The changes by --set and by options of their own. Raises InputError if both set the same key."""
    found = list(changes or ())
    name, file = (None, None) if teacher is None else network_and_file("--teacher", teacher)
    for option, key, value in (
        ("--group", "data.group", None if group is None else json.dumps(group, ensure_ascii=False)),
        ("--device", "run.device", None if device is None else json.dumps(device)),
        ("--epochs", "run.epochs", epochs),
        ("--minutes", "run.minutes", minutes),
        ("--lr", "optimizer.lr", lr),
        ("--batch-size", "run.batch_size", batch_size),
        ("--teacher", "teacher.name", name and json.dumps(name, ensure_ascii=False)),
        ("--teacher", "teacher.weights", file and json.dumps(file, ensure_ascii=False)),
        ("--labels", "teacher.labels", None if labels is None else float(labels)),
        ("--b", "model.args.b", b),
    ):
        if value is None:
            continue
        if twice := [text for text in found if text.partition("=")[0].strip() == key]:
            raise InputError(f"{option} and --set {twice[0]} say the same; leave out one of them")
        found.append(f"{key}={value}")
    return found


def network_and_file(option: str, given: str) -> tuple[str, str | None]:
    """The name of a network, and the file of its weights, if any. A folder may have a + in its name."""
    name, plus, file = (given, "", "") if given and Path(given).exists() else given.partition("+")
    if not name or (plus and not file):
        raise InputError(f"{option} {given!r}: give NAME, or NAME+FILE with the file of its weights")
    return name, file or None


def open_images(source: str, wanted: Recipe, dry_run: bool) -> Task:
    from ..training import opening

    with naming_unreadable():
        return opening.open_for(wanted, source, check=not dry_run, log=log)


@contextmanager
def naming_unreadable() -> Iterator[None]:
    """Print each image that cannot be read, where they are too many."""
    from ..data import UnreadableError

    try:
        yield
    except UnreadableError as error:
        for line in error.unreadable:
            log(line)
        raise


def run_recipe(
    wanted: Recipe, task: Task, source: str, folder: Path, resume: bool, dry_run: bool, as_json: bool
) -> None:
    from ..training import engine, recipe, runtime
    from ..training.dry_run import dry_run as facts_of
    from ..training.page import PAGE

    if dry_run:
        facts = facts_of(wanted, task, folder, resume=resume)
        if as_json:
            return print_json(facts | {"recipe": asdict(wanted)})
        lines = "".join(f"# {key}: {value}\n" for key, value in facts.items())
        return typer.echo(lines + recipe.to_toml(wanted), nl=False)
    with _progress() as progress:
        result = engine.train(
            wanted, task, folder, resume=resume, source=_public(source), log=log, progress=progress
        )
    if not runtime.is_main():
        return None
    if as_json:
        places = {"folder": str(result.folder), "page": str(result.folder / PAGE)}
        return print_json(asdict(result) | places)
    said = f"validation {_said(result.scores)}" + (f"; test {_said(result.test)}" if result.test else "")
    typer.echo(f"{result.folder}: network of epoch {result.best_epoch} of {result.epochs}: {said}")
    return typer.echo(f"{result.folder / PAGE} shows how it went, and its worst mistakes explained")


def _public(source: str) -> str:
    """What a card calls the images: a set of the Hub by its name, all else by its last part."""
    prefix = next((one for one in HUB_SETS if source.startswith(one)), None)
    if prefix and not Path(source.removeprefix(prefix)).exists():
        return source
    return Path(source).name or source


def _said(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())


def log(line: str) -> None:
    console(stderr=True).print(line, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..training import runtime

    err = console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not runtime.is_main()) as bar:
        one = bar.add_task("loss", total=None)

        def advance(done: int, total: int, loss: float) -> None:
            bar.update(one, completed=done, total=total, description=f"loss {loss:.4f}")

        yield advance
