"""Classes that a network knows by name: each of them one, and one only."""

from __future__ import annotations

import pytest

from bcos_zoo import InputError
from bcos_zoo.training import known_classes
from bcos_zoo.weights import class_lists

WHOLE = class_lists.class_list("imagenet-1k")


def found(*wanted: str) -> list[int]:
    return known_classes.found(wanted, WHOLE, who="the teacher", remedy="leave it out")


def test_each_known_class_is_found_where_it_is() -> None:
    assert found("tench", "n02012849", "n03126707") == [0, 134, 517]  # the bird and the machine, both a crane
    assert {WHOLE[134], WHOLE[517]} == {"crane"}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("tench", "unicorn", "crane"), r"the teacher knows 1000 classes, but not unicorn; leave it out"),
        (
            ("tench", "Crane"),
            r"knows several classes called Crane: call the folder as ImageNet's is, n and eig",
        ),
        (
            ("tench", "n01440764"),
            r"tench and n01440764 are one class, tench, for the teacher: put them toget",
        ),
    ],
    ids=["unknown", "ambiguous", "same"],
)
def test_what_is_not_found_is_told_apart_in_one_line(wanted: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        found(*wanted)
    assert "\n" not in str(caught.value)
    assert not known_classes.all_known(wanted, WHOLE)


def test_all_are_known_where_each_is_a_class_of_its_own() -> None:
    assert known_classes.all_known(("tench", "church"), WHOLE)
