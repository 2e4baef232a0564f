"""The command line, in process, on the embedded checkpoint: answers, exit codes, one-line errors."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from commands import SMALL, error_line
from PIL import Image

import bcos_zoo
from bcos_zoo import pipeline


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path


def test_list_names_every_architecture_and_pretrained_every_checkpoint(run):
    assert "bcos_resnet50" in run("list")[1].split()
    assert "bcos_resnet50.v2_in1k" in run("list", "--pretrained")[1].split()
    assert run("list", "bcos_resnet2*")[1].split() == ["bcos_resnet20"]
    assert json.loads(run("list", "bcos_resnet2*", "--json")[1]) == ["bcos_resnet20"]
    for words in (
        ["list", "nope*"],
        ["list", "nope*", "--json"],
        ["list", "nope*", "--pretrained", "--json"],
    ):
        code, out, err = run(*words)
        assert (code, out) == (2, "") and "nothing is called 'nope*'" in err


def test_info_tells_what_the_manifest_holds(run):
    code, out, _ = run("info", "bcos_resnet50.v2_in1k", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["params"] == 25538880
    assert document["checkpoint"]["files"][0]["sha256_prefix"] == "ead259efe4"
    assert json.loads(run("info", "bcos_resnet20", "--json")[1])["checkpoints"] == ["bcos_resnet20.cifar10"]
    assert "parameters" in run("info", "bcos_resnet110")[1]


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


@pytest.mark.parametrize("picture", pipeline.PICTURES)
@pytest.mark.parametrize("format_", ["png", "svg", "pdf"])
def test_explain_draws_every_picture_in_every_format(run, photograph, tmp_path, picture, format_):
    code, out, err = run(
        *["explain", photograph, "-o", tmp_path / "out", "--picture", picture, "--format", format_, "--json"]
    )
    (image,) = json.loads(out)["images"]
    assert (code, err) == (0, "")
    written = tmp_path / "out" / ("sheet" if picture == "sheet" else "photo.explained")
    assert image["picture"] == f"{written}.{format_}"
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[format_]
    assert (tmp_path / "out" / image["picture"]).read_bytes().startswith(start)
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_the_colour_explanation_alone_is_transparent_and_as_large_as_what_the_network_saw(
    run, photograph, tmp_path
):
    run("explain", photograph, "-o", tmp_path, "--picture", "rgba")
    with Image.open(tmp_path / "photo.explained.png") as picture:
        assert (picture.mode, picture.size) == ("RGBA", (320, 320))
        assert picture.getextrema()[3][0] < 30 < 200 < picture.getextrema()[3][1]


def test_a_contrast_is_explained_as_the_difference_of_two_logits(run, photograph, tmp_path):
    flags = ["--contrast", "dog", 3, "-o", tmp_path, "--json"]
    code, out, _ = run("explain", photograph, *flags)
    assert code == 0
    assert json.loads(out)["images"][0]["targets"] == ["dog - cat"]
    assert run("explain", photograph, *flags, "--format", "npz")[0] == 0
    logits = {p.index: p.logit for p in bcos_zoo.load(SMALL).predict(photograph, 10)}
    with np.load(tmp_path / "photo.explained.npz") as arrays:
        total = arrays["contributions"].sum() + arrays["bias"].sum()
    assert total == pytest.approx(logits[5] - logits[3], abs=1e-4)


def test_on_a_shared_scale_each_picture_depends_on_the_others(run, photograph, tmp_path):
    other = tmp_path / "other.png"
    Image.radial_gradient("L").convert("RGB").save(other)
    pictures = {}
    for name, flags in (("alone", []), ("shared", ["--shared-scale"])):
        assert run("explain", photograph, other, "-o", tmp_path / name, *flags)[0] == 0
        pictures[name] = [path.read_bytes() for path in sorted((tmp_path / name).iterdir())]
    assert all(a != b for a, b in zip(*pictures.values(), strict=True))


def test_a_bundle_that_was_written_is_verified_and_one_of_another_image_is_not(run, photograph, tmp_path):
    code, out, _ = run("explain", photograph, "-o", tmp_path, "--format", "bundle", "--json")
    bundle = json.loads(out)["images"][0]["picture"]
    assert (code, bundle) == (0, str(tmp_path / "photo.explained.bundle.zip"))
    code, out, err = run("verify", bundle, photograph)
    assert (code, err) == (0, "")
    assert all(line.startswith("holds  ") for line in out.splitlines()) and len(out.splitlines()) >= 8
    other = tmp_path / "other.png"
    Image.radial_gradient("L").convert("RGB").save(other)
    code, out, err = run("verify", bundle, other)
    assert code == 2
    assert "FAILS  image" in out and "holds  network" in out
    assert "does not hold for" in error_line(err)
    code, out, _ = run("verify", bundle, other, "--json")
    assert code == 2 and not json.loads(out)[0]["holds"]


def test_a_page_of_many_images_is_one_file_and_says_what_was_left_out(run, photograph, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    twin = tmp_path / "<b>twin.png"
    twin.write_bytes(photograph.read_bytes())
    arguments = ["explain", tmp_path, "-o", tmp_path / "out", "--format", "html"]
    code, out, err = run(*arguments, "--json")
    assert code == 2 and "broken.jpg" in error_line(err)
    assert {image["picture"] for image in json.loads(out)["images"]} == {str(tmp_path / "out/report.html")}
    page = (tmp_path / "out/report.html").read_bytes()
    assert b"top1 87.47 % on CIFAR-10" in page and b"&lt;b&gt;twin.png" in page and b"<b>" not in page
    assert page.count(b"<img") == 6 and b"broken.jpg" in page
    assert run(*arguments)[0] == 2
    assert (tmp_path / "out/report.html").read_bytes() == page


def test_where_no_image_can_be_read_no_page_is_written(run, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    for flags in (["--format", "html"], ["--picture", "sheet"]):
        assert run("explain", tmp_path / "broken.jpg", "-o", tmp_path / "out", *flags)[0] == 2
    assert not (tmp_path / "out").exists()


def test_a_clip_becomes_a_clip_between_images(run, photograph, tmp_path):
    av = pytest.importorskip("av")
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        frame = av.VideoFrame.from_image(Image.radial_gradient("L").convert("RGB").resize((64, 64)))
        container.mux([*stream.encode(frame), *stream.encode(None)])
    code, out, _ = run("explain", clip, photograph, "--target", "cat", "-o", tmp_path / "out", "--json")
    assert code == 0
    images = json.loads(out)["images"]
    assert [image["targets"] for image in images] == [["cat"], ["cat"]]
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["clip.explained.mp4", "photo.explained.png"]
    code, _, err = run("explain", clip, "--format", "html", "-o", tmp_path / "out")
    assert code == 2 and "clip.mp4 is a clip; report.html is a report of images" in error_line(err)
    code, _, err = run("explain", clip, "--picture", "map", "-o", tmp_path / "out")
    assert code == 2 and "is a clip, which becomes a clip" in error_line(err)


def test_two_images_of_one_name_get_two_pictures(run, photograph, tmp_path):
    other = tmp_path / "other" / photograph.name
    other.parent.mkdir()
    other.write_bytes(photograph.read_bytes())
    _, out, _ = run("explain", photograph, other, "-o", tmp_path / "out", "--json")
    pictures = [image["picture"] for image in json.loads(out)["images"]]
    assert len(set(pictures)) == 2


def test_a_name_that_is_no_text_is_printed_as_it_is(photograph, tmp_path):
    name = tmp_path / os.fsdecode(b"caf\xe9.png")
    name.write_bytes(photograph.read_bytes())
    broken = tmp_path / os.fsdecode(b"broken\xe9.png")
    broken.write_bytes(b"no image")
    command = [sys.executable, "-m", "bcos_zoo", "predict", "--model", SMALL, str(name), str(broken)]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 2
    assert b"caf\xe9.png: " in done.stdout and done.stderr.startswith(b"error: ")


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
        (["explain", "IMAGE", "--target", "9" * 30], "99 is no class of this model"),
        (["explain", "IMAGE", "--target=--1"], "no class named '--1'"),
        (["explain", "IMAGE", "--target", "²"], "no class named '²'"),
        (["explain", "IMAGE", "--picture", "mona"], "picture 'mona': allowed are figure, rgba, map, overlay"),
        (
            ["explain", "IMAGE", "--format", "gif"],
            "format 'gif': allowed are png, svg, pdf, npz, bundle, html",
        ),
        (
            ["explain", "IMAGE", "--format", "npz", "--picture", "map"],
            "format npz has no picture map; take png",
        ),
        (
            ["explain", "IMAGE", "--format", "bundle", "--contrast", "cat", "dog"],
            "format bundle has no contrast; take png",
        ),
        (["explain", "IMAGE", "--format", "npz", "--shared-scale"], "format npz has numbers, no scale of"),
        (
            ["explain", "IMAGE", "--picture", "sheet", "--contrast", "cat", "dog"],
            "a sheet shows the predicted",
        ),
        (["explain", "IMAGE", "--contrast", "cat", "unicorn"], "no class named 'unicorn'"),
        (["explain", "IMAGE", "--contrast", "cat", "cat"], "a class has no contrast to itself"),
        (["explain", "IMAGE", "--contrast", "cat", "dog", "--target", "cat"], "leave out --target"),
        (["explain", "IMAGE", "--seconds", "0"], "--seconds applies to clips, and none is given"),
        (["verify", "missing.zip", "IMAGE"], "missing.zip: no such file"),
        (["verify", "IMAGE", "IMAGE"], "photo.png is not a bundle, or is damaged"),
        (["verify", "IMAGE"], "Missing argument"),
        (["info", "resnet50"], "no model named 'resnet50'; closest: bcos_resnet50"),
        (["predict"], "Missing argument"),
        (["predict", "IMAGE", "--top-k", "0"], "--top-k"),
        (["paint"], "No such command 'paint'"),
        (["list", "--nonsense"], "No such option"),
        (["train", "missing.toml", "data"], "missing.toml: No such file"),
        (["evaluate", "missing"], "missing: no such file or folder"),
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


def test_evaluate_measures_accuracy_and_explanations_in_one_call(run, photograph, tmp_path):
    best = json.loads(run("predict", photograph, "--json")[1])["images"][0]["predictions"][0]
    assert best["probability"] > 0.5
    (tmp_path / "val" / best["label"]).mkdir(parents=True)
    (tmp_path / "val" / best["label"] / "x.png").write_bytes(photograph.read_bytes())
    command = ["evaluate", tmp_path / "val", "--metric", "accuracy", "--metric", "sparseness", "--explainer"]
    document = json.loads(run(*command, "inherent", "--samples", "1", "-o", tmp_path / "run", "--json")[1])
    assert document["top1"] == 100
    assert [line["metric"] for line in document["summary"]] == ["sparseness"]
