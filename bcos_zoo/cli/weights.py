"""The sub-commands of `bcos-zoo weights`: fetch, path, verify, list, convert."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import JsonOption, print_json

if TYPE_CHECKING:
    from .. import weights

MOST_ADVICE = 3
app = typer.Typer(no_args_is_help=True, help="Work on files of weights.")

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Checkpoints, or architectures.")]
Some = Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Checkpoints, or architectures.")]
CacheDir = Annotated[Path | None, typer.Option("--cache-dir", help="A folder in place of the usual caches.")]


@app.command()
def fetch(names: Names, cache_dir: CacheDir = None, as_json: JsonOption = False) -> None:
    """Download the files of checkpoints, unless they are there, and verify them."""
    from .. import weights, zoo

    records = [zoo.find_checkpoint(name) for name in names]
    _print_files({record.name: str(weights.fetch(record, cache_dir)) for record in records}, as_json)


@app.command()
def path(names: Names, cache_dir: CacheDir = None, as_json: JsonOption = False) -> None:
    """Say where the files of checkpoints are, or would be after a download."""
    from .. import weights, zoo

    records = [zoo.find_checkpoint(name) for name in names]
    _print_files({record.name: str(weights.location(record, cache_dir)) for record in records}, as_json)


def _print_files(files: dict[str, str], as_json: bool) -> None:
    if as_json:
        return print_json(files)
    for file in files.values():
        typer.echo(file)


@app.command()
def verify(names: Some = None, cache_dir: CacheDir = None, as_json: JsonOption = False) -> None:
    """Hash the files that are here, for all checkpoints or some; exit with 2 if one is bad."""
    from .. import weights, zoo

    records = [zoo.find_checkpoint(name) for name in names] if names else weights.cached(cache_dir)
    verdicts = list(weights.verify(records, cache_dir))
    wanted = ("ok",) if names else ("ok", "missing")  # a file may vanish meanwhile
    bad = [verdict for verdict in verdicts if verdict.state not in wanted]
    if as_json:
        print_json([asdict(one) | {"path": None if one.path is None else str(one.path)} for one in verdicts])
    else:
        _print_verdicts(verdicts)
    if bad:
        typer.echo(
            f"error: of {len(verdicts)} files {len(bad)} are not as they should be "
            f"({', '.join(verdict.name for verdict in bad)}); {_advice(bad)}",
            err=True,
        )
        raise typer.Exit(2)


def _advice(bad: list[weights.Verdict]) -> str:
    """What to do about each of a few files; the same advice is given once."""
    each = dict.fromkeys(f"{one.name}: {one.advice}" if len(bad) > 1 else str(one.advice) for one in bad)
    shown = list(each)[:MOST_ADVICE]
    return "; ".join(shown) + ("; ..., see --json" if len(each) > len(shown) else "")


def _print_verdicts(verdicts: list[weights.Verdict]) -> None:
    for verdict in verdicts:
        hashes = f"expected {verdict.expected}, got {verdict.sha256}" if verdict.state == "bad" else ""
        typer.echo(
            f"{verdict.state:12} {_size(verdict.bytes)}  {verdict.name}  {verdict.path or ''}  {hashes}"
        )


def _size(count: int | None) -> str:
    return "-".rjust(11) if count is None else f"{count / 1e6:8.1f} MB"


@app.command("list")
def list_weights(
    cached: Annotated[bool, typer.Option("--cached", help="Only those whose files are here.")] = False,
    cache_dir: CacheDir = None,
    as_json: JsonOption = False,
) -> None:
    """List the checkpoints, with the sizes of the files that are here."""
    from .. import weights, zoo

    here = {record.name: weights.location(record, cache_dir) for record in weights.cached(cache_dir)}
    sizes = {name: file.stat().st_size for name, file in here.items()}
    names = list(here) if cached else list(dict.fromkeys([*zoo.list_models(pretrained=True), *here]))
    if as_json:
        files = {name: str(file) for name, file in here.items()}
        return print_json([{"name": n, "bytes": sizes.get(n), "file": files.get(n)} for n in names])
    for name in names:
        typer.echo(f"{_size(sizes.get(name))}  {name}")


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="A published file: .safetensors, .pth, .pkl or .ckpt.")
    ],
    name: Annotated[
        str,
        typer.Option("--to", metavar="NAME", help="The checkpoint or architecture that the weights are of."),
    ],
    target: Annotated[
        Path, typer.Option("-o", help="File or folder to write; NAME.safetensors if not given.")
    ] = Path("."),
    take: Annotated[
        str | None,
        typer.Option(
            "--take",
            help="Which of several sets of weights, such as state_dict; the moving average if not given.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a published file of weights, in whatever layout, into a .safetensors file of our own."""
    from .. import zoo
    from ..weights import checksums

    path = zoo.convert(source, name, target, take=take, force=force)
    if as_json:
        document = {"name": name, "source": str(source), "file": str(path), "sha256": checksums.sha256(path)}
        return print_json(document | {"bytes": path.stat().st_size})
    typer.echo(path)
