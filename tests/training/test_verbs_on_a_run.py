"""What a run leaves is a model by its folder's path: predict, explain, evaluate, export and push take it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import network
from huggingface_hub import ModelCard
from PIL import Image
from servers import HubServer, run_python

import bcos_zoo
from bcos_zoo import cli
from bcos_zoo.training.network_folder import NetworkFolder
from bcos_zoo.weights.config_json import Training

NAMES = ["cat", "dog", "cow"]
RED = (255, 0, 0)  # a validation image, which might be of a patient
Run = Callable[..., str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has ended."""
    run = tmp_path_factory.mktemp("runs") / "pets"
    model = network("bcos_resnet20", num_classes=3, widths=(8, 16, 32))
    model.pretrained_cfg["input_size"] = (3, 40, 40)
    training = Training(base="bcos_resnet20.cifar10", data="pets", recipe="finetune")
    folder = NetworkFolder(run, NAMES, training=training, sample=Image.new("RGB", (60, 60), RED))
    folder.update(model)
    folder.finish(model, epoch=7, scores={"top1": 66.5})
    (run / "state").mkdir()
    (run / "state" / "step-00000001.pt").write_bytes(b"not for the Hub")
    (run / "metrics.csv").write_text("epoch\n")
    return run


@pytest.fixture
def run(capsys: Any, finished: Path, monkeypatch: Any) -> Run:
    """What a command prints, in the folder above the run's, where it must succeed."""
    monkeypatch.chdir(finished.parent)

    def call(*arguments: object) -> str:
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert (code, captured.err) == (0, "")
        return str(captured.out)

    return call


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two images of each class."""
    for i, name in enumerate(NAMES):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for turn in (0, 90):
            bands = [
                Image.radial_gradient("L"),
                Image.linear_gradient("L"),
                Image.new("L", (256, 256), 99 * i),
            ]
            path = tmp_path / "pictures" / name / f"{turn}.png"
            Image.merge("RGB", [band.rotate(turn) for band in bands]).resize((50, 60)).save(path)
    return tmp_path / "pictures"


def test_predict(run, finished, pictures):
    document = json.loads(run("predict", pictures / "cat" / "0.png", "--model", "pets", "--json"))
    expected = bcos_zoo.load(finished).predict(pictures / "cat" / "0.png")
    found = document["images"][0]["predictions"]
    assert [one["label"] for one in found] == [one.label for one in expected]
    assert [one["logit"] for one in found] == [one.logit for one in expected]
    assert {one["label"] for one in found} == set(NAMES)


def test_explain(run, pictures, tmp_path):
    arguments = ("explain", pictures / "dog", "--model", "pets", "--target", "cow", "-o", tmp_path, "--json")
    document = json.loads(run(*arguments))
    assert [one["targets"] for one in document["images"]] == [["cow"], ["cow"]]
    assert all(one["completeness_gap"] < 1e-3 for one in document["images"])
    assert all(Path(one["picture"]).exists() for one in document["images"])


def test_evaluate(run, pictures):
    document = json.loads(run("evaluate", pictures, "--model", "pets", "--json"))
    assert document["images"] == 6 and set(document["per_class"]) == set(NAMES)


def test_export_keeps_what_the_run_said(run, tmp_path):
    run("export", "pets", "-o", tmp_path / "copy")
    card = ModelCard.load(tmp_path / "copy" / "README.md")
    assert "Trained on pets by the recipe `finetune`, to epoch 7" in card.text
    assert sorted(os.listdir(tmp_path / "copy")) == [
        "README.md", "config.json", "explanation.png", "model.safetensors",
    ]  # fmt: skip


PUSH = """
import sys, timm, torch, bcos_zoo
from bcos_zoo import cli
assert cli.run(["push", sys.argv[1], "someone/pets"]) == 0
x = torch.rand(2, 3, 40, 40)
own = bcos_zoo.load(sys.argv[1])
theirs = bcos_zoo.load("hf-hub:someone/pets")
by_timm = timm.create_model("hf-hub:someone/pets", pretrained=True).eval()
assert own.class_names == theirs.class_names == ("cat", "dog", "cow")
assert torch.equal(own.model(x), theirs.model(x)) and torch.equal(own.model(x), by_timm(x))
"""


def test_push(finished, tmp_path):
    with HubServer({"hf_writes"}, user="someone") as hub:
        environment = hub.environment(tmp_path, token="hf_writes", OMP_NUM_THREADS="1")
        run_python(PUSH, finished, env=environment, timeout=180)
        files = hub.files("someone/pets", "main")
    assert set(files) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "explanation.png",
        "model.safetensors",
    }
    (tmp_path / "README.md").write_bytes(files["README.md"])
    card = ModelCard.load(tmp_path / "README.md")
    for said in (
        "Began with the weights of `bcos_resnet20.cifar10`",
        "Trained on pets by the recipe `finetune`, to epoch 7",
        "| top-1 accuracy | 66.5 | validation images of pets | measured | its training run |",
        "hf-hub:someone/pets",
    ):
        assert said in card.text
    assert "Stefan van der Walt" in card.text and "validation image," not in card.text
    (tmp_path / "explanation.png").write_bytes(files["explanation.png"])
    shown, own = (
        (np.asarray(Image.open(folder / "explanation.png").convert("RGB")) == RED).all(-1).sum()
        for folder in (tmp_path, finished)
    )
    assert own > 100_000 and shown < 1000  # pixels; contributions are red, too
    assert card.data.license == "apache-2.0" and card.data.eval_results[0].metric_value == 66.5
