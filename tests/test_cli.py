"""The command line, in process, on the embedded checkpoint: answers, exit codes, one-line errors."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from bcos_zoo import cli


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path


@pytest.fixture
def run(capsys):
    """Run the command; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def error_line(err):
    lines = err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_list_names_every_architecture_and_pretrained_every_checkpoint(run):
    assert "bcos_resnet50" in run("list")[1].split()
    assert "bcos_resnet50.v2_in1k" in run("list", "--pretrained")[1].split()
    assert run("list", "bcos_resnet2*")[1].split() == ["bcos_resnet20"]
    assert json.loads(run("list", "bcos_resnet2*", "--json")[1]) == ["bcos_resnet20"]


def test_info_tells_what_the_manifest_holds(run):
    code, out, _ = run("info", "bcos_resnet50.v2_in1k", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["params"] == 25538880
    assert document["checkpoint"]["files"][0]["sha256_prefix"] == "ead259efe4"
    assert json.loads(run("info", "bcos_resnet20", "--json")[1])["checkpoints"] == ["bcos_resnet20.cifar10"]
    assert "params" in run("info", "bcos_resnet110")[1]


def test_predict_ranks_classes(run, photograph):
    code, out, err = run("predict", photograph, "--top-k", 3, "--json")
    (image,) = json.loads(out)["images"]
    probabilities = [prediction["probability"] for prediction in image["predictions"]]
    assert (code, err) == (0, "")
    assert len(probabilities) == 3 and probabilities == sorted(probabilities, reverse=True)
    assert run("predict", photograph, "--top-k", 3)[1].startswith(str(photograph))


def test_explain_writes_a_picture_and_says_where(run, photograph, tmp_path):
    code, out, _ = run("explain", photograph, "-o", tmp_path / "out", "--json")
    (image,) = json.loads(out)["images"]
    assert code == 0
    with Image.open(image["picture"]) as picture:
        assert picture.format == "PNG"
    assert abs(image["completeness_gap"]) < 1e-4
    assert image["targets"] == [image["predictions"][0]["label"]]
    assert "photo.explained.png" in run("explain", photograph, "-o", tmp_path / "out")[1]


def test_explain_takes_labels_and_indices(run, photograph, tmp_path):
    code, out, _ = run("explain", photograph, "--target", "dog", "--target", 3, "-o", tmp_path, "--json")
    assert code == 0
    assert json.loads(out)["images"][0]["targets"] == ["dog", "cat"]


def test_two_images_of_one_name_get_two_pictures(run, photograph, tmp_path):
    other = tmp_path / "other" / photograph.name
    other.parent.mkdir()
    other.write_bytes(photograph.read_bytes())
    _, out, _ = run("explain", photograph, other, "-o", tmp_path / "out", "--json")
    pictures = [image["picture"] for image in json.loads(out)["images"]]
    assert len(set(pictures)) == 2


@pytest.mark.parametrize("verb", ["predict", "explain"])
def test_an_unreadable_image_is_named_and_does_not_stop_the_others(run, photograph, tmp_path, verb):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    where = ["-o", tmp_path] if verb == "explain" else []
    code, out, err = run(verb, broken, photograph, *where, "--json")
    document = json.loads(out)
    assert code == 2
    assert [image["image"] for image in document["images"]] == [str(photograph)]
    assert "broken.jpg" in error_line(err)
    assert "broken.jpg" in document["errors"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "missing.jpg"], "missing.jpg"),
        (
            ["predict", "IMAGE", "--model", "bcos_resnet05"],
            "no model named 'bcos_resnet05'; closest: bcos_resnet",
        ),
        (
            ["predict", "IMAGE", "--model", "bcos_resnet20.tiny"],
            "no checkpoint named 'bcos_resnet20.tiny'; known: bcos_",
        ),
        (["predict", "IMAGE", "--model", "bcos_resnet110"], "bcos_resnet110 has no pretrained weights"),
        (
            ["explain", "IMAGE", "--target", "unicorn"],
            "no class named 'unicorn'; this model knows airplane, ",
        ),
        (["explain", "IMAGE", "--target", "10"], "target 10 is no class of this model; allowed are 0 to 9"),
        (["explain", "IMAGE", "--target", "-1"], "target -1 is no class of this model"),
        (["info", "resnet50"], "no model named 'resnet50'; closest: bcos_resnet50"),
        (["predict"], "Missing argument"),
        (["predict", "IMAGE", "--top-k", "0"], "--top-k"),
        (["paint"], "No such command 'paint'"),
        (["list", "--nonsense"], "No such option"),
        (["train", "missing.toml", "data"], "missing.toml: No such file"),
        (["evaluate", "missing"], "missing: no such folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, photograph, arguments, message):
    code, out, err = run(*[photograph if argument == "IMAGE" else argument for argument in arguments])
    assert code == 2
    assert out == ""
    assert message in error_line(err)


def test_a_place_that_cannot_be_written_is_named(run, photograph, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = run("explain", photograph, "-o", tmp_path / "file")
    assert code == 2
    assert "cannot be written" in error_line(err)


def test_evaluate_measures_accuracy_on_a_folder(run, photograph, tmp_path):
    label = json.loads(run("predict", photograph, "--json")[1])["images"][0]["predictions"][0]["label"]
    wrong = "dog" if label != "dog" else "cat"
    for name in (label, wrong):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "x.png").write_bytes(photograph.read_bytes())
    document = json.loads(run("evaluate", tmp_path / "val", "--json")[1])
    assert (document["top1"], document["images"]) == (50.0, 2)
    (tmp_path / "val" / "unicorn").mkdir()
    (tmp_path / "val" / "unicorn" / "x.png").write_bytes(photograph.read_bytes())
    assert "unicorn is no class of this network" in error_line(run("evaluate", tmp_path / "val")[2])


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "bcos_zoo", "--version"], capture_output=True, text=True, check=True
    )
    from bcos_zoo import __version__

    assert done.stdout.strip() == __version__
