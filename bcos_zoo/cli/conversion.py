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
    log,
    naming_unreadable,
    network_and_file,
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
        bool | None,
        typer.Option(
            "--labels/--no-labels",
            help="Whether labels count. Without them the network keeps all its classes, and DATA may be any "
            "folder of images.",
        ),
    ] = None,
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
    from ..training import converting

    name, file = network_and_file("NAME", original)
    run = folder or Path("runs") / f"{Path(data).stem}-{Path(name).name}"
    if resume:
        changes = all_changes(changes, group, device, epochs, minutes, lr, batch_size)
        return go_on(
            run, changes, data, dry_run, as_json,
            lambda begun: converting.refuse_another(begun, name, file, labels=labels, b=b),
        )  # fmt: skip
    changes = all_changes(changes, group, device, epochs, minutes, lr, batch_size, labels=labels, b=b)
    with naming_unreadable():
        wanted, task = converting.prepared(
            name, file, data, labels=labels is not False, changes=changes, check=not dry_run, log=log
        )
    return run_recipe(wanted, task, data, run, resume, dry_run, as_json)
