"""The verb that converts: bcosify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import JsonOption
from .training import (
    BatchSizeOption,
    DataOption,
    DryRun,
    Epochs,
    Group,
    Minutes,
    Rate,
    Resume,
    Set,
    Where,
    all_changes,
    go_on,
    network_and_file,
    open_images,
    run_recipe,
)


def bcosify(
    original: Annotated[
        str,
        typer.Argument(
            metavar="NAME[+FILE]",
            help="A network of timm's with pretrained weights, which are fetched or in a file.",
        ),
    ],
    data: DataOption,
    folder: Annotated[
        Path | None, typer.Option("-o", help="The run folder; runs/DATA-NAME if not given.")
    ] = None,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels/--no-labels",
            help="Whether labels count. Without them the network keeps all its classes, and DATA may be any "
            "folder of images.",
        ),
    ] = True,
    b: Annotated[
        float | None, typer.Option("--b", help="The exponent of B-cos layers: 1 or more; 1.5 unless given.")
    ] = None,
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
    """Turn a conventional network into a B-cos network, which learns from itself as it was."""
    from ..data.unlabelled import has_classes
    from ..training import converting

    changes = all_changes(changes, group, device, epochs, minutes, lr, batch_size)
    name, file = network_and_file("NAME", original)
    run = folder or Path("runs") / f"{Path(data).stem}-{Path(name).name}"
    if resume:
        return go_on(run, changes, data, dry_run, as_json)
    more = [] if labels or has_classes(data) else ["data.labels=false"]
    settings = converting.converting(
        name, file, labels=labels, b=converting.B if b is None else b, changes=[*more, *changes]
    )
    task = open_images(data, settings, run, dry_run)
    wanted = converting.for_task(settings, task, [*more, *changes])
    return run_recipe(wanted, task, data, run, resume, dry_run, as_json)
