"""Rows of a comparison are of the images and the network that they were made on, and of no others."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sure import class_folders
from typer.testing import CliRunner

import bcos_zoo
from bcos_zoo import Classifier, InputError, cli
from bcos_zoo.data import identity
from bcos_zoo.evaluate import Settings, compare

FAST = Settings(explainers=("inherent",), metrics=("sparseness",), samples=2)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return bcos_zoo.load("bcos_resnet20.cifar10")


@pytest.fixture
def data(classifier: Classifier, tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    return class_folders(classifier, root)


def turn(path: Path) -> None:
    """Another picture under the same name, of the same size."""
    with Image.open(path) as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)


def all_replaced(root: Path) -> None:
    for path in root.rglob("*.png"):
        turn(path)


def one_replaced_at_the_same_time(root: Path) -> None:
    path = sorted(root.rglob("*.png"))[0]
    was = path.stat()
    turn(path)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def one_removed(root: Path) -> None:
    sorted(root.rglob("*.png"))[-1].unlink()


def one_more(root: Path) -> None:
    path = sorted(root.rglob("*.png"))[0]
    shutil.copy(path, path.with_name("more.png"))


def two_exchanged(root: Path) -> None:
    one, other = sorted(root.rglob("*.png"))[:2]
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


@pytest.mark.parametrize(
    "change", [all_replaced, one_replaced_at_the_same_time, one_removed, one_more, two_exchanged]
)
def test_rows_of_other_pictures_are_never_the_answer(
    classifier: Classifier, data: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    compare(classifier, data, tmp_path / "ev", FAST)
    change(data)
    with pytest.raises(InputError, match=r"another folder with -o \(they differ in data\)"):
        compare(classifier, data, tmp_path / "ev", FAST)


def test_the_command_refuses_in_one_line(data: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(data), "-o", str(tmp_path / "ev"), "--metric", "sparseness", "--samples", "2"]
    command += ["--explainer", "inherent", "--json", "--model", "bcos_resnet20.cifar10"]
    assert cli.run(command) == 0
    all_replaced(data)
    assert cli.run(command) == 2
    assert CliRunner().invoke(cli.app, command).exit_code != 0


def test_a_set_that_moved_or_was_touched_is_the_same(
    classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    first = compare(classifier, data, tmp_path / "ev", FAST)
    for path in data.rglob("*.png"):
        os.utime(path)
    moved = data.rename(tmp_path / "moved")
    done: list[object] = []
    assert compare(classifier, moved, tmp_path / "ev", FAST, progress=lambda *a: done.append(a)) == first
    assert not done


def another_exponent(classifier: Classifier) -> Classifier:
    model = copy.deepcopy(classifier.model)
    for module in model.modules():
        if hasattr(module, "b"):
            module.b = 1.5
    return Classifier(model, classifier.class_names)


def another_crop(classifier: Classifier) -> Classifier:
    model = copy.deepcopy(classifier.model)
    model.pretrained_cfg = (
        replace(model.pretrained_cfg, crop_pct=0.8)
        if not isinstance(model.pretrained_cfg, dict)
        else model.pretrained_cfg | {"crop_pct": 0.8}
    )
    return Classifier(model, classifier.class_names)


def other_names(classifier: Classifier) -> Classifier:
    names = list(classifier.class_names)
    names[0], names[1] = names[1], names[0]
    return Classifier(classifier.model, names)


@pytest.mark.parametrize(
    "change, said",
    [(another_exponent, "network"), (another_crop, "preprocessing"), (other_names, "outputs")],
)
def test_rows_of_another_network_are_never_the_answer(
    classifier: Classifier, data: Path, tmp_path: Path, change: Callable[[Classifier], Classifier], said: str
) -> None:
    compare(classifier, data, tmp_path / "ev", FAST)
    with pytest.raises(InputError, match=f"they differ in {said}"):
        compare(change(classifier), data, tmp_path / "ev", FAST)


def test_rows_of_other_masks_are_never_the_answer(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    for path in data.rglob("*.png"):
        mask = tmp_path / "masks" / path.relative_to(data)
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32), 255, np.uint8)).save(mask)
    settings = replace(FAST, metrics=("energy",), masks=tmp_path / "masks")
    compare(classifier, data, tmp_path / "ev", settings)
    moved = replace(settings, masks=(tmp_path / "masks").rename(tmp_path / "moved"))
    compare(classifier, data, tmp_path / "ev", moved)
    Image.fromarray(np.eye(32, dtype=np.uint8)).save(sorted((tmp_path / "moved").rglob("*.png"))[0])
    with pytest.raises(InputError, match="they differ in objects"):
        compare(classifier, data, tmp_path / "ev", moved)


def test_the_hash_of_files_is_of_names_and_bytes_and_not_of_their_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1" * 3_000_000)
    (tmp_path / "b").write_bytes(b"2")
    pairs = [("a", tmp_path / "a"), ("b", tmp_path / "b")]
    first = identity.of_files(pairs)
    assert identity.of_files(reversed(pairs)) == first
    assert identity.of_files([("b", tmp_path / "a"), ("a", tmp_path / "b")]) != first
    (tmp_path / "a").write_bytes(b"1" * 2_999_999 + b"2")
    assert identity.of_files(pairs) != first
    with pytest.raises(InputError, match="cannot be read .No such file"):
        identity.of_files([("c", tmp_path / "c")])
