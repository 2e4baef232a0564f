"""What options say they allow is what the library allows; all that computes takes devices and batches."""

import inspect
import json
import re
from dataclasses import replace

import pytest
import torch
from commands import SMALL, of_the_small_one
from PIL import Image
from small_runs import paint
from typer.main import get_command

from bcos_zoo import UnknownModelError, cli, evaluate, pipeline, zoo
from bcos_zoo.cli import choices, evaluation, explanations, training
from bcos_zoo.pipeline import bundle
from bcos_zoo.posthoc import EXPLAINERS
from bcos_zoo.weights import manifest


def test_help_names_what_the_library_knows():
    """The command line may not import the library for its help, so it has a copy."""
    assert choices.PICTURES == pipeline.PICTURES
    assert choices.FORMATS == pipeline.FORMATS
    assert choices.EXPLAINERS == EXPLAINERS
    assert choices.METRICS == evaluate.METRICS
    assert choices.TOLERANCE == bundle.TOLERANCE


@pytest.mark.parametrize(
    "verb",
    [
        explanations.predict,
        explanations.explain,
        explanations.units,
        explanations.verify_bundle,
        evaluation.evaluate_,
        training.finetune,
        training.train_,
    ],
)
def test_every_verb_that_computes_takes_a_device(verb):
    parameters = inspect.signature(verb).parameters
    assert "device" in parameters
    assert "batch_size" in parameters or verb is explanations.verify_bundle  # of one image


@pytest.fixture
def folder(tmp_path):
    for i, colour in enumerate(("red", "green", "blue", "white", "gray")):
        Image.new("RGB", (40, 50), colour).save(tmp_path / f"{i}.png")
    (tmp_path / "2b.png").write_bytes(b"no image")
    return tmp_path


def answers(capsys, *arguments) -> tuple[int, dict]:
    code = cli.run(of_the_small_one([str(argument) for argument in arguments]))
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("verb", ["predict", "explain"])
def test_numbers_do_not_depend_on_the_batch(verb, folder, tmp_path, capsys):
    found = []
    for size in (1, 2, 4, 99):
        more = ["-o", tmp_path / f"out{size}"] if verb == "explain" else []
        images = [folder / f"{name}.png" for name in ("0", "1", "2", "2b", "3", "4")]
        code, document = answers(capsys, verb, *images, "--batch-size", size, "--json", *more)
        assert code == 2 and len(document["errors"]) == 1 and "2b.png" in document["errors"][0]
        assert [one["image"] for one in document["images"]] == [str(i) for i in images if "2b" not in i.name]
        found.append([[p["logit"] for p in one["predictions"]] for one in document["images"]])
    for other in found[1:]:
        torch.testing.assert_close(torch.tensor(other), torch.tensor(found[0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("verb", ["predict", "explain"])
@pytest.mark.parametrize(
    "given, said",
    [
        (["--device", "gpu"], "no device is called 'gpu'"),
        (["--device", "xpu:3"], "xpu:3 was asked for"),
        (["--batch-size", "0"], "--batch-size.*greater than or equal to 1"),
    ],
)
def test_bad_devices_and_batches_are_one_line(verb, given, said, folder, capsys):
    assert cli.run([verb, str(folder / "0.png"), *given]) == 2
    printed = capsys.readouterr().err
    assert re.search(said, printed) and printed.startswith("error: ") and printed.count("\n") == 1


def test_a_device_named_twice_is_refused(folder, capsys):
    """Of a recipe too; `--set` says it there."""
    given = ["--device", "cpu", "--set", "run.device=auto"]
    assert cli.run(["finetune", str(folder), *given]) == 2
    assert "say the same" in capsys.readouterr().err


def test_where_none_is_named_the_best_that_comes_along_is_taken(folder, capsys):
    """The one of 224 pixels, not the one of 32; stderr says what it can say at all."""
    assert cli.run(["predict", str(folder / "0.png"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["model"] == "bcos_efficientnet_lite0.imagenette" == zoo.best_embedded()
    assert err.count("\n") == 1 and "bcos_efficientnet_lite0.imagenette" in err
    assert "10 classes (tench, English springer, " in err and "parachute)" in err
    assert cli.run(["predict", str(folder / "0.png"), "--model", SMALL]) == 0
    assert capsys.readouterr().err == ""


def test_the_manifest_says_which_is_the_best(monkeypatch):
    """Pixels first, then accuracy; only what comes along, sees classes and explains itself."""

    def record(name, side, top1, **more):
        file = manifest.get("bcos_resnet20.cifar10").files
        pre = replace(manifest.get(SMALL).preprocessing, input_size=(3, side, side))
        scores = (manifest.Metric("top1", top1, "x", "measured", None),)
        made = replace(manifest.get(SMALL), name=name, preprocessing=pre, metrics=scores, files=file)
        return replace(made, **more)

    far = (replace(manifest.get(SMALL).files[0], where=manifest.Url("https://host/x.pth")),)
    gone = (replace(manifest.get(SMALL).files[0], where=manifest.Packaged("checkpoints/gone.safetensors")),)
    known = [
        record("a.small", 32, 99.0),
        record("a.good", 224, 80.0),
        record("a.better", 224, 81.0),
        record("a.far", 448, 99.0, files=far),
        record("a.gone", 448, 99.0, files=gone),
        record("a.embedding", 448, 99.0, classes=manifest.Classes(10, None)),
        record("a.conventional", 448, 99.0, explanation=None),
    ]
    monkeypatch.setattr(manifest, "checkpoints", lambda: tuple(known))
    assert zoo.best_embedded() == "a.better"
    monkeypatch.setattr(manifest, "checkpoints", lambda: tuple(known[3:]))
    with pytest.raises(UnknownModelError, match="--model"):
        zoo.best_embedded()


def said(capsys, *arguments) -> list[str]:
    assert cli.run(list(arguments)) == 0
    return capsys.readouterr().out.splitlines()


def test_a_pattern_finds_tags_too(capsys):
    assert said(capsys, "list", "*imagenette*") == [
        "bcos_resnet18.imagenette",
        "bcos_resnet18_w32.imagenette",
        "bcos_efficientnet_lite0.imagenette",
        "bcos_efficientnet_lite0.imagenette_in1k",
    ]
    assert said(capsys, "list", "bcos_resnet20*") == ["bcos_resnet20"]  # an architecture, as in timm


def test_checkpoints_are_listed_with_what_one_chooses_by(capsys, monkeypatch, tmp_path):
    """All of the manifest, in whole lines though the terminal is narrow."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "40")
    head, *lines = said(capsys, "list", "--pretrained")
    assert head.split() == ["checkpoint", "parameters", "top-1", "where", "licence", "of", "the", "weights"]
    by_name = {line.split()[0]: line for line in lines}
    assert list(by_name) == list(manifest.load())
    assert "0.3 M  87.47 %  here      Apache-2.0" in by_name["bcos_resnet20.cifar10"]
    assert " 75.88 %  download " in by_name["bcos_resnet50.v2_in1k"]
    assert " by hand " in by_name["bcos_plain9.v1_b2_cifar10"]
    assert by_name["bcos_resnet18.imagenette"].endswith("as the photographs it was trained on.")
    assert not [line for line in lines if "…" in line]


def test_info_is_a_page_of_whole_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    page = said(capsys, "info", "bcos_resnet18_w32.imagenette")
    facts = dict(line.strip().split("  ", 1) for line in page[1:])
    assert page[0] == "bcos_resnet18_w32.imagenette" and facts["parameters"].strip() == "2,803,744"
    assert "garbage truck, gas pump, golf ball, parachute)" in facts["classes"]
    assert "89.83 % on Imagenette val" in facts["top1"] and facts["where"].strip() == "here"
    assert not [line for line in page if "…" in line or "{" in line]
    assert "bcos_resnet50.v2_in1k" in said(capsys, "info", "bcos_resnet50")[-1]
    document = json.loads("".join(said(capsys, "info", "bcos_resnet18_w32.imagenette", "--json")))
    assert document["checkpoint"]["classes"]["count"] == 10


def test_explain_takes_the_best_one_too_and_says_so(folder, tmp_path, capsys):
    assert cli.run(["explain", str(folder / "0.png"), "-o", str(tmp_path / "out"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "bcos_efficientnet_lite0.imagenette" in out and "10 classes (tench, English springer, " in err


@pytest.mark.parametrize("verb", ["predict", "explain", "units", "evaluate", "verify"])
def test_the_device_is_chosen_by_itself_unless_it_is_named(verb):
    command = get_command(cli.app).commands[verb]
    (option,) = (one for one in command.params if "--device" in one.opts)
    assert option.default == "auto"


def test_evaluate_gives_the_same_numbers_whatever_the_batch(folder, tmp_path, capsys):
    root = paint(tmp_path / "set", {".": 5})
    (root / "blue").rename(root / "cat")
    (root / "red").rename(root / "dog")
    found = []
    for size in ("1", "3", "64"):
        given = ["--model", SMALL, "--batch-size", size, "--json"]
        assert cli.run(["evaluate", str(root), *given]) == 0
        found.append(json.loads(capsys.readouterr().out))
    words = {key: value for key, value in found[0].items() if not isinstance(value, float)}
    for one in found:
        assert {key: one[key] for key in words} == words
        for key in one.keys() - words:
            assert one[key] == pytest.approx(found[0][key], rel=1e-5)
