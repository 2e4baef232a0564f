"""README's commands name classes that the network knows which they run with."""

import re
import shlex
from pathlib import Path

import bcos_zoo
from bcos_zoo import zoo
from bcos_zoo.weights import manifest

README = Path(bcos_zoo.__file__).parents[1] / "README.md"


def test_classes_in_readme_are_of_the_network_that_is_taken_where_none_is_named():
    known = manifest.class_names(manifest.get(zoo.best_embedded()))
    lines = re.findall(r"^bcos-zoo explain .*$", README.read_text(encoding="utf-8"), re.MULTILINE)
    commands = [shlex.split(line, comments=True) for line in lines]
    named = []
    for words in (one for one in commands if "--model" not in one):
        for i, word in enumerate(words):
            named += words[i + 1 : i + {"--target": 2, "--contrast": 3}.get(word, 1)]
    assert len(named) >= 4 and set(named) <= set(known)
