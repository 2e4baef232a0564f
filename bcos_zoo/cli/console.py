"""What the verbs share: options, the two streams, and how results and errors are printed.

torch is imported neither here nor at the top of the other files of this folder, to keep `--help` fast.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .choices import DEVICES

if TYPE_CHECKING:
    from rich.console import Console

    from ..classifier import Classifier

SHOWN = 20  # up to that many classes, all names are printed

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A checkpoint, hf-hub:org/name or a folder; by default the best one that comes with bcos_zoo.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help=f"Where to compute: {DEVICES}.")]
BatchSizeOption = Annotated[
    int, typer.Option("--batch-size", min=1, help="Images at once: more is faster and takes more memory.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
]
Images = Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")]
FolderOption = Annotated[Path, typer.Option("-o", help="Folder to write into.")]


def load(model: str | None, device: str) -> tuple[str, Classifier]:
    """The name of a classifier, and the classifier on the named device, which is checked first.

    If no model is named, stderr says which one is used, and which classes it knows.
    """
    from .. import classifier, devices, zoo

    place = devices.choose(device)
    name = zoo.best_embedded() if model is None else model
    loaded = classifier.load(name).to(place)
    if model is None:
        names = loaded.class_names
        known = ", ".join(names if len(names) <= SHOWN else (*names[:5], "..."))
        typer.echo(f"no --model given: {name} sees {len(names)} classes ({known}) in every image", err=True)
    return name, loaded


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2))


def print_table(rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> None:
    """Columns as wide as needed, on a terminal and in a pipe: nothing is cut. right: those to align right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())


def report(errors: list[InputError]) -> None:
    """Name every image that could not be used, then leave with exit code 2 if there was one."""
    for error in errors:
        typer.echo(error_line(error), err=True)
    if errors:
        raise typer.Exit(2)


def error_line(error: object) -> str:
    """The one line that reports an error, whatever names are in it."""
    return f"error: {on_one_line(' '.join(str(error).splitlines()))}"


def on_one_line(name: object) -> str:
    """A name, with characters that break lines or control a terminal escaped as by Python."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Zl", "Zp")
        else character
        for character in str(name)
    )


def console(*, stderr: bool = False) -> Console:
    """Where rich prints. Names of files and classes come out as they are, not read as markup."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(f"note: {on_one_line(' '.join(record.getMessage().splitlines()))}", err=True)


@contextmanager
def told() -> Iterator[None]:
    """Print, a line each, what the library reports besides its results, such as skipped files.

    What Pillow logs of a damaged file is not printed: the error says that the file cannot be read.
    """
    logger, notes = logging.getLogger("bcos_zoo.images"), _Notes(logging.WARNING)
    pillow, nothing = logging.getLogger("PIL"), logging.NullHandler()
    before, logger.propagate = logger.propagate, False
    logger.addHandler(notes)
    pillow.addHandler(nothing)
    try:
        yield
    finally:
        pillow.removeHandler(nothing)
        logger.removeHandler(notes)
        logger.propagate = before


def parse_target(classifier: Classifier, text: str) -> int | str:
    """A label, or else, if no class is called that, a class index."""
    number = re.fullmatch("-?[0-9]+", text) and text not in classifier.class_names
    return int(text) if number else text
