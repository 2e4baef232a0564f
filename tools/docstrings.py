"""Formats our docstrings for the site: each argument as a list item, returns and raises as paragraphs.

An extension of griffe, which mkdocs.yml names. In the code, a docstring's line that begins with an argument's
name and a colon describes it; Markdown alone would run all of them together.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

PARAGRAPHS = ("Returns ", "Raises ", "Warns ", "Source: ", "Sources: ")
TERM = re.compile(r"(\w+(?:, \w+)*): ")


def arranged(text: str, names: set[str]) -> str:
    """A docstring as Markdown. names: of the arguments and attributes that may be described in it."""
    lines: list[str] = []
    item = fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        if fenced or line.startswith("```"):
            lines.append(line)
            item = False
            continue
        term = TERM.match(line)
        if term and names.issuperset(term[1].split(", ")):
            if not item:
                lines.append("")
            named = ", ".join(f"`{name}`" for name in term[1].split(", "))
            lines.append(f"- {named}: {line[term.end() :]}")
            item = True
        elif line.startswith(PARAGRAPHS) or not line.strip():
            lines += ["", line]
            item = False
        else:
            lines.append(f"  {line.strip()}" if item else line)
    return "\n".join(lines)


class Docstrings(griffe.Extension):
    """Called by griffe for each object that it has read."""

    def on_object(self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        if obj.docstring is None:
            return
        names = {parameter.name.lstrip("*") for parameter in getattr(obj, "parameters", [])}
        if obj.is_class:
            names |= set(obj.members)
            start = obj.members.get("__init__")
            names |= {parameter.name for parameter in getattr(start, "parameters", [])}
        obj.docstring.value = arranged(obj.docstring.value, names)
