"""The verbs that train, as a user types them."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from commands import error_line
from small_runs import paint, same, weights

SMALL = [
    "--set",
    "run.epochs=1",
    "--set",
    "run.trackers=[]",
    "--set",
    "data.workers=0",
    "--set",
    "run.snapshots=2",
]


def broken(folder: Path) -> list[Path]:
    """Five files that are no images, each in its way, beside one that is."""
    whole = next(folder.glob("*.png")).read_bytes()
    kinds = {
        "empty.png": b"",
        "text.jpg": b"not an image",
        "cut.png": whole[: len(whole) // 2],
        "head.png": b"\x00" * 16 + whole[16:],
        "noise.gif": bytes(range(256)),
    }
    for name, content in kinds.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in kinds]


def test_finetune_ends_in_a_folder_that_every_verb_takes(run, tmp_path):
    root = paint(tmp_path / "images", {".": 30})
    code, out, err = run("finetune", root, "-o", tmp_path / "run", *SMALL, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["epochs"] == 1 and result["unreadable"] == 0 and 0 <= result["scores"]["top1"] <= 100
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"README.md", "config.json", "model.safetensors", "recipe.toml", "state"}
    assert names >= {"metrics.csv", "metrics.json", "per_class.csv", "confusion.csv", "confusion.png"}
    assert names >= {"curves.png", "snapshots", "snapshots.png", "index.html"}
    assert result["page"] == str(tmp_path / "run" / "index.html")
    image = root / "red" / "0.png"
    answer = json.loads(run("predict", image, "--model", tmp_path / "run", "--json")[1])
    assert {one["label"] for one in answer["images"][0]["predictions"]} == {"blue", "red"}
    assert run("explain", image, "--model", tmp_path / "run", "-o", tmp_path / "out")[0] == 0
    document = json.loads(run("evaluate", root, "--model", tmp_path / "run", "--json")[1])
    assert document["images"] == 60
    model = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    assert model.num_classes == 2


def test_a_dry_run_says_what_would_happen_and_writes_nothing(run, tmp_path):
    root = paint(tmp_path / "images", {".": 10})
    folder = tmp_path / "run"
    code, out, _ = run("finetune", root, "-o", folder, "--dry-run", "--train", "head", "--json")
    plan = json.loads(out)
    assert code == 0 and not folder.exists()
    assert (plan["images"], plan["validation_images"], plan["classes"]) == (16, 4, 2)
    assert plan["learning"] == 2 * 64 < plan["parameters"]
    assert plan["recipe"]["model"]["train"] == "head"
    text = run("finetune", root, "-o", folder, "--dry-run", *SMALL)[1]
    (tmp_path / "recipe.toml").write_text(text)  # its facts are comments, so it is a recipe
    code, _, err = run("train", tmp_path / "recipe.toml", root, "-o", folder)
    assert code == 0, err


def test_a_few_broken_images_of_five_kinds_are_left_out_and_listed(run, tmp_path):
    root = paint(tmp_path / "images", {".": 30})
    bad = broken(root / "red")
    code, out, err = run(
        "finetune", root, "-o", tmp_path / "run", *SMALL, "--set", "data.bad_share=0.1", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["unreadable"] == 5
    listed = (tmp_path / "run" / "unreadable.txt").read_text()
    assert all(str(path) in listed for path in bad)


def test_too_many_broken_images_stop_the_run_before_its_first_step_with_their_list(run, tmp_path):
    root = paint(tmp_path / "images", {".": 22})
    bad = broken(root / "red")
    code, _, err = run("finetune", root, "-o", tmp_path / "run", *SMALL)
    assert code == 2
    assert all(str(path) in err for path in bad)
    assert "5 of 49 images (10.2%) cannot be read" in error_line(err.splitlines()[-1])
    assert not (tmp_path / "run" / "state").exists()


def test_a_run_is_resumed_by_its_own_recipe(run, tmp_path):
    root = paint(tmp_path / "images", {".": 10})
    first = ["finetune", root, "-o", tmp_path / "run", *SMALL]
    assert run(*first)[0] == 0
    code, _, err = run(*first)
    assert code == 2 and "holds a run already; continue it with --resume" in error_line(err.splitlines()[-1])
    before = weights(tmp_path / "run")
    code, out, _ = run("finetune", root, "-o", tmp_path / "run", "--resume")  # it is at its end already
    assert code == 0 and f"{tmp_path / 'run' / 'index.html'} shows how it went" in out.splitlines()[-1]
    assert same(weights(tmp_path / "run"), before)


@pytest.mark.parametrize("verb", ["finetune", "train"])
def test_resuming_where_no_run_is_says_so_before_anything_is_read(run, tmp_path, verb):
    config = Path(__file__).parents[2] / "configs" / "cifar10_resnet20.toml"
    words = [verb, *([config] if verb == "train" else []), tmp_path / "no-images"]
    for folder in (tmp_path / "none", tmp_path / "killed-early"):
        if folder.name == "killed-early":
            (folder / "state").mkdir(parents=True)
            (folder / "recipe.toml").write_text("[model]\nname = 'bcos_resnet20'\n")
        code, out, err = run(*words, "-o", folder, "--resume")
        assert (code, out) == (2, "")
        assert error_line(err).removeprefix("error: ") == (
            f"{folder} holds no run that could go on; leave out --resume, or name the run's folder with -o"
        )


def test_resuming_without_the_recipe_of_the_run_names_it(run, tmp_path):
    (tmp_path / "run" / "state").mkdir(parents=True)
    (tmp_path / "run" / "state" / "step-00000001.pt").write_bytes(b"a state")
    code, _, err = run("finetune", tmp_path, "-o", tmp_path / "run", "--resume")
    assert code == 2 and "run holds no recipe.toml, by which a run goes on; put it back" in error_line(err)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.lr", "give table.key=value"),
        ("optimizer.rate=1", "unknown key optimizer.rate"),
        ("model.train=tail", "model.train='tail'"),
        ("optimizer.name=adamm", "optimizer.name='adamm'"),
        ("optimizer.schedule=sometimes", "optimizer.schedule='sometimes'"),
        ("model.args.depth=3", "model.args: bcos_resnet20.cifar10 does not take them"),
        ("run.monitor=beauty", "run.monitor='beauty'"),
        ("optimizer.warmup_epochs=9", "optimizer.warmup_epochs=9"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_line_and_exit_code_2(run, tmp_path, change, message):
    root = paint(tmp_path / "images", {".": 5})
    code, out, err = run("finetune", root, "-o", tmp_path / "run", *SMALL, "--set", change)
    assert (code, out) == (2, "")
    assert message in error_line(err.splitlines()[-1])


@pytest.mark.slow
def test_digits_are_learnt_from_ten_images_a_class(run, tmp_path):
    import runpy

    example = Path(__file__).parents[2] / "examples" / "digits.py"
    runpy.run_path(str(example))["main"](str(tmp_path / "digits"), "10")
    changes = ["--set", "augment.hflip=0", "--set", "run.epochs=30", "--set", "run.trackers=[]"]
    code, out, err = run("finetune", tmp_path / "digits", "-o", tmp_path / "run", *changes, "--json")
    assert code == 0, err
    assert json.loads(out)["scores"]["top1"] >= 85
    assert torch.isfinite(torch.tensor(json.loads(out)["scores"]["loss"]))


def test_the_table_of_faults_names_tests_that_are_there():
    tests = Path(__file__).parents[1]
    page = (tests.parent / "docs" / "training.md").read_text()
    named = re.findall(r"^\|[^|]+\|[^|]+\| `(.+)::(test_\w+)` \|$", page, re.MULTILINE)
    assert len(named) == page.count("::test_") > 10
    for file, name in named:
        assert f"\ndef {name}(" in (tests / file).read_text(), f"{file}::{name}"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hfds/uoft-cs/cifar10", "hfds/uoft-cs/cifar10"),
        ("hfids/org/set", "hfids/org/set"),
        ("wds/{}/private", "private"),
        ("hfds/{}", "{name}"),
        ("{}/train.csv", "train.csv"),
    ],
)
def test_a_card_names_a_set_of_the_hub_and_no_folder_of_this_machine(tmp_path, source, said):
    from bcos_zoo.cli.training import _public

    assert _public(source.format(tmp_path)) == said.format(name=tmp_path.name)
