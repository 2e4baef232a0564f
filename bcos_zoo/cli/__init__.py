"""The command `bcos-zoo`. A verb parses, calls the library, prints: results on stdout, the rest on stderr."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from .._version import __version__
from ..errors import BcosZooError
from . import conversion, evaluation, explanations, networks, training, weights
from .console import error_line, told
from .effects import Verb

__all__ = ["app", "main", "run"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
app.command("list")(networks.list_)
app.command("info")(networks.info)
app.command("predict")(explanations.predict)
app.command("explain", cls=Verb)(explanations.explain)
app.command("units")(explanations.units)
app.command("verify")(explanations.verify_bundle)
app.command("finetune", cls=Verb)(training.finetune)
app.command("train")(training.train_)
app.command("bcosify")(conversion.bcosify)
app.command("evaluate", cls=Verb)(evaluation.evaluate_)
app.command("export")(networks.export)
app.command("push")(networks.push)
app.add_typer(weights.app, name="weights")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit code: 0, or 2 with one `error:` line for bad input or usage."""
    try:
        with told():
            code = app(arguments, standalone_mode=False)
    except BcosZooError as error:
        typer.echo(error_line(error), err=True)
        return 2
    except OSError as error:
        if error.filename is None:  # not about a file that someone named
            raise
        name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else error.filename
        said = f"{str(name)!r}: {error.strerror}; check the name, and who may read and write there"
        typer.echo(error_line(said), err=True)
        return 2
    except typer.exceptions.TyperException as error:
        if message := error.format_message().rstrip("."):  # empty without a command: help was printed
            typer.echo(f"error: {message}; see bcos-zoo --help", err=True)
        return 2
    except typer.Abort:
        return 130
    return int(code or 0)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # file names need not be text: as `ls` writes them
    sys.exit(run())
