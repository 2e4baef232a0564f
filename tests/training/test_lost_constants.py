"""Constants that are gone at the end of a run are taken away, and no later training brings them back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_runs import converted_recipe as recipe_of
from small_runs import make, quiet, same, weights

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.data import open_task
from bcos_zoo.training import engine
from bcos_zoo.training.network_folder import NetworkFolder

NAMED = ("blue", "red")


def test_no_later_training_brings_constants_back(colours: Path, original: Path, tmp_path: Path) -> None:
    run, later = tmp_path / "run", tmp_path / "later"
    wanted = recipe_of(original, conversion__constants_epochs=0.5, run__epochs=1)
    engine.train(wanted, open_task(colours, log=quiet), run, log=quiet)
    lost = bcos_zoo.load(run)
    assert not lost.model.biases and lost.model.conversion["biases"] == "dropped"
    assert not any(key.endswith(".bias") for key in lost.model.state_dict())
    wanted = make(model__name=str(run), model__pretrained=True, model__args={}, run__epochs=2)
    names = {"red": "warm", "blue": "cold"}  # other classes: the classifier is a fresh one
    other = tmp_path / "other"
    for path in sorted(colours.glob("*/*/*.png")):
        part, name = path.parts[-3:-1]
        (other / part / names[name]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other / part / names[name])
    engine.train(wanted, open_task(other, log=quiet), later, log=quiet)
    clf = bcos_zoo.load(later)
    assert clf.class_names == ("cold", "warm") and not same(weights(run), weights(later))
    e = clf.explain(next((colours / "val" / "red").iterdir()))
    assert float(e.bias.abs().max()) == 0


def test_a_network_that_cannot_take_the_place_of_another_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bcos_zoo.bcosify("test_resnet", num_classes=2, centring="fading").eval()
    folder = NetworkFolder(tmp_path, NAMED)
    folder.update(model)
    before = weights(tmp_path)
    model.scale_constants(0.0)
    assert model.drop_constants()
    move = os.replace

    def broken(source: Any, target: Any) -> None:
        if "network" in str(source) and Path(target).name == "config.json":
            raise OSError("no space left")
        move(source, target)

    with monkeypatch.context() as patch, pytest.raises(InputError, match="no space left"):
        patch.setattr(os, "replace", broken)
        folder.finish(model)
    assert same(weights(tmp_path), before) and bcos_zoo.load(tmp_path).model.biases
    folder.finish(model)
    assert not bcos_zoo.load(tmp_path).model.biases
    assert not [one.name for one in tmp_path.iterdir() if one.name.startswith(".")]


def test_a_run_resumed_after_its_end_loses_them_again(colours: Path, original: Path, tmp_path: Path) -> None:
    task, run = open_task(colours, log=quiet), tmp_path / "run"
    wanted = recipe_of(original, conversion__constants_epochs=0.5, run__epochs=1)
    for resume in (False, True):
        engine.train(wanted, task, run, resume=resume, log=quiet)
        lost = bcos_zoo.load(run).model
        assert not lost.biases and lost.conversion["centring"] == "dropped"
    assert not [one.name for one in run.iterdir() if one.name.startswith(".before")]
