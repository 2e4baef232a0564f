"""Pages of docs/ that are made from the code: the keys of a recipe, and the floors of the package."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from bcos_zoo.training.recipe import TABLES

ROOT = Path(__file__).resolve().parent.parent
TREE_BEGIN, TREE_END = "<!-- floors: made by tools/generate.py -->", "<!-- end of floors -->"

RECIPE_HEAD = """# Recipe keys

Made by `python tools/generate.py` from the dataclasses of {files}: do not edit.

A recipe is a TOML file of {tables} tables. `[model] name` and `[run] epochs` must be given; every other key
has a default. `--set table.key=value` changes a key on the command line, and `--dry-run` prints the whole
recipe.
`bcos-zoo finetune` has [defaults of its own](training.md).
"""


def recipe_page() -> str:
    of = dict.fromkeys(inspect.getfile(table) for table in TABLES.values())
    files = [f"`{Path(one).relative_to(ROOT).as_posix()}`" for one in of]
    named = ",\n".join(files[:-1]) + f" and {files[-1]}"
    parts = [RECIPE_HEAD.format(files=named, tables=len(TABLES))]
    for name, table in TABLES.items():
        summary = (table.__doc__ or "").partition("\n")[0]
        rows = ["| key | default | meaning |", "| --- | --- | --- |"]
        rows += [f"| {' | '.join(row)} |" for row in _keys(table)]
        parts.append("\n".join([f"## {name}", "", summary, "", *rows, ""]))
    return "\n".join(parts)


def _keys(table: Any) -> list[tuple[str, str, str]]:
    """Key, default and meaning of each field. Raises KeyError for a field that is not described."""
    meaning = _from_docstring(table) | _from_comments(table)
    return [(f"`{one.name}`", _default(one), meaning[one.name]) for one in dataclasses.fields(table)]


def _default(one: dataclasses.Field[Any]) -> str:
    if one.default is dataclasses.MISSING:
        return "must be given" if one.default_factory is dataclasses.MISSING else "`{}`"
    if one.default is None:
        return ""
    return f"`{json.dumps(one.default)}`"


def _from_docstring(table: Any) -> dict[str, str]:
    """Lines "key, key: meaning", up to the next such line or an empty one."""
    names = {one.name for one in dataclasses.fields(table)}
    found: dict[str, str] = {}
    now: list[str] = []
    for line in (inspect.getdoc(table) or "").splitlines():
        start = re.match(r"(\w+(?:, \w+)*): (.*)", line)
        if start and names.issuperset(start[1].split(", ")):
            now = start[1].split(", ")
            found |= dict.fromkeys(now, start[2])
        elif not line.strip():
            now = []
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in now}
    return {name: _cell(text) for name, text in found.items()}


def _from_comments(table: Any) -> dict[str, str]:
    """The comments behind fields, for a table that describes its keys there."""
    lines = inspect.getsource(table).splitlines()
    tree = ast.parse(inspect.cleandoc("\n".join(lines)))
    fields = [one for one in tree.body[0].body if isinstance(one, ast.AnnAssign)]  # type: ignore[attr-defined]
    found = {}
    for one in fields:
        comment = lines[one.lineno - 1][one.end_col_offset :].partition("  # ")[2]
        if comment and isinstance(one.target, ast.Name) and one.target.id not in _from_docstring(table):
            found[one.target.id] = _cell(comment)
    return found


def _cell(text: str) -> str:
    return (text[0].upper() + text[1:]).removesuffix(".").replace("|", r"\|")


def architecture() -> ModuleType:
    """tests/test_architecture.py, the one place where the order of the floors is written."""
    path = ROOT / "tests" / "test_architecture.py"
    spec = importlib.util.spec_from_file_location("test_architecture", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def architecture_page() -> str:
    """docs/architecture.md with the table between its marks rewritten."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    before, rest = text.split(TREE_BEGIN)
    return f"{before}{TREE_BEGIN}\n{_floors()}\n{TREE_END}{rest.split(TREE_END)[1]}"


def _floors() -> str:
    shape = architecture()
    imports: dict[str, set[str]] = {}
    for path in shape.FILES:
        room = shape.part(path)
        imports.setdefault(room, set()).update(shape.imported_parts(path) - {room})
    rows = ["| floor | room | holds | imports |", "| --- | --- | --- | --- |"]
    for number, rooms in reversed(list(enumerate(shape.ORDER))):
        for room in sorted(rooms):
            used = " ".join(
                f"`{name}`" for name in sorted(imports[room], key=lambda one: (shape.RANK[one], one))
            )
            rows.append(f"| {number} | `{room}` | {_summary(shape.PACKAGE, room)} | {used} |")
    return "\n".join(["", *rows, ""])


def _summary(package: Path, room: str) -> str:
    path = package / room / "__init__.py" if (package / room).is_dir() else package / f"{room}.py"
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return _cell(" ".join(doc.partition("\n\n")[0].split()))


def drawing() -> str:
    """The floors as an SVG: those that import above those that they import from."""
    order: list[set[str]] = architecture().ORDER
    width, high, gap, letter = 760, 30, 8, 7.4
    height = len(order) * (high + gap) + gap
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="monospace" font-size="12">',
        "<title>The floors of bcos_zoo, made by tools/generate.py: a room imports from those below</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<path d="M16 {gap} V{height - gap - 8}" stroke="#00695c" stroke-width="2"/>',
        f'<path d="M10 {height - gap - 10} h12 l-6 10 z" fill="#00695c"/>',
        f'<text transform="translate(34 {height / 2}) rotate(-90)" text-anchor="middle" fill="#00695c">'
        "imports</text>",
    ]
    for line, rooms in enumerate(reversed(order)):
        top, left = gap + line * (high + gap), 50.0
        for room in sorted(rooms):
            wide = letter * len(room) + 24
            parts.append(
                f'<rect x="{left:.0f}" y="{top}" width="{wide:.0f}" height="{high}" rx="5" fill="#e0f2f1" '
                f'stroke="#00695c"/><text x="{left + wide / 2:.0f}" y="{top + 19}" text-anchor="middle">'
                f"{room}</text>"
            )
            left += wide + gap
    return "\n".join([*parts, "</svg>", ""])
