"""README is short and asks for nothing that does not exist; commands name classes of their network."""

import importlib.metadata
import re
import shlex

import pytest
from documents import MODULES, PAGES, ROOT, blocks

from bcos_zoo import extras, zoo
from bcos_zoo.errors import InputError
from bcos_zoo.weights import manifest

README = ROOT / "README.md"
INDEX = re.compile(r"pip install[^`\n]*bcos[-_]zoo")


def test_classes_in_commands_are_of_the_network_that_is_taken_where_none_is_named():
    known = manifest.class_names(manifest.get(zoo.best_embedded()))
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    lines = re.findall(r"^ *bcos-zoo explain .*$", text, re.MULTILINE)
    commands = [shlex.split(line, comments=True) for line in lines]
    named = []
    for words in (one for one in commands if "--model" not in one):
        for i, word in enumerate(words):
            named += words[i + 1 : i + {"--target": 2, "--contrast": 3}.get(word, 1)]
    assert len(named) >= 4 and set(named) <= set(known)


def test_readme_is_short_and_begins_with_five_lines_of_python_and_four_of_shell():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130
    (group,) = blocks(README)
    run = {block.language: str(block.example.parsed) for block in group if not block.mark}
    assert [len([line for line in run[one].splitlines() if line]) for one in ("python", "sh")] == [5, 4]


def test_no_page_and_no_message_asks_an_index_for_this_package():
    """No index has it yet: what installs extras is a checkout."""
    for path in (*PAGES, *(ROOT / "bcos_zoo").rglob("*.py")):
        assert not INDEX.search(path.read_text(encoding="utf-8")), path
    assert INDEX.search("pip install 'bcos-zoo[train]'")


def test_a_missing_package_is_told_with_what_installs_it_anywhere_and_in_a_checkout():
    with pytest.raises(InputError) as told:
        extras.required("no_such_module", "some-package", "train")
    assert "`pip install some-package`" in str(told.value) and "`pip install '.[train]'`" in str(told.value)


def test_extras_that_are_named_exist():
    known = set(importlib.metadata.metadata("bcos-zoo").get_all("Provides-Extra"))
    named = set()
    for path in (*PAGES, *MODULES, ROOT / "examples" / "beside_gradcam.py"):
        named |= set(re.findall(r"'\.\[(\w+)\]'", path.read_text(encoding="utf-8")))
    assert {"train", "eval"} <= named <= known
