"""`bcosify`, as a user types it: with labels, without them, and when it goes on."""

from __future__ import annotations

import json
import shutil

import pytest
import timm
import torch
from commands import error_line
from small_runs import paint

SMALL = [
    *("--epochs", "1", "--batch-size", "8", "--set", "run.trackers=[]", "--set", "data.workers=0"),
    *("--set", "run.snapshots=0", "--set", "data.input_size=32", "--set", "conversion.estimate=8"),
]


@pytest.fixture
def original(tmp_path):
    """A network of timm's with the file of its weights, which know ImageNet's classes."""
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    return f"test_resnet+{tmp_path / 'w.pth'}"


@pytest.fixture
def colours(tmp_path):
    return paint(tmp_path / "colours", {".": 8})


def renamed(root, *names):
    for colour, name in zip(("blue", "red"), names, strict=True):
        (root / colour).rename(root / name)
    return root


def refused(run, *command):
    code, out, err = run(*command)
    assert (code, out) == (2, ""), err
    return error_line(err.splitlines()[-1])


def planned(run, *command):
    code, out, err = run(*command, "--dry-run", "--json")
    assert code == 0, err
    return json.loads(out)


def test_it_converts_and_learns_and_every_verb_takes_it(run, original, colours, tmp_path):
    code, out, err = run("bcosify", original, colours, *SMALL, "-o", tmp_path / "run", "--json")
    assert code == 0, err
    assert json.loads(out)["epochs"] == 1
    code, out, _ = run("predict", colours / "red" / "0.png", "--model", tmp_path / "run", "--json")
    assert code == 0 and {one["label"] for one in json.loads(out)["images"][0]["predictions"]} == {
        "blue",
        "red",
    }


@pytest.mark.parametrize("names", [("2019", "2020"), ("blue", "red"), ("tench", "2020")])
def test_sub_folders_that_are_no_classes_of_the_original_are_an_album(run, original, colours, names):
    plan = planned(run, "bcosify", original, renamed(colours, *names), *SMALL, "--no-labels")
    assert plan["recipe"]["data"]["labels"] is False
    assert plan["classes"] == 1000 and plan["images"] + plan["validation_images"] == 16


def test_sub_folders_that_it_knows_serve_to_measure(run, original, colours):
    root = renamed(colours, "n01440764", "church")
    plan = planned(run, "bcosify", original, root, *SMALL, "--no-labels")
    assert plan["recipe"]["data"]["labels"] is True and plan["recipe"]["teacher"]["labels"] == 0
    assert plan["classes"] == 2  # of the images; the run learns those of the teacher


def test_what_is_no_folder_is_read_with_its_labels(run, original, colours, tmp_path):
    shutil.make_archive(str(tmp_path / "set"), "tar", renamed(colours, "tench", "church"))
    table = tmp_path / "set.csv"
    rows = [f"{path},{path.parent.name}" for path in sorted(colours.glob("*/*.png"))]
    table.write_text("\n".join(["path,label", *rows]) + "\n")
    for source in (tmp_path / "set.tar", table):
        plan = planned(run, "bcosify", original, source, *SMALL, "--no-labels")
        assert plan["recipe"]["data"]["labels"] is True and plan["class_names"] == ["church", "tench"]


def test_unknown_classes_are_told_how_to_learn_without_labels(run, original, colours, tmp_path):
    shutil.make_archive(str(tmp_path / "set"), "tar", colours)
    said = refused(
        run, "bcosify", original, tmp_path / "set.tar", *SMALL, "--no-labels", "-o", tmp_path / "run"
    )
    assert "it knows 1000 classes, but not blue, red; " in said and "data.labels=false" in said


def test_a_network_of_timms_is_not_a_folder_of_the_same_name(run, original, colours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_resnet").mkdir()
    assert planned(run, "bcosify", original, colours, *SMALL)["classes"] == 2


def test_an_option_and_the_key_that_it_stands_for_are_not_both_given(run, original, colours):
    said = refused(run, "bcosify", original, colours, "--b", "2", "--set", "model.args.b=1.25", "--dry-run")
    assert "--b and --set model.args.b=1.25 say the same" in said
    assert planned(run, "bcosify", original, colours, *SMALL, "--b", "2")["recipe"]["model"]["args"]["b"] == 2


def test_constants_may_stay(run, original, colours):
    plan = planned(run, "bcosify", original, colours, *SMALL, "--set", "conversion.constants=1")
    assert plan["recipe"]["conversion"].get("constants_epochs") is None


def test_a_run_goes_on_only_as_it_began(run, original, colours, tmp_path):
    place = ["-o", tmp_path / "run"]
    assert run("bcosify", original, colours, *SMALL, *place)[0] == 0
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "other.pth")
    for name, more, said in (
        (original, ["--b", "2"], "--b was 1.5 when the run began, and is 2.0 now"),
        (original, ["--no-labels"], "--labels was True when the run began, and is False now"),
        ("test_vit", [], "the original was 'test_resnet' when the run began, and is 'test_vit' now"),
        ("test_resnet", [], "the file of weights was "),
        (f"test_resnet+{tmp_path / 'other.pth'}", [], "other.pth' now; resume with the same"),
    ):
        assert said in refused(run, "bcosify", name, colours, *place, "--resume", *more)
    code, _, err = run("bcosify", original, colours, *place, "--resume", "--b", "1.5", "--labels")
    assert code == 0, err
