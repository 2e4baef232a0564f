"""Explanations of the same images over the epochs: which images, what of them, and where it is drawn."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import network
from PIL import Image

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.data import samples
from bcos_zoo.pictures import panels
from bcos_zoo.training import snapshots
from bcos_zoo.training.network_folder import classifier_of
from bcos_zoo.training.snapshots import Snapshots, choose, why_none

NAMES = ["cat", "dog", "cow"]


def labels_of(classes: int, n: int = 60) -> torch.Tensor:
    return torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(classes))


def photographs(n: int = 4, side: int = 32) -> list[Image.Image]:
    radial, linear = Image.radial_gradient("L"), Image.linear_gradient("L")
    bands = [[radial, linear, linear.rotate(90 * i)] for i in range(n)]
    return [Image.merge("RGB", three).resize((side, side)) for three in bands]


@pytest.fixture(scope="module")
def classifier() -> bcos_zoo.Classifier:
    return classifier_of(network("bcos_resnet20", num_classes=3, widths=(8, 16, 32)), NAMES)


def followed(run: Path, **more: Any) -> Snapshots:
    return Snapshots(
        run, **{"photographs": photographs(), "labels": [0, 1, 2, 0], "titles": [*NAMES, "cat"]} | more
    )


@pytest.mark.parametrize(("classes", "count"), list(itertools.product([1, 2, 5, 10, 30], [1, 4, 8, 20])))
def test_every_class_is_followed_before_one_is_followed_twice(classes, count):
    labels = labels_of(classes)
    picks = choose(labels, count, seed=3)
    assert len(picks) == count == len({pick.index for pick in picks})
    assert all(labels[pick.index] == pick.label for pick in picks)
    times = torch.bincount(torch.tensor([pick.label for pick in picks]), minlength=classes)
    assert times.max() - times.min() <= 1
    assert [pick.label for pick in picks] == sorted(pick.label for pick in picks)


def test_the_choice_is_made_by_the_seed():
    assert choose(labels_of(10), seed=1) == choose(labels_of(10), seed=1) != choose(labels_of(10), seed=2)
    few_of_many = [{pick.label for pick in choose(labels_of(30), 4, seed=seed)} for seed in range(3)]
    assert few_of_many[0] != few_of_many[1]  # not always the first classes


def test_few_images_are_followed_as_far_as_they_go():
    assert [(pick.index, pick.label) for pick in choose(torch.tensor([2, 0, 2]), 8)] == [
        (1, 0),
        (0, 2),
        (2, 2),
    ]
    assert choose(torch.tensor([], dtype=torch.long), 8) == []


def test_an_image_of_several_classes_stands_for_one_of_them():
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    for seed in range(10):
        picks = choose(labels, 8, seed=seed)
        assert sorted(pick.index for pick in picks) == [0, 2, 3]  # the one without a label shows nothing
        assert all(labels[pick.index, pick.label] == 1 for pick in picks)
        assert len({pick.label for pick in picks}) >= 2


def test_the_true_class_is_explained_as_by_the_classifier(tmp_path, classifier):
    followed(tmp_path).draw(classifier, 5)
    ((epoch, tiles),) = snapshots._read_tiles(tmp_path / "snapshots")
    assert epoch == 5
    for photograph, label, (tile, probability) in zip(photographs(), [0, 1, 2, 0], tiles, strict=True):
        explanation = classifier.explain(photograph, label)
        expected = panels.rgba_image(explanation.rgba()[0, 0])
        assert np.abs(np.asarray(tile).astype(int) - np.asarray(expected)).max() <= 1
        assert probability == pytest.approx(float(explanation.logits[0, label].sigmoid()), abs=1e-5)


def test_the_sheet_and_the_strip_have_a_row_an_image(tmp_path, classifier):
    snaps = followed(tmp_path)
    sheets = [snaps.draw(classifier, epoch) for epoch in range(1, 4)]
    assert [path.name for path in sheets] == ["epoch-0001.png", "epoch-0002.png", "epoch-0003.png"]
    size = panels.SMALL + panels.MARGIN
    with Image.open(sheets[0]) as sheet:
        assert sheet.size == (3 * size + panels.MARGIN, 4 * (size + panels.CAPTION) + panels.MARGIN)
    with Image.open(tmp_path / "snapshots.png") as strip:
        assert strip.width == 4 * (snapshots.TILE + panels.MARGIN) + panels.MARGIN
        pixels = np.asarray(strip.convert("L"))
    pitch = snapshots.TILE + panels.MARGIN
    columns = [pixels[:, panels.MARGIN + k * pitch :][:, : snapshots.TILE] for k in range(4)]
    assert all(column.std() > 10 for column in columns)
    assert np.array_equal(columns[2][30:], columns[3][30:])  # it did not learn
    assert not np.array_equal(columns[2][:30], columns[3][:30])  # the number of the epoch


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 10, 15, 20, 100, 600])
def test_the_epochs_of_the_strip_are_evenly_spaced(n):
    epochs = snapshots._spaced(range(1, n + 1), 8)
    assert len(epochs) == min(n, 8) == len(set(epochs)) and (epochs[0], epochs[-1]) == (1, n)
    steps = {b - a for a, b in itertools.pairwise(epochs)}
    assert not steps or max(steps) - min(steps) <= 1


@pytest.mark.parametrize("n", [1, 2, 8, 9, 10, 15, 100])
def test_the_epoch_that_is_kept_is_always_in_the_strip(n):
    for kept in range(n):
        epochs = snapshots._spaced(range(n), 8, kept)
        assert {0, kept, n - 1} <= set(epochs) and len(set(epochs)) == min(n, 8)
        assert epochs == sorted(epochs)
        assert len(set(epochs) - set(snapshots._spaced(range(n), 8))) <= 1


def test_at_the_end_the_kept_epoch_is_drawn_if_it_is_not_and_marked(tmp_path, classifier):
    other = classifier_of(network("bcos_resnet20", seed=1, num_classes=3, widths=(8, 16, 32)), NAMES)
    snaps = followed(tmp_path)
    for epoch in (0, 4):
        snaps.draw(other, epoch)
    film = snaps.end(classifier, 2)
    assert film.epochs == [0, 2, 4] and list(film.titles) == [*NAMES, "cat"]
    assert (tmp_path / "snapshots" / "epoch-0002.png").exists()
    snaps.draw(classifier, 2)  # which marks nothing
    with Image.open(tmp_path / "snapshots.png") as strip:
        plain = np.asarray(strip.convert("L")).copy()
    assert plain.shape == film.picture.size[::-1]
    marked, pitch = np.asarray(film.picture.convert("L")), snapshots.TILE + panels.MARGIN
    changed = (marked != plain).any(0).nonzero()[0]
    assert len(changed) and all(x // pitch == 2 for x in changed - panels.MARGIN)  # only its own title
    below = panels.MARGIN + panels.CAPTION
    assert np.array_equal(marked[below:], plain[below:])
    sheet = (tmp_path / "snapshots" / "epoch-0004.png").read_bytes()
    again = snaps.end(classifier, 4)  # it is drawn already, by the other network
    assert (tmp_path / "snapshots" / "epoch-0004.png").read_bytes() == sheet and again.epochs == [0, 2, 4]


def test_of_many_images_the_page_gets_the_first(tmp_path, classifier):
    many = {"photographs": photographs(4) * 3, "labels": [0, 1, 2, 0] * 3, "titles": [*NAMES, "cat"] * 3}
    film = followed(tmp_path, **many).end(classifier, 1)
    with Image.open(tmp_path / "snapshots.png") as strip:
        assert strip.height > film.picture.height and strip.width == film.picture.width
    assert len(film.titles) == snapshots.ROWS


def test_a_resumed_run_goes_on_with_the_strip(tmp_path, classifier):
    whole, first = followed(tmp_path / "a"), followed(tmp_path / "b")
    for epoch in (1, 2, 3):
        whole.draw(classifier, epoch)
    first.draw(classifier, 1)
    resumed = followed(tmp_path / "b")
    for epoch in (2, 3):
        resumed.draw(classifier, epoch)
    for name in ("snapshots.png", "snapshots/epoch-0003.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_small_pictures_that_are_damaged_or_of_other_images_are_left_out(tmp_path, classifier):
    folder = tmp_path / "snapshots"
    followed(tmp_path, photographs=photographs(2), labels=[0, 1], titles=["a", "b"]).draw(classifier, 1)
    for name in ("tiles-0002.png", "tiles-x.png"):
        (folder / name).write_bytes(b"damaged")
    Image.new("RGBA", (9, 9)).save(folder / "tiles-0003.png")
    followed(tmp_path).draw(classifier, 4)
    with Image.open(tmp_path / "snapshots.png") as strip:
        assert strip.width == 2 * (snapshots.TILE + panels.MARGIN) + panels.MARGIN


def test_a_network_in_training_is_left_as_it_is(tmp_path):
    model = network("bcos_resnet20", num_classes=3).train()
    model.layer1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    followed(tmp_path).draw(classifier_of(torch.compile(model), NAMES), 1)
    assert model.training and not model.layer1.training and model.layer2.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("options", [{"num_classes": 1}, {"in_chans": 1, "num_classes": 3}])
def test_one_output_and_grey_images_are_explained_too(tmp_path, options):
    model = network("bcos_resnet20", **options)
    assert why_none(model) is None
    names = NAMES[: max(model.num_classes, 2)]
    labels = [label % len(names) for label in (0, 1, 2, 0)]
    path = followed(tmp_path, labels=labels).draw(classifier_of(model, names), 1)
    assert path.exists() and (tmp_path / "snapshots.png").exists()


def test_what_has_no_exact_explanation_says_why(tmp_path):
    reason = "no snapshots: a conventional network has no exact explanation to show"
    for name in ("resnet18", "bcos_std_simple_vit_ti_patch16_224"):
        assert why_none(timm.create_model(name, num_classes=3)) == reason
    assert "takes 2 channels" in (why_none(network("bcos_resnet20", in_chans=2)) or "")
    assert why_none(torch.compile(network("bcos_resnet20"))) is None


def test_images_come_from_the_samples(tmp_path, classifier):
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, photograph in zip(paths, photographs(6), strict=True):
        photograph.save(path)
    some = samples.of_files(paths, [0, 0, 1, 1, 2, 2])
    snaps = Snapshots.of(tmp_path / "run", some, NAMES, 3, seed=1)
    assert snaps is not None and snaps.titles == NAMES and snaps.labels == [0, 1, 2]
    snaps.draw(classifier, 1)
    assert Snapshots.of(tmp_path, some.select([]), NAMES) is None
    for path in paths[2:4]:
        path.write_bytes(b"broken")
    assert Snapshots.of(tmp_path, some, NAMES, 3, seed=1).titles == ["cat", "cow"]
    assert Snapshots.of(tmp_path, some.select([2, 3]), NAMES) is None
    with pytest.raises(InputError, match="4 images, 1 labels and 4 titles; give one of each"):
        followed(tmp_path, labels=[0])


def test_a_folder_that_cannot_be_written_is_named(tmp_path, classifier):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(
        InputError, match="run/snapshots/tiles-0001.png cannot be written: .*; make its folder"
    ):
        followed(tmp_path / "run").draw(classifier, 1)
