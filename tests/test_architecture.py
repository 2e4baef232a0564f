"""The shape of the package: who may import whom, how long a file may be, what is public."""

import ast
from pathlib import Path

import pytest

import bcos_zoo

PACKAGE = Path(bcos_zoo.__file__).parent
# Each floor imports only from those above it here, and, in a folder, from its own files. DESIGN and the
# documentation's drawing follow this list, which stands nowhere else.
ORDER = [
    {"_compat", "errors", "_version", "_startup"},
    {"files", "extras", "devices"},
    {"images", "metrics"},
    {"layers", "data"},
    {"outputs"},
    {"weights", "explanations"},
    {"models", "pictures", "posthoc"},
    {"conversion"},
    {"zoo"},
    {"classifier"},
    {"evaluate", "hub", "pipeline"},
    {"training"},
    {"cli"},
    {"__init__", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_parts(path: Path) -> set[str]:
    """First-level names of bcos_zoo that a file imports, wherever in the file the import stands."""
    inside = len(path.relative_to(PACKAGE).parts) - 1
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("bcos_zoo.")}
        if isinstance(node, ast.ImportFrom) and node.level == inside + 1:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        if (
            isinstance(node, ast.ImportFrom)
            and node.level == 0
            and (node.module or "").startswith("bcos_zoo.")
        ):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_its_left(path):
    assert part(path) in RANK, f"{part(path)} has no place in ORDER"
    wrong = {name for name in imported_parts(path) if RANK[name] >= RANK[part(path)] and name != part(path)}
    assert not wrong


def imported_files(path: Path) -> set[Path]:
    """Files of bcos_zoo that a file imports, or imports names of."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            found |= {start.with_suffix(".py"), *(start / f"{alias.name}.py" for alias in node.names)}
            found |= {start / alias.name / "__init__.py" for alias in node.names}
    return {file for file in found if file.is_file()}


def test_no_files_import_each_other_in_a_circle():
    """A package's own `__init__` hands on what its files have, so it is left out."""
    arrows = {path: imported_files(path) for path in FILES if path.name != "__init__.py"}
    while ready := [path for path, others in arrows.items() if not others & arrows.keys()]:
        for path in ready:
            del arrows[path]
    assert not arrows, sorted(str(path.relative_to(PACKAGE)) for path in arrows)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_imports_the_official_package(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
        assert not [name for name in names if name.split(".")[0] == "bcos"]


@pytest.mark.parametrize(
    "path", FILES + sorted(Path(__file__).parent.rglob("*.py")), ids=lambda path: path.name
)
def test_no_file_is_longer_than_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_public_names_are_these():
    assert bcos_zoo.__all__ == [
        "BcosZooError",
        "Classifier",
        "Explanation",
        "ExplanationHead",
        "InputError",
        "Prediction",
        "UnknownModelError",
        "WeightsError",
        "__version__",
        "bcosify",
        "create_model",
        "explain",
        "explain_unit",
        "export",
        "linear_mode",
        "list_models",
        "load",
        "models",
        "push_to_hub",
    ]


def test_numbers_do_not_depend_on_pictures():
    """Explanations work where Pillow's drawing does not; pictures open no file."""
    assert not [path for path in (PACKAGE / "explanations").glob("*.py") if "\nfrom PIL" in path.read_text()]
    assert not [path for path in (PACKAGE / "pictures").glob("*.py") if "open(" in path.read_text()]
