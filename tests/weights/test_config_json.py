"""A config.json comes from anywhere: whatever stands in it, it is read, or refused in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bcos_zoo.errors import WeightsError
from bcos_zoo.weights import config_json

WHOLE: dict[str, Any] = {
    "architecture": "bcos_resnet20",
    "num_classes": 2,
    "label_names": ["cat", "dog"],
    "model_args": {"b": 2.0},
    "pretrained_cfg": {"input_size": [3, 32, 32], "label_names": ["cat", "dog"]},
    "bcos_zoo": {
        "explanation": {"smooth": 3, "percentile": 99.5},
        "outputs": {"kind": "sigmoid", "multilabel": False, "class_names": ["cat", "dog"]},
        "training": {
            "base": "x", "data": "y", "recipe": "z", "epoch": 3, "multilabel": False,
            "scores": {"top1": 90.0}, "test": {"top1": 80.0},
        },
    },
}  # fmt: skip
OTHERS = (None, True, 0, -1, 1.5, "text", [], [1], ["a"], {}, {"a": 1}, {"a": {"a": None}})


def places(config: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value."""
    for key in config if isinstance(config, dict) else range(len(config)):
        yield (*before, key)
        if isinstance(config[key], (dict, list)):
            yield from places(config[key], (*before, key))


def changed(place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    config = copy.deepcopy(WHOLE)
    holder: Any = config
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return config


@pytest.mark.parametrize("place", list(places(WHOLE)), ids=lambda place: ".".join(map(str, place)))
def test_any_value_in_any_place_is_read_or_refused_in_one_line(tmp_path: Path, place: Any) -> None:
    for value in OTHERS:
        (tmp_path / config_json.NAME).write_text(json.dumps(changed(place, value)))
        try:
            config_json.read(f"local-dir:{tmp_path}").outputs(2)
        except WeightsError as error:
            assert "\n" not in str(error) and f"local-dir:{tmp_path}" in str(error)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("bcos_zoo", "explanation"), [1], r"has explanation=\[1\]"),
        (("bcos_zoo", "explanation", "smooth"), True, "smooth is 0 and more"),
        (("bcos_zoo", "training", "multilabel"), "no", "multilabel and agreement are true or false"),
    ],
)
def test_what_is_of_another_type_is_named(tmp_path: Path, place: Any, value: Any, said: str) -> None:
    (tmp_path / config_json.NAME).write_text(json.dumps(changed(place, value)))
    with pytest.raises(WeightsError, match=said):
        config_json.read(f"local-dir:{tmp_path}")
