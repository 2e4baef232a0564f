"""Which versions of other packages are allowed: bounds on both sides, and the lower ones are those tried."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from bcos_zoo import _compat

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OF_PEOPLE = ("dev", "docs", "peer", "neighbours", "heif")  # extras whose oldest versions were not tried
TRIED = [line for one, lines in EXTRAS.items() if one not in OF_PEOPLE for line in lines]
NEEDED = [Requirement(line) for line in [*PROJECT["dependencies"], *TRIED] if "bcos-zoo" not in line]


def oldest() -> dict[str, Version]:
    """The versions of constraints/oldest.txt."""
    lines = (ROOT / "constraints" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name: Version(version) for name, version in pinned}


def lower(one: Requirement) -> Version:
    (found,) = [Version(part.version) for part in one.specifier if part.operator == ">="]
    return found


@pytest.mark.parametrize("one", NEEDED, ids=str)
def test_a_package_is_allowed_from_the_oldest_version_tried_to_the_next_major_one(one):
    assert lower(one) == oldest()[one.name]
    (upper,) = [Version(part.version) for part in one.specifier if part.operator == "<"]
    assert upper.release == (upper.major,)


def test_an_extra_repeats_the_bounds_of_the_others():
    bounds = {}
    for one in NEEDED:
        assert bounds.setdefault(one.name, one.specifier) == one.specifier


def test_the_constraints_name_what_is_needed_and_nothing_else():
    assert set(oldest()) == {one.name for one in NEEDED}


@pytest.mark.parametrize("library", _compat.SEEN)
def test_private_names_were_seen_in_the_oldest_version_of_their_library(library):
    name = {"PIL": "pillow"}.get(library, library)
    assert Version(_compat.SEEN[library][0]) == oldest()[name]
