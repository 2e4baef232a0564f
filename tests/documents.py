"""The pages that people read, taken apart: blocks of code that can be run, links, headings.

A block whose fence begins with ```python or ```sh is run. Behind the language may stand `notest`, and then
the text right before or behind the block says why it is "not run"; or `slow`, for what takes more than five
seconds. A fence without a language holds no code: output, or a drawing.
"""

from __future__ import annotations

import functools
import re
import runpy
import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from sybil import Document, Example, Region
from sybil.document import PythonDocStringDocument
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

import bcos_zoo
from bcos_zoo import cli

ROOT = Path(bcos_zoo.__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted(path for path in (ROOT / "bcos_zoo").rglob("*.py") if "```" in path.read_text("utf-8"))
LANGUAGES = ("python", "sh")
DATA = ("toml", "json", "yaml", "text", "bibtex", "mermaid")
MARKS = ("", "notest", "slow")
FENCE = RawFencedCodeBlockLexer(re.compile(r"[ \t]*(?P<language>[^\s`]*)[ \t]*(?P<mark>[^\n`]*)\n"))
REASON = re.compile(r"\bnot\s+run\b(\W+\w+){3,}", re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """A block of code in a page, or in a docstring."""

    path: Path
    example: Example
    around: str  # the paragraphs right before and behind it

    @property
    def mark(self) -> str:
        return str(self.example.region.lexemes["mark"]).strip()

    @property
    def language(self) -> str:
        return str(self.example.region.lexemes["language"])

    @property
    def explained(self) -> bool:
        """Whether the text beside a block that is not run says why."""
        return REASON.search(self.around) is not None

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.example.line}"


def blocks(path: Path) -> list[list[Block]]:
    """The blocks of a page, which see each other's names; of a module, those of each docstring by itself."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return [_blocks(path, Document(text, str(path)))]
    found = []
    for start, _, docstring in PythonDocStringDocument.extract_docstrings(text):
        before = "\n" * text.count("\n", 0, start)  # so that lines are counted from the head of the file
        found.append(_blocks(path, Document(before + docstring, str(path))))
    return [some for some in found if some]


def _blocks(path: Path, document: Document) -> list[Block]:
    for region in FENCE(document):
        if region.lexemes["language"]:
            region.parsed = region.lexemes["source"]
            region.evaluator = {"python": PythonEvaluator(), "sh": shell}.get(region.lexemes["language"])
            document.add(region)
    document.namespace["__name__"] = "example"
    return [Block(path, one, _around(document.text, one.region)) for one in document.examples()]


def _around(text: str, region: Region) -> str:
    before = re.split(r"\n[ \t]*\n", text[: region.start].rstrip())[-1]
    behind = re.split(r"\n[ \t]*\n", text[region.end :].strip())[0]
    return f"{before}\n\n{'' if '```' in behind else behind}"


def shell(example: Example) -> None:
    """Run the lines of a shell block in this process: `bcos-zoo ...` and `python FILE ...`."""
    lines = str(example.parsed).replace("\\\n", " ").splitlines()
    for words in (shlex.split(line, comments=True) for line in lines):
        if words[:1] == ["bcos-zoo"] or words[:3] == ["python", "-m", "bcos_zoo"]:
            code = cli.run(words[1 if words[0] == "bcos-zoo" else 3 :])
            assert code == 0, f"`{shlex.join(words)}` ended with {code}"
        elif words[:1] == ["python"]:
            _script(words[1:])
        else:
            assert not words, f"`{shlex.join(words)}` cannot be run here; mark the block notest, and say why"


def _script(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        try:
            runpy.run_path(arguments[0], run_name="__main__")
        except SystemExit as ended:
            assert not ended.code, f"`python {shlex.join(arguments)}` ended with {ended.code}"


def tokens(path: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


def links(path: Path) -> list[str]:
    """Where the links and pictures of a page lead to."""
    inner = [child for token in tokens(path) for child in token.children or []]
    found = [token.attrs.get("href", token.attrs.get("src")) for token in inner]
    html = [token.content for token in (*tokens(path), *inner) if token.type in ("html_block", "html_inline")]
    found += [link for text in html for link in re.findall(r'(?:href|src)="([^"]*)"', text)]
    return [str(link) for link in found if link is not None]


@functools.cache
def anchors(path: Path) -> set[str]:
    """What a link may name behind its #: headings, as GitHub and mkdocs call them, and names of one's own."""
    found = re.findall(r'(?:\bid="|\{\s*#)([\w-]+)', path.read_text(encoding="utf-8"))
    seen: Counter[str] = Counter()
    page = tokens(path)
    for inline in (after for token, after in pairwise(page) if token.type == "heading_open"):
        said = "".join(child.content for child in inline.children or [])
        slug = re.sub(r"[^\w\- ]", "", said.lower()).replace(" ", "-")
        found.append(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return set(found)
