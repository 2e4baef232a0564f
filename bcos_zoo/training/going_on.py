"""What to do with a finished run next, as commands to copy; they name no folder above it."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from .. import zoo
from ..models.interface import Network


def place(folder: str | os.PathLike[str]) -> str:
    """What to call a run's folder: its path from the working directory, or else from its own parent.

    A name alone, or one like an option, begins with "./": so it is neither taken for a network of the zoo nor
    for an option.
    """
    path, here = Path(os.path.abspath(folder)), Path.cwd()
    text = str(path.relative_to(here) if path.is_relative_to(here) else path.name)
    plain = text == os.curdir or (os.sep in text and not text.startswith("-"))
    return text if plain else os.path.join(os.curdir, text)


def steps(folder: str | os.PathLike[str], network: Network, *, explains: bool) -> list[tuple[str, str]]:
    """Purposes, each with its command or lines of Python. explains: whether it has exact explanations.

    bcos_zoo's own verbs load networks of this zoo alone, so for one of timm's there is less.
    """
    run = place(folder)
    word, text = shlex.quote(run), json.dumps(run, ensure_ascii=False)
    more = ("Train it on other images", f"bcos-zoo finetune DATA --model {word}")
    if not network.pretrained_cfg["architecture"].startswith(zoo.PREFIX):
        source = json.dumps(f"local-dir:{run}", ensure_ascii=False)
        python = f"import timm\n\nmodel = timm.create_model({source}, pretrained=True).eval()"
        return [more, ("Take it in Python", python)]
    first = ("Classify photographs", f"bcos-zoo predict photo.jpg --model {word}")
    if explains:
        first = ("Explain photographs", f"bcos-zoo explain photo.jpg --model {word} -o out")
    return [
        first,
        ("Measure it on other images", f"bcos-zoo evaluate DATA --model {word}"),
        more,
        ("Put it on the Hugging Face Hub, without this page", f"bcos-zoo push {word} organisation/name"),
        ("Take it in Python", f"import bcos_zoo\n\nclf = bcos_zoo.load({text})"),
    ]
