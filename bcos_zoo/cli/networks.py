"""The verbs for networks: list, info, export, push."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, closest
from .console import SHOWN, JsonOption, print_json, print_table

Sample = Annotated[Path | None, typer.Option("--sample", help="Photograph to explain in the card.")]
PublicSample = Annotated[
    Path | None,
    typer.Option("--sample", help="Photograph to explain in the card, for all to see; a cat if not given."),
]


def list_(
    pattern: Annotated[str, typer.Argument(help="Shell wildcards.")] = "*",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Checkpoints only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List architectures, or checkpoints."""
    from .. import zoo

    names = zoo.checkpoint_names(pattern) if pretrained else zoo.list_models(pattern)
    if not names:
        near = closest(pattern, [*zoo.list_models(), *zoo.checkpoint_names()])
        raise InputError(f"nothing is called {pattern!r}; closest: {near}. `bcos-zoo list` shows all")
    if as_json:
        return print_json(zoo.overview(names) if pretrained else names)
    if not pretrained:
        for name in names:
            typer.echo(name)
        return None
    rows: list[tuple[str, ...]] = [("checkpoint", "parameters", "top-1", "where", "licence of the weights")]
    for one in zoo.overview(names):
        top1 = "-" if one["top1"] is None else f"{one['top1']:.2f} %"
        params = "-" if one["params"] is None else f"{one['params'] / 1e6:.1f} M"
        rows.append((one["name"], params, top1, one["where"], one["licence"] or "unknown"))
    print_table(rows, right=(1, 2))
    return None


def info(
    name: Annotated[str, typer.Argument(help="An architecture or a checkpoint.")], as_json: JsonOption = False
) -> None:
    """Show what is known about an architecture and its checkpoints."""
    from .. import zoo

    document = zoo.describe(name)
    if as_json:
        return print_json(document)
    for line in _page(document):
        typer.echo(line)
    return None


def _page(document: dict[str, Any]) -> Iterator[str]:
    """What `describe` says, for people: lines of "word  value", not cut to the width of the terminal."""
    facts: dict[str, str | None] = {
        "architecture": document["architecture"],
        "is": " ".join(document["description"].split()),
        "parameters": f"{document['params']:,}",
        "input": " x ".join(map(str, document["input_size"])),
    }
    yield document["name"]
    if one := document.get("checkpoint"):
        count, labels = one["classes"]["count"], one["classes"]["labels"]
        if labels is None:
            facts["output"] = f"an embedding of {count} numbers"
        else:
            names = (labels,) if isinstance(labels, str) else labels
            shown = names if len(names) <= SHOWN else (*names[:SHOWN], "...")
            facts["classes"] = f"{count} ({', '.join(shown)})"
        pre = one["preprocessing"]
        facts["photographs"] = (
            f"shorter side to {pre['resize']} pixels, {pre['interpolation']}, then the {pre['crop']} crop"
        )
        facts["built with"] = ", ".join(f"{key}={value}" for key, value in one["arguments"].items()) or None
        for metric in one["metrics"]:
            facts[metric["name"]] = f"{metric['value']:g} % on {metric['dataset']} ({metric['kind']})"
        facts["where"] = document["where"]
        for file in one["files"]:
            place = file["where"] and next(iter(file["where"].values()))
            facts["file"] = (
                f"{place or 'no address is known'}, sha256 {file['sha256'] or file['sha256_prefix']}"
            )
        for part in ("weights", "code"):
            facts[f"licence of the {part}"] = one["licence"][part] or "unknown"
        facts["trained on"] = one["training_images"]["name"] or "unknown images"
        facts["terms of the images"] = one["training_images"]["terms"] or "unknown"
        origin = one["origin"]
        facts["made by"] = ", ".join(filter(None, (origin["project"], origin["url"])))
        facts["paper"] = origin["paper"] and f"arXiv:{origin['paper']}"
    else:
        facts["checkpoints"] = ", ".join(document["checkpoints"]) or "none"
    width = max(map(len, facts))
    for word, value in facts.items():
        if value:
            yield f"  {word:{width}}  {value}"


def export(
    model: Annotated[str, typer.Argument(metavar="NAME", help="What --model takes elsewhere.")],
    folder: Annotated[Path, typer.Option("-o", help="Folder to write.")],
    format_: Annotated[
        str, typer.Option("--format", help="hf: the form of models on the Hugging Face Hub.")
    ] = "hf",
    sample: Sample = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Write a checkpoint as a folder: weights, config, model card with a sample explanation; on the CPU."""
    from ..hub import export as hub

    if format_ != "hf":
        raise InputError(f"--format {format_}: allowed is hf")
    typer.echo(hub.export(model, folder, sample=sample, force=force))


def push(
    model: Annotated[str, typer.Argument(metavar="NAME", help="What --model takes elsewhere.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="organisation/name")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch; created if missing.")] = None,
    sample: PublicSample = None,
) -> None:
    """Upload a checkpoint to the Hugging Face Hub, as `export` writes it."""
    from ..hub import export as hub

    typer.echo(hub.push_to_hub(model, repo_id, private=private or None, revision=revision, sample=sample))
