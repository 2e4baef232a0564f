"""The reference of the documentation names every public symbol, once."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
ELSEWHERE = {"bcos_zoo.__version__", "bcos_zoo.models", "bcos_zoo.linear_mode"}  # said on the page
ELSEWHERE |= {"bcos_zoo.conversion.bcosify"}  # as bcos_zoo.bcosify
ELSEWHERE |= {"bcos_zoo.data.groups", "bcos_zoo.data.seeds"}  # modules
PACKAGES = [
    "bcos_zoo",
    *(f"bcos_zoo.{name}" for name in "metrics posthoc evaluate data layers weights conversion".split()),
]
PACKAGES += ["bcos_zoo.pipeline"]


# The shortcuts of `layers/_fast.py` stand for what they compute; the example of `conv_norm` shows one.
WITHOUT_EXAMPLE = {"chain", "conv_gain", "project"}


def named() -> list[str]:
    pages = (path.read_text(encoding="utf-8") for path in sorted(REFERENCE.glob("*.md")))
    return [name for page in pages for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_its_place_in_the_reference(package):
    public = {f"{package}.{name}" for name in importlib.import_module(package).__all__}
    assert public - ELSEWHERE <= set(named())


@pytest.mark.parametrize("package", ["bcos_zoo", *PACKAGES[1:4], "bcos_zoo.layers", "bcos_zoo.conversion"])
def test_every_public_function_has_an_example_in_its_docstring(package):
    module = importlib.import_module(package)
    functions = {name: getattr(module, name) for name in module.__all__}
    functions = {name: one for name, one in functions.items() if inspect.isfunction(one)}
    bare = {name for name, one in functions.items() if "```python" not in (one.__doc__ or "")}
    assert bare == WITHOUT_EXAMPLE & set(functions)


def test_no_name_has_two_places():
    names = named()
    assert len(names) > 100 and len(names) == len(set(names))


def test_what_the_reference_names_is_there():
    for name in named():
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
