"""What the verbs share: options, the two streams, and how results and errors are printed.

Nothing of torch is imported here, nor at the top of the other files of this folder: `--help` need not wait.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .choices import DEVICES

if TYPE_CHECKING:
    from ..classifier import Classifier

DEFAULT_MODEL = "bcos_resnet20.cifar10"  # the best embedded checkpoint

Model = Annotated[str, typer.Option("--model", help="A checkpoint, hf-hub:org/name or local-dir:PATH.")]
Device = Annotated[str, typer.Option("--device", help=f"Where to compute: {DEVICES}.")]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Images at once: more is faster and takes more memory.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Images = Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")]
Folder = Annotated[Path, typer.Option("-o", help="Folder for what is written.")]


def load(model: str, device: str) -> Classifier:
    """The classifier of that name on the device of that name; the device is looked at first."""
    from .. import classifier, devices

    place = devices.choose(device)
    return classifier.load(model).to(place)


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
