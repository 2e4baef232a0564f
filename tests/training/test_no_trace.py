"""Importing the training, and training, leave nothing changed in the process of the caller."""

from __future__ import annotations

import subprocess
import sys

import pytest
from small_runs import paint

CODE = """
import logging, os, random, signal, sys, warnings
import accelerate, matplotlib, numpy, timm, torch
from timm.optim import muon

if sys.argv[3] == "theirs":
    accelerate.Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=3)
shared = [getattr(accelerate.state, f"{one}State") for one in ("Partial", "Accelerator", "Gradient")]

def snapshot():
    root = logging.getLogger()
    return dict(
        torch=torch.get_rng_state().tolist(), numpy=str(numpy.random.get_state()), random=random.getstate(),
        backend=matplotlib.get_backend(auto_select=False), filters=list(warnings.filters),
        threads=(torch.get_num_threads(), torch.get_num_interop_threads()), dtype=torch.get_default_dtype(),
        grad=torch.is_grad_enabled(), deterministic=torch.are_deterministic_algorithms_enabled(),
        cudnn=(torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        precision=torch.get_float32_matmul_precision(),
        logging=(root.level, list(root.handlers), logging.root.manager.disable),
        signals={one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)},
        environment=dict(os.environ), muon=muon.zeropower_via_newtonschulz, hook=sys.excepthook,
        accelerate=[dict(one._shared_state) for one in shared],
        folder=os.getcwd(),
    )

def compare(when):
    after = snapshot()
    print(when, [key for key in before if before[key] != after[key]])

before = snapshot()
import bcos_zoo
import bcos_zoo.training.engine
compare("import")
from bcos_zoo.data import open_task
from bcos_zoo.training import defaults
changes = ["run.epochs=1", "run.snapshots=0", "data.workers=0", "run.trackers=[]", *sys.argv[4:]]
settings = defaults.finetuning("bcos_resnet20.cifar10", "full", changes)
task = open_task(sys.argv[1])
before = snapshot()
from bcos_zoo.training.engine import train
train(defaults.for_task(settings, task, changes), task, sys.argv[2], log=lambda line: None)
compare("run")
"""


@pytest.mark.slow
@pytest.mark.parametrize("more", [["theirs"], ["none", "optimizer.name=muon"]], ids=["adam", "muon"])
def test_nothing_outside_is_changed(tmp_path, more):
    """With an Accelerator of the caller's in the process, and without one."""
    images = paint(tmp_path / "images", {"train": 8, "val": 4})
    command = [sys.executable, "-c", CODE, str(images), str(tmp_path / "run"), *more]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = [line for line in done.stdout.splitlines() if line.startswith(("import ", "run "))]
    assert said == ["import []", "run []"]
