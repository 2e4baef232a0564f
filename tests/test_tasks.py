"""The tasks that ways of fine-tuning are compared on: drawn anew for each seed, tested on the same images."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "tasks", Path(__file__).parent.parent / "benchmarks" / "tasks.py"
)
tasks = importlib.util.module_from_spec(spec)
sys.modules["tasks"] = tasks  # dataclasses look their module up
spec.loader.exec_module(tasks)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.mark.parametrize("draw", [tasks.textures, tasks.shapes, tasks.digits])
def test_a_seed_draws_the_training_images_alone(tmp_path, draw):
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        given = (3,) if draw is tasks.digits else (5, 2)
        task = tasks.Task("drawn", "none", lambda *rest, given=given: draw(*given, *rest))
        assert task.write(tmp_path / name, seed, tmp_path) == tmp_path / name
        made.append(contents(tmp_path / name))
    assert made[0] == made[1]
    same, other = made[0], made[2]
    of_test = {path for path in same if path.startswith("test")}
    assert of_test and all(same[path] == other[path] for path in of_test)
    learnt = [{data for path, data in one.items() if path not in of_test} for one in (same, other)]
    assert learnt[0] != learnt[1]
    assert not learnt[0] & {same[path] for path in of_test}  # none is in both parts
    classes = {
        part: {path.name for path in (tmp_path / "a" / part).iterdir()} for part in ("train", "val", "test")
    }
    assert classes["train"] == classes["val"] == classes["test"]


def test_every_task_has_a_name_and_a_folder_of_its_own():
    assert len(tasks.TASKS) == 9 == len({task.folder for task in tasks.TASKS})
