"""The verbs that make networks: train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import train
from .console import Folder


def train_(
    config: Annotated[Path, typer.Argument(help="A TOML file, such as those in configs/.")],
    data: Annotated[Path, typer.Argument(help="Folder with train/<class>/ and val/<class>/.")],
    folder: Folder = Path("runs/train"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
) -> None:
    """Train a network from nothing."""
    written = train.train(
        train.read_config(config), data, folder, resume=resume, log=lambda line: typer.echo(line, err=True)
    )
    typer.echo(written)
