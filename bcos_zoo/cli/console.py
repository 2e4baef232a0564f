"""What the verbs share: options, the two streams, and how results and errors are printed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..classifier import Classifier
from ..errors import InputError

DEFAULT_MODEL = "bcos_resnet20.cifar10"  # the best embedded checkpoint

out = Console()
err = Console(stderr=True)

Model = Annotated[str, typer.Option("--model", help="A checkpoint, hf-hub:org/name or local-dir:PATH.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Images = Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")]
Folder = Annotated[Path, typer.Option("-o", help="Folder for what is written.")]


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2))


def report(errors: list[InputError]) -> None:
    """Name every image that could not be used, then leave with exit code 2 if there was one."""
    for error in errors:
        typer.echo(f"error: {error}", err=True)
    if errors:
        raise typer.Exit(2)


def parse_target(classifier: Classifier, text: str) -> int | str:
    """A label, or a class index where no class is called so."""
    number = re.fullmatch("-?[0-9]+", text) and text not in classifier.class_names
    return int(text) if number else text
