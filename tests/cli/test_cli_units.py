"""Units on the command line: the images that one answers to most, and what it sees in an image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import SMALL, of_the_small_one
from photographs import coloured
from PIL import Image

import bcos_zoo
from bcos_zoo import Classifier, InputError, cli, pipeline
from bcos_zoo.explanations.units import activations
from bcos_zoo.pipeline import RenderOptions
from bcos_zoo.pipeline.top_images import Unit

LAYER, UNIT = "layer3.1.conv2", 39
ASKED = ["--layer", LAYER, "--unit", str(UNIT)]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return bcos_zoo.load(SMALL)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured(tmp_path_factory.mktemp("photographs"))


@pytest.fixture
def run(capsys: Any) -> Run:
    """Run the command; returns (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = cli.run(of_the_small_one([str(argument) for argument in arguments]))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def values(classifier: Classifier, photographs: Path) -> list[float]:
    """The activation of each photograph."""
    found: list[float] = activations(
        classifier.model, classifier.preprocess(sorted(photographs.iterdir())), LAYER, UNIT
    ).tolist()
    return found


def test_units_ranks_the_images_and_draws_them(
    run: Run, photographs: Path, values: list[float], tmp_path: Path
) -> None:
    code, out, err = run("units", photographs, *ASKED, "--count", 3, "-o", tmp_path, "--json")
    document = json.loads(out)
    best = sorted(range(7), key=lambda i: -values[i])[:3]
    assert (code, err) == (0, "")
    assert [one["image"] for one in document["images"]] == [str(photographs / f"{i}.png") for i in best]
    assert [one["activation"] for one in document["images"]] == pytest.approx([values[i] for i in best])
    assert document["picture"] == str(tmp_path / "layer3.1.conv2.39.png")
    with Image.open(document["picture"]) as three:
        size = three.size
    code, out, _ = run("units", photographs, *ASKED, "--count", 2, "-o", tmp_path)
    assert [line.split()[-1] for line in out.splitlines()] == [
        *(str(photographs / f"{i}.png") for i in best[:2]),
        document["picture"],
    ]
    with Image.open(document["picture"]) as two:
        assert two.width == size[0] and two.height < size[1]


def test_a_photograph_that_cannot_be_read_is_named_and_the_others_are_drawn(
    run: Run, photographs: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    code, out, err = run("units", photographs, broken, *ASKED, "-o", tmp_path / "out", "--json")
    assert code == 2 and err.startswith("error: ") and "broken.jpg" in err
    document = json.loads(out)
    assert len(document["images"]) == 7 and len(document["errors"]) == 1
    assert Path(document["picture"]).is_file()
    code, out, err = run("units", broken, *ASKED, "-o", tmp_path / "none", "--json")
    assert (code, json.loads(out)["picture"]) == (2, None)
    assert not (tmp_path / "none").exists()


def test_a_unit_of_an_image_is_explained_exactly(
    run: Run, classifier: Classifier, photographs: Path, values: list[float], tmp_path: Path
) -> None:
    arguments = ["explain", photographs / "4.png", *ASKED, "-o", tmp_path]
    code, out, err = run(*arguments, "--json")
    (image,) = json.loads(out)["images"]
    assert (code, err) == (0, "")
    assert image["targets"] == ["layer3.1.conv2[39]"]
    assert image["values"] == pytest.approx([values[4]], rel=1e-5)  # one image, and a batch: rounding
    assert image["completeness_gap"] < 1e-5
    assert len(image["predictions"]) == 5 and image["predictions"][0]["label"] in classifier.class_names
    said = run(*arguments)[1]
    assert f"4.png: layer3.1.conv2[39], activation {values[4]:.3g} -> {tmp_path}" in said
    assert run(*arguments, "--format", "npz")[0] == 0
    with np.load(tmp_path / "4.explained.npz") as arrays:
        assert arrays["contributions"].sum() + arrays["bias"].sum() == pytest.approx(values[4], abs=1e-5)


@pytest.mark.parametrize("picture", pipeline.PICTURES)
def test_every_picture_of_a_unit_is_another_than_that_of_the_class(
    classifier: Classifier, photographs: Path, tmp_path: Path, picture: str
) -> None:
    sources = [photographs / "0.png", photographs / "1.png"]
    written = []
    for name, unit in (("class", None), ("unit", Unit(LAYER, UNIT))):
        options = RenderOptions(picture, shared_scale=True, unit=unit)
        answers = list(pipeline.explain_files(classifier, sources, None, tmp_path / name, options))
        assert not [answer for _, answer in answers if isinstance(answer, InputError)]
        written.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert len(written[0]) == len(written[1]) == (1 if picture == "sheet" else 2)
    assert all(a != b for a, b in zip(*written, strict=True))


def test_a_page_names_the_unit(run: Run, photographs: Path, tmp_path: Path) -> None:
    assert run("explain", photographs, *ASKED, "--format", "html", "-o", tmp_path)[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("layer3.1.conv2[39], activation ") >= 7
    assert " logits" not in page  # neither the gap nor the colours are in logits


def test_a_sheet_does_not_replace_a_photograph(classifier: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "layer1.0.png"
    Image.new("RGB", (32, 32)).save(path)
    with pytest.raises(
        InputError, match="layer1.0.png is one of the images to explain, and would be overwritten"
    ):
        pipeline.draw_unit(classifier, [tmp_path], Unit("layer1", 0), tmp_path)


def test_the_explanation_of_a_unit_has_the_settings_of_its_checkpoint(
    classifier: Classifier, photographs: Path
) -> None:
    explanation = classifier.explain_unit(photographs / "0.png", LAYER, UNIT)
    direct = bcos_zoo.explain_unit(
        classifier.model, classifier.preprocess(photographs / "0.png"), LAYER, UNIT
    )
    assert (explanation.smooth, explanation.percentile) == (
        classifier.head.smooth,
        classifier.head.percentile,
    )
    assert explanation.smooth != direct.smooth
    assert torch.equal(explanation.weights, direct.weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "--layer", LAYER], "a unit is named by --layer and --unit; give both, such as --layer"),
        (["explain", "--unit", "3"], "a unit is named by --layer and --unit; give both"),
        (
            ["explain", "--layer", "layer3.1.conv3", "--unit", "3"],
            "no layer named 'layer3.1.conv3'; closest: lay",
        ),
        (["explain", "--layer", "layer1", "--unit", "99"], "unit 99 is not in layer1; allowed are 0 to 15"),
        (["explain", "--layer", "layer1", "--unit", "-1"], "unit -1 is not in layer1; allowed are 0 to 15"),
        (
            ["explain", *ASKED, "--target", "cat"],
            "layer3.1.conv2[39] is explained in place of a class; leave out",
        ),
        (
            ["explain", *ASKED, "--contrast", "cat", "dog"],
            "is explained in place of a class; leave out --target and",
        ),
        (
            ["explain", *ASKED, "--format", "bundle"],
            "bundles are of classes, layer3.1.conv2[39] is a unit; leave",
        ),
        (["units", "--layer", LAYER], "Missing option '--unit'"),
        (["units", "--layer", "layer9", "--unit", "3"], "no layer named 'layer9'; closest: layer"),
        (["units", "--layer", "layer1", "--unit", "16"], "unit 16 is not in layer1; allowed are 0 to 15"),
        (["units", *ASKED, "--count", "401"], "count=401: allowed are 1 to 400, the images that fit a sheet"),
        (["units", *ASKED, "--count", "0"], "--count"),
    ],
)
def test_what_does_not_go_together_is_one_line_and_nothing_is_written(
    run: Run, photographs: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run(arguments[0], photographs, *arguments[1:], "-o", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_library_refuses_a_class_and_a_unit_at_once(
    classifier: Classifier, photographs: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="targets are classes, layer1.0. is a unit; explain one of both"):
        options = RenderOptions(unit=Unit("layer1", 0))
        list(pipeline.explain_files(classifier, [photographs / "0.png"], ["cat"], tmp_path, options))
    with pytest.raises(InputError, match="contrasts are of classes, layer1.0. is a unit"):
        RenderOptions(contrast=("cat", "dog"), unit=Unit("layer1", 0))
