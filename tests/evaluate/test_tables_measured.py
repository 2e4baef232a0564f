"""Which rows of a table are measured: those of its own test part, whatever its other parts hold."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import network
from PIL import Image

from bcos_zoo import Classifier, InputError
from bcos_zoo.evaluate import Asked, answer, measure
from bcos_zoo.outputs import Outputs

pytest.importorskip("torchmetrics", reason="the extra bcos-zoo[eval] is not installed")
THREE = ("cat", "dog", "frog")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(network("bcos_resnet20", num_classes=3, layers=[1, 1, 1]), THREE)


def table(folder: Path, *rows: str, columns: str = "path,label,split") -> Path:
    """A CSV of images 0.png, 1.png, ..., each of its own noise."""
    for i in range(len(rows)):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    with (folder / "set.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns.split(","))
        writer.writerows([f"{i}.png", *row.split(",")] for i, row in enumerate(rows))
    return folder / "set.csv"


@pytest.mark.parametrize(
    ("rows", "measured", "part"),
    [
        (["cat,test", "frog,test"], [0, 1], "test"),  # nothing to learn from is needed
        (["cat,train", "dog,train", "frog,test"], [2], "test"),
        (["cat,train", "dog,train", "cat,val", "dog,val", "frog,test"], [4], "test"),  # a class of its own
        (["cat,train", "dog,train", "dog,Valid"], [2], "Valid"),  # which lacks a class, and has no test part
        (["cat,Hold-Out", "unicorn,train", "dog,dev"], [0], "Hold-Out"),  # the rest does not matter
        (["cat,train", "dog,training"], [0, 1], "train, training"),
    ],
)
def test_the_rows_of_a_part_are_measured_by_its_own_name(
    classifier: Classifier, tmp_path: Path, rows: list[str], measured: list[int], part: str
) -> None:
    found = answer(classifier, table(tmp_path, *rows))
    assert found.part == part
    assert found.truth.tolist() == [THREE.index(rows[i].partition(",")[0]) for i in measured]
    expected = classifier.logits(classifier.preprocess([tmp_path / f"{i}.png" for i in measured]))
    # Rounding differs with and without gradients; logits of other images differ by far more.
    torch.testing.assert_close(found.logits, expected.detach(), atol=1e-3, rtol=0)
    others = classifier.logits(classifier.preprocess([tmp_path / f"{i}.png" for i in range(len(rows))]))
    assert torch.pdist(others.detach()).min() > 0.01


def test_several_labels_of_the_test_part_are_measured(tmp_path: Path) -> None:
    several = Classifier(
        network("bcos_resnet20", num_classes=3, layers=[1, 1, 1]), Outputs(THREE, multilabel=True)
    )
    for columns, rows in (
        ("path,labels,split", ["unicorn,train", "frog|cat,test", ",test"]),
        ("path,frog,cat,split", ["1,0,train", "1,1,test", "0,0,test"]),
    ):
        found = answer(several, table(tmp_path, *rows, columns=columns))
        assert found.truth.tolist() == [[1, 0, 1], [0, 0, 0]] and found.part == "test"


def test_a_table_without_parts_is_measured_whole_and_images_that_come_twice_are_told(
    classifier: Classifier, tmp_path: Path
) -> None:
    path = table(tmp_path, "cat", "dog", columns="path,label")
    path.write_text(path.read_text() + "./1.png,dog\n")
    found = measure(classifier, path, Asked(("accuracy",)))
    assert (len(found.answers), found.answers.part) == (2, None)
    [note] = found.document()["notes"]
    assert "1 lines name an image that another has named" in note and note in found.lines("x")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["cat,test", "unicorn,test"], "set.csv: unicorn is no class of this network; give names of its cl"),
        (["cat,test", "dog,fold2"], "set.csv, line 3: split is 'fold2'; it can be train, val or test"),
    ],
)
def test_what_cannot_be_measured_in_a_table_is_said(
    classifier: Classifier, tmp_path: Path, rows: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        answer(classifier, table(tmp_path, *rows))


def test_an_image_in_the_test_part_and_in_another_is_refused(classifier: Classifier, tmp_path: Path) -> None:
    path = table(tmp_path, "cat,train", "dog,test")
    path.write_text(path.read_text() + "0.png,cat,test\n")
    with pytest.raises(InputError, match=r"line 4: 0.png is in line 2 too, with something else said of it"):
        answer(classifier, path)


def test_what_is_neither_a_folder_nor_a_table_is_said_to_be_that(
    classifier: Classifier, tmp_path: Path
) -> None:
    (tmp_path / "set.tar").write_bytes(b"")
    asked = "give a folder of class folders, or a .csv"
    with pytest.raises(InputError, match=f"set.tar: no kind of file that is measured; {asked}"):
        answer(classifier, tmp_path / "set.tar")
    for name in ("nope.csv", "nope"):
        with pytest.raises(InputError, match=f"{name}: no such file or folder; {asked}"):
            answer(classifier, tmp_path / name)
