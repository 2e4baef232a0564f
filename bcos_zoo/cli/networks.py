"""The verbs for networks: list, info, export, push."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .console import Json, console, print_json

Sample = Annotated[Path | None, typer.Option("--sample", help="Photograph of the card's explanation.")]


def list_(
    pattern: Annotated[str, typer.Argument(help="Shell wildcards.")] = "*",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Checkpoints only.")] = False,
    as_json: Json = False,
) -> None:
    """List architectures, or checkpoints."""
    from .. import zoo

    names = zoo.list_models(pattern, pretrained=pretrained)
    if as_json:
        return print_json(names)
    for name in names:
        typer.echo(name)


def info(
    name: Annotated[str, typer.Argument(help="An architecture or a checkpoint.")], as_json: Json = False
) -> None:
    """Show what is known of an architecture and its checkpoints."""
    from rich.table import Table

    from .. import zoo

    document = zoo.describe(name)
    if as_json:
        return print_json(document)
    table = Table(show_header=False, box=None)
    for key, value in document.items():
        table.add_row(key, json.dumps(value) if isinstance(value, (dict, list)) else str(value))
    console().print(table)


def export(
    model: Annotated[str, typer.Argument(metavar="NAME", help="What --model takes elsewhere.")],
    folder: Annotated[Path, typer.Option("-o", help="Folder to write.")],
    format_: Annotated[str, typer.Option("--format", help="hf: as the Hugging Face Hub has models.")] = "hf",
    sample: Sample = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write a checkpoint as a folder: weights, config, model card with a sample explanation; on the CPU."""
    from .. import hub

    if format_ != "hf":
        raise InputError(f"--format {format_}: allowed is hf")
    typer.echo(hub.export(model, folder, sample=sample, force=force))


def push(
    model: Annotated[str, typer.Argument(metavar="NAME", help="What --model takes elsewhere.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="organisation/name")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch; made if missing.")] = None,
    sample: Sample = None,
) -> None:
    """Upload a checkpoint to the Hugging Face Hub, as `export` writes it."""
    from .. import hub

    typer.echo(hub.push_to_hub(model, repo_id, private=private or None, revision=revision, sample=sample))
