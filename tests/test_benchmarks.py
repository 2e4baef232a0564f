"""Every benchmark runs, at its smallest: what they measure is read in the docs, not here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from photographs import coloured
from servers import clean_environment

ROOT = Path(__file__).resolve().parent.parent
SMALLEST = {
    "benchmarks/fast_ways.py": ["--seconds", "0.01", "--ways", "in_place"],
    "benchmarks/fetch.py": ["--megabytes", "1", "--rounds", "1"],
    "benchmarks/finetune.py": [
        *("--tasks", "digits, 10 a class", "--ways", "logistic regression", "head", "--seeds", "1"),
        *("--set", "run.epochs=1", "-o", "found.jsonl"),
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
    "benchmarks/antialias.py",
    "benchmarks/exponents.py",
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
