"""From files to files: what was given is spared, whatever it is called."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

import bcos_zoo
from bcos_zoo import Classifier, InputError, pipeline
from bcos_zoo.pipeline import RenderOptions

Made = Callable[..., Path]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return bcos_zoo.load("bcos_resnet20.cifar10")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.radial_gradient("L").convert("RGB").resize((40, 32)).save(path, format="PNG")
        return path

    return make


def test_every_file_has_a_picture_of_its_own_whatever_the_files_are_called() -> None:
    names = ["a/cat.png", "b/cat.png", "cat.2.png", "a/cat.jpg", "cat.2.2.png", "cat.mp4", "b/cat.2.jpg"]
    paths = pipeline.picture_paths([Path(name) for name in names], Path("out"))
    assert len(set(paths)) == len(names)
    assert paths[:2] == [Path("out/cat.explained.png"), Path("out/cat.2.explained.png")]


@pytest.mark.parametrize("picture", ["figure", "sheet"])
def test_an_image_that_was_given_is_not_overwritten(classifier: Classifier, made: Made, picture: str) -> None:
    first, other = made("sheet.png"), made("sheet.explained.png")
    before = first.read_bytes(), other.read_bytes()
    with pytest.raises(InputError, match="is one of the images to explain, .* another folder with -o"):
        for _, answer in pipeline.explain_files(
            classifier, [first, other], None, first.parent, RenderOptions(picture)
        ):
            if isinstance(answer, InputError):
                raise answer
    assert (first.read_bytes(), other.read_bytes()) == before


@pytest.mark.parametrize(
    "options",
    [
        RenderOptions("sheet"),
        RenderOptions("sheet", "svg"),
        RenderOptions("sheet", "pdf"),
        RenderOptions(format="html"),
    ],
)
@pytest.mark.parametrize(
    "name", [os.fsdecode(b"caf\xe9.png"), "two\nlines.png", "bell\a.png", "$x_1^{2}.png"]
)
def test_a_file_may_be_called_anything(
    classifier: Classifier, made: Made, tmp_path: Path, options: RenderOptions, name: str
) -> None:
    source, broken = made(name), tmp_path / f"broken {name}"
    broken.write_bytes(b"no image")
    answers = dict(pipeline.explain_files(classifier, [source, broken], None, tmp_path / "out", options))
    assert isinstance(answers[broken], InputError)
    answer = answers[source]
    assert isinstance(answer, pipeline.Answer) and answer.picture.stat().st_size > 1000
    if answer.picture.suffix == ".svg":
        ElementTree.parse(answer.picture)


def test_a_sheet_says_of_each_image_its_name_and_what_is_explained_how_probable_it_is(
    classifier: Classifier, made: Made, tmp_path: Path
) -> None:
    source = made("photo.png")
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra `plots`")
    list(
        pipeline.explain_files(classifier, [source], ["cat"], tmp_path / "out", RenderOptions("sheet", "svg"))
    )
    probability = {p.label: p.probability for p in classifier.predict(source, 10)}["cat"]
    text = (tmp_path / "out" / "sheet.svg").read_text()
    assert ">photo.png<" in text and f">cat {probability:.3g}<" in text
