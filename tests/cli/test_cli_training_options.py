"""Options of `finetune` and `train` that stand for keys of the recipe."""

from __future__ import annotations

import json

import pytest
from commands import error_line
from PIL import Image
from small_runs import paint

from bcos_zoo.cli.training import open_images
from bcos_zoo.training import defaults

MODEL = ["--model", "bcos_resnet20.cifar10"]


def test_epochs_minutes_and_rate_reach_the_recipe(run, tmp_path):
    root = paint(tmp_path / "set", {".": 4})
    given = ["--epochs", "3", "--minutes", "1.5", "--lr", "0.0005", "--dry-run", "--json"]
    code, out, err = run("finetune", root, *MODEL, *given)
    assert code == 0, err
    recipe = json.loads(out)["recipe"]
    assert recipe["run"]["epochs"] == 3 and recipe["run"]["minutes"] == 1.5
    assert recipe["optimizer"]["lr"] == 5e-4 and recipe["optimizer"]["relative"] is True
    assert recipe["model"]["head"] == "fitted"


def test_a_key_that_is_set_twice_is_refused(run, tmp_path):
    root = paint(tmp_path / "set", {".": 4})
    for given in (["--epochs", "3", "--set", "run.epochs=2"], ["--lr", "1e-3", "--set", "optimizer.lr=1"]):
        code, out, err = run("finetune", root, *MODEL, *given)
        assert (code, out) == (2, "")
        assert f"{given[0]} and --set {given[-1]} say the same" in error_line(err.splitlines()[-1])


def test_rates_and_epochs_that_make_no_sense_are_one_line(run, tmp_path):
    root = paint(tmp_path / "set", {".": 4})
    for given, said in ((["--lr", "-1"], "optimizer.lr=-1"), (["--epochs", "0"], "--epochs")):
        code, out, err = run("finetune", root, *MODEL, *given)
        assert (code, out) == (2, "") and said in err


def test_another_seed_of_the_run_holds_out_the_same_images(tmp_path):
    root = paint(tmp_path / "set", {".": 20})
    held = []
    for seed in (1, 2):
        wanted = defaults.finetuning(MODEL[1], changes=[f"run.seed={seed}"])
        task = open_images(str(root), wanted, dry_run=False)
        held.append([task.val.name(i) for i in range(len(task.val))])
    assert held[0] == held[1] and len(held[0]) == 8


def test_two_classes_by_one_logit_from_training_to_every_verb(run, tmp_path):
    """The second folder is what the logit speaks for, and the first one its opposite."""
    root, place = paint(tmp_path / "set", {"train": 12, "val": 4}), tmp_path / "run"
    small = ["--set", "model.args.num_classes=1", "--set", "run.trackers=[]", "--set", "data.workers=0"]
    code, _, err = run("finetune", root, *MODEL, *small, "--epochs", "3", "-o", place)
    assert code == 0, err
    for colour in ("blue", "red"):
        code, out, _ = run("predict", root / "val" / colour / "0.png", "--model", place, "--json")
        best = json.loads(out)["images"][0]["predictions"][0]
        assert best["label"] == colour and best["probability"] > 0.5
    code, out, _ = run("evaluate", root / "val", "--model", place, "--json")
    assert code == 0 and json.loads(out)["top1"] == 100


@pytest.mark.parametrize("parts", [("Train", "Test"), ("training", "testing"), ("train", "dev")])
def test_a_dry_run_says_the_classes_and_which_folder_validates(run, tmp_path, parts):
    root = paint(tmp_path / "set", dict.fromkeys(parts, 4))
    code, out, err = run("finetune", root, *MODEL, "--dry-run", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["class_names"] == ["blue", "red"]
    assert (facts["images"], facts["validation_images"], facts["test_images"]) == (8, 8, 0)
    assert facts["validation"] == "a part of its own"
    said = run("finetune", root, *MODEL, "--dry-run")[1]
    assert "class_names: ['blue', 'red']" in said and "validation_images: 8" in said
    if parts[1] != "dev":  # the only other part: it validates, and nothing is left for the end
        assert any(parts[1] in note for note in facts["notes"]), facts["notes"]


def test_a_set_of_hugging_face_without_labels_is_one_line(run, tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "flat").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(tmp_path / "flat" / f"{i}.png")
    code, out, err = run("finetune", f"hfds/{tmp_path / 'flat'}", *MODEL, "--dry-run")
    assert (code, out) == (2, "")
    assert "no labels in column label" in error_line(err.splitlines()[-1])
