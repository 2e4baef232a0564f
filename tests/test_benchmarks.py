"""Every benchmark runs, at its smallest: what they measure is read in the docs, not here."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from photographs import coloured
from servers import clean_environment
from small_runs import paint, quiet

import bcos_zoo
from bcos_zoo.data import open_task

ROOT = Path(__file__).resolve().parent.parent
SMALLEST = {
    "benchmarks/fast_ways.py": ["--seconds", "0.01", "--ways", "in_place"],
    "benchmarks/fetch.py": ["--megabytes", "1", "--rounds", "1"],
    "benchmarks/finetune.py": [
        *("--tasks", "digits, 10 a class", "--seeds", "1", "--set", "run.epochs=1", "-o", "found.jsonl"),
        *("--ways", "untouched", "logistic regression", "head", "default", "from scratch"),
    ],
    "benchmarks/rounding.py": ["bcos_resnet20"],
    "benchmarks/speed.py": ["--models", "resnet18", "--size", "64", "--rounds", "2", "--batch-sizes", "1"],
    "benchmarks/training.py": ["--rounds", "1", "--no-compile"],
    "benchmarks/trials.py": [
        *("--tasks", "digits, 10 a class", "--settings", "interpolated", "--seeds", "1", "-o", "tried.jsonl"),
    ],
    "tools/gallery.py": ["images"],
}
WITH_DATA = {
    "benchmarks/among.py",
    "benchmarks/antialias.py",
    "benchmarks/exponents.py",
    "benchmarks/from_nothing.py",
    "benchmarks/post_hoc.py",
    "benchmarks/tasks.py",
}  # images that the tests do not have
HELPERS = {"benchmarks/official.py"}  # imported by the others


def test_every_benchmark_is_here():
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("benchmarks/*.py")} == {
        name for name in {*SMALLEST, *WITH_DATA, *HELPERS} if name.startswith("benchmarks")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_it_runs_at_its_smallest(name, tmp_path):
    for label in ("tench", "golf ball"):
        (tmp_path / "images" / label).mkdir(parents=True)
        coloured(tmp_path / "images" / label, 2)
    environment = clean_environment(tmp_path, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    words = [sys.executable, str(ROOT / name), *SMALLEST[name]]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert any(character.isdigit() for character in done.stdout.splitlines()[-1])


@pytest.fixture
def finetune(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module("finetune")
    for name in ("finetune", "tasks"):
        sys.modules.pop(name, None)


def test_the_checkpoint_untouched_is_asked_for_the_classes_alone(finetune, tmp_path):
    """Against one image after the other; its names may be written in another way."""
    root = paint(tmp_path / "set", {"train": 4, "val": 2, "test": 6})
    for part in ("train", "val", "test"):
        (root / part / "blue").rename(root / part / "Ship")
        (root / part / "red").rename(root / part / "FROG")
    task = open_task(root, log=quiet)
    one = finetune.tasks.TASKS[0]
    assert one.model == "bcos_resnet20.cifar10"
    found, noted = finetune.untouched(one, task, tmp_path, [])
    clf, right = bcos_zoo.load(one.model), 0
    for i in range(len(task.test)):
        logit = {answer.label: answer.logit for answer in clf.predict(task.test.load(i), top_k=10)}
        said = "FROG" if logit["frog"] > logit["ship"] else "Ship"
        right += said == task.class_names[int(task.test.labels[i])]
    assert found == pytest.approx(100 * right / len(task.test)) and noted == {}
    for part in ("train", "val", "test"):
        (root / part / "Ship").rename(root / part / "rocket")
    assert finetune.untouched(one, open_task(root, log=quiet), tmp_path, []) is None


def test_rows_of_other_settings_are_neither_taken_for_these_nor_shown_with_them(
    finetune, tmp_path, monkeypatch, capsys
):
    asked = []

    def measured(one, seed, ways, data, changes):
        asked.append((one.name, tuple(ways), tuple(changes)))
        score = 20.0 if changes else 10.0
        return [
            {
                "task": one.name,
                "way": "head",
                "seed": seed,
                "set": list(changes),
                "score": score,
                "seconds": 1,
            }
        ]

    monkeypatch.setattr(finetune, "measured", measured)
    file, name = tmp_path / "rows.jsonl", "digits, all"
    words = ["finetune.py", "--tasks", name, "--ways", "head", "--seeds", "1", "-o", str(file)]
    for more in ([], ["--set", "b=2", "a=1"], ["--set", "a=1", "b=2"], []):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        finetune.main()
    assert asked == [(name, ("head",), ()), (name, ("head",), ("a=1", "b=2"))]
    tables = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {name}")]
    assert ["10.0" in line for line in tables] == [True, False, False, True]
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 2
