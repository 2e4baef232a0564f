"""Grids that a network sees through windows of its own size, and networks that take nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from commands import SMALL
from sure import class_folders
from torch.nn.functional import pad

import bcos_zoo
from bcos_zoo import Classifier, InputError, cli, evaluate, explain, metrics, posthoc
from bcos_zoo.evaluate import Settings, compare


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return bcos_zoo.load("bcos_resnet20.cifar10")


@pytest.fixture(scope="module")
def data(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(classifier, tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("explainer", ["inherent", "grad"])
@pytest.mark.parametrize("stride", [16, 32])
def test_the_maps_of_all_windows_are_added_where_they_were_seen(
    classifier: Classifier, data: Path, tmp_path: Path, explainer: str, stride: int
) -> None:
    """Slow and plain: window by window, target by target."""
    settings = Settings(explainers=(explainer,), grid=2, samples=1, stride=stride)
    found = compare(classifier, data, tmp_path, settings)
    paths, labels = evaluate.accuracy.labelled_files(classifier, data)
    logits, truth = evaluate.accuracy.logits_of(classifier, paths, labels)
    [grid] = metrics.make_grids(logits, truth, 2, 1).tolist()
    out = 32 - stride
    image = pad(metrics.tile(classifier.preprocess([paths[i] for i in grid]), 2), (out,) * 4)
    for row, i in zip(found, grid, strict=True):
        total = torch.zeros(image.shape[-2:])
        for top in range(0, image.shape[-2] - 31, stride):
            for left in range(0, image.shape[-1] - 31, stride):
                window = image[None, :, top : top + 32, left : left + 32]
                if explainer == "inherent":
                    one = explain(classifier.model, window, labels[i]).contributions[0, 0]
                else:
                    one = posthoc.attribute(classifier.model, window, labels[i], explainer)[0]
                total[top : top + 32, left : left + 32] += one
        own = total[out : out + 64, out : out + 64].clamp_min(0)
        y, x = 32 * (row["map"] // 2), 32 * (row["map"] % 2)
        expected = own[y : y + 32, x : x + 32].sum() / own.sum()
        assert row["score"] == pytest.approx(float(expected), rel=1e-3)
        assert row["chance"] == 0.25


def test_windows_that_do_not_overlap_see_each_image_alone(
    classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    whole = compare(classifier, data, tmp_path / "whole", Settings(("inherent",), grid=2, samples=2))
    apart = compare(
        classifier, data, tmp_path / "apart", Settings(("inherent",), grid=2, samples=2, stride=32)
    )
    assert len(whole) == len(apart) == 8 and whole != apart


def test_a_network_that_takes_one_size_is_refused_a_grid_and_told_of_the_stride(
    data: Path, tmp_path: Path
) -> None:
    classifier = bcos_zoo.load("bcos_resnet20.cifar10")

    def refuse(module: Any, args: Any) -> None:
        if args[0].shape[-1] != 32:
            raise AssertionError("Input height doesn't match model")  # as timm's ViTs do

    classifier.model.register_forward_pre_hook(refuse)
    message = (
        r"a grid of 2x2 images is 64x64 pixels, which the network for 32x32 does not take \(Input height "
        r"doesn't match model\); let it see the grid through windows, with --stride N, where N divides 32"
    )
    with pytest.raises(InputError, match=message):
        compare(classifier, data, tmp_path / "refused", Settings(("inherent",), grid=2, samples=1))
    assert not (tmp_path / "refused").exists()
    settings = Settings(("inherent", "grad"), grid=2, samples=1, stride=16)
    assert len(compare(classifier, data, tmp_path / "taken", settings)) == 8
    alone = Settings(("inherent",), metrics=("sparseness",), samples=1)
    assert len(compare(classifier, data, tmp_path / "alone", alone)) == 1  # which has no grids


def test_timms_vits_take_one_size(tmp_path: Path) -> None:
    model = timm.create_model("test_vit3", num_classes=2).eval()
    model.in_chans = 3
    with pytest.raises(InputError, match="is 320x320 pixels, which the network for 160x160 does not take"):
        compare(Classifier(model, ["a", "b"]), tmp_path, tmp_path / "run", Settings(("grad",), grid=2))


@pytest.mark.parametrize("stride", [5, 33, 64])
def test_a_stride_that_sees_pixels_unequally_often_is_refused(
    classifier: Classifier, data: Path, tmp_path: Path, stride: int
) -> None:
    with pytest.raises(
        InputError, match=f"stride {stride} of a network for 32x32 pixels; allowed are square"
    ):
        compare(classifier, data, tmp_path, Settings(("inherent",), grid=2, samples=1, stride=stride))


def test_rows_with_and_without_windows_do_not_mix(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    compare(classifier, data, tmp_path, Settings(("inherent",), metrics=("sparseness",), grid=2, samples=1))
    compare(classifier, data, tmp_path, Settings(("inherent",), grid=2, samples=1, stride=16))
    with pytest.raises(InputError, match="other settings, data or weights.*they differ in stride"):
        compare(classifier, data, tmp_path, Settings(("inherent",), grid=2, samples=1))


def test_a_stride_without_grids_is_refused() -> None:
    with pytest.raises(
        InputError, match="--stride belongs to the metric localisation; add it with --metric, or leave"
    ):
        Settings(metrics=("deletion",), stride=16)


def test_the_command_takes_a_stride(data: Path, tmp_path: Path, capsys: Any) -> None:
    command = ["evaluate", str(data), "--metric", "localisation", "--grid", "2", "--samples", "1"]
    command += ["--model", SMALL, "--explainer", "inherent", "--stride", "16", "-o", str(tmp_path), "--json"]
    assert cli.run(command) == 0
    [line] = json.loads(capsys.readouterr().out)["summary"]
    assert (line["maps"], line["chance"]) == (4, 0.25)
    assert json.loads((tmp_path / "settings.json").read_text())["stride"] == 16


def test_a_bcos_vit_plays_through_windows(tmp_path: Path) -> None:
    """From the registry, without weights: four classes it is made sure of."""
    torch.manual_seed(0)
    model = timm.create_model("bcos_simple_vit_ti_patch16_224", num_classes=4, depth=1).eval()
    names = ["a", "b", "c", "d"]
    classifier = Classifier(model, names)
    scorer = evaluate.scoring.Scorer(classifier, Settings(("inherent",), grid=2, stride=112))
    scorer.check()
    x = torch.rand(4, 3, 224, 224)
    [scores] = [scorer._localisation(x, torch.arange(4), "inherent")]
    assert len(scores) == 4 and all(0 <= score <= 1 for score in scores) and max(scores) > 0
