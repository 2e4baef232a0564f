"""The energy pointing game on folders of photographs: what is scored, kept, gone on with, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands import SMALL
from PIL import Image
from sure import sure_images, wide_photograph
from typer.testing import CliRunner

import bcos_zoo
from bcos_zoo import Classifier, InputError, cli, explain
from bcos_zoo.evaluate import Settings, compare

BOXES = [(16, 0, 48, 64), (48, 32, 96, 64), (20, 10, 30, 20), (0, 0, 96, 64)]  # of the images of each class


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return bcos_zoo.load("bcos_resnet20.cifar10")


@pytest.fixture(scope="module")
def data(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight wide photographs in class folders, a third of which the card's crop cuts off; boxes, masks."""
    folder = tmp_path_factory.mktemp("photographs")
    lines = ["image,x0,y0,x1,y1"]
    for i, (x, label) in enumerate(zip(*sure_images(classifier, 8), strict=True)):
        name = f"{classifier.class_names[label]}/{i}.png"
        for kind in ("data", "masks"):
            (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
        wide_photograph(x).save(folder / "data" / name)
        x0, y0, x1, y1 = BOXES[label]
        lines.append(f"{name},{x0},{y0},{x1},{y1}")
        mask = np.zeros((64, 96), bool)
        mask[y0:y1, x0:x1] = True
        Image.fromarray(mask).save(folder / "masks" / name)
    (folder / "boxes.csv").write_text("\n".join(lines))
    return folder


def settings(data: Path, **options: Any) -> Settings:
    given: dict[str, Any] = dict(explainers=("inherent", "grad"), metrics=("energy",), samples=4)
    return Settings(**given | ({} if "masks" in options else {"boxes": data / "boxes.csv"}) | options)


def test_the_score_is_the_share_of_the_positive_contributions_in_the_transformed_mask(
    classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    """Slow and plain: a picture of the mask goes through the card's own transform."""
    found = compare(classifier, data / "data", tmp_path, settings(data, explainers=("inherent",), samples=8))
    expected = []
    for path in (data / "data").rglob("*.png"):
        label = classifier.class_names.index(path.parent.name)
        mask = classifier.preprocess(data / "masks" / path.relative_to(data / "data"))[0, 0] > 0.5
        x = classifier.preprocess(path)
        assert int(classifier.model(x).argmax()) == label
        positive = explain(classifier.model, x, label).contributions[0, 0].clamp_min(0)
        expected.append((float(positive[mask].sum() / positive.sum()), float(mask.float().mean())))
    scores, chances = zip(*sorted((row["score"], row["chance"]) for row in found), strict=True)
    expected_scores, expected_chances = zip(*sorted(expected), strict=True)
    assert scores == pytest.approx(expected_scores, abs=1e-5) and scores[0] < 0.2 < 0.99 < scores[-1]
    assert chances == pytest.approx(expected_chances) and len(set(chances)) == 4


def test_masks_and_boxes_of_the_same_objects_score_the_same(
    classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    by_box = compare(classifier, data / "data", tmp_path / "boxes", settings(data))
    by_mask = compare(classifier, data / "data", tmp_path / "masks", settings(data, masks=data / "masks"))
    assert len(by_box) == 8 and by_box == by_mask


def test_labelled_boxes_need_no_class_folders(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    """One flat folder, as detection data comes, in COCO's JSON: with two classes boxed in each image."""
    flat, images, annotations = tmp_path / "flat", [], []
    flat.mkdir()
    names = classifier.class_names
    for i, path in enumerate(sorted((data / "data").rglob("*.png"))):
        (flat / f"{i}.png").write_bytes(path.read_bytes())
        images.append({"id": i, "file_name": f"{i}.png", "width": 96, "height": 64})
        for label, (x0, y0, x1, y1) in (
            (names.index(path.parent.name), (20, 10, 70, 60)),
            (9, (0, 0, 96, 64)),
        ):
            box = [x0, y0, x1 - x0, y1 - y0]
            annotations.append({"image_id": i, "category_id": label, "bbox": box})
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    found = compare(classifier, flat, tmp_path / "run", settings(data, boxes=file, explainers=("inherent",)))
    assert len(found) == 4
    assert {row["chance"] for row in found} == {25 * 25 / 32**2}  # the small box, half as large
    with pytest.raises(InputError, match="no sub-folders; put the images of each class into a folder"):
        both = ("energy", "deletion")
        compare(classifier, flat, tmp_path / "run2", settings(data, boxes=file, metrics=both))


def test_objects_that_the_crop_leaves_out_are_no_samples(
    classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    lines = (data / "boxes.csv").read_text().splitlines()[1:]
    outside = [f"{line.split(',')[0]},0,0,16,64" for line in lines[:5]]  # what the crop cuts off on the left
    file = tmp_path / "outside.csv"
    file.write_text("\n".join([*outside, *lines[5:]]))
    few = settings(data, boxes=file, samples=3, explainers=("inherent",))
    assert len(compare(classifier, data / "data", tmp_path / "run", few)) == 3
    with pytest.raises(
        InputError, match=r"3 images are right .* not 4 \(5 more have their object outside of the crop\); add"
    ):
        compare(classifier, data / "data", tmp_path / "more", settings(data, boxes=file))


def test_a_run_goes_on_and_is_shared(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    whole = compare(classifier, data / "data", tmp_path / "whole", settings(data))
    first = compare(classifier, data / "data", tmp_path / "parts", settings(data, samples=2), share=(0, 2))
    assert {row["sample"] for row in first} == {0}
    compare(classifier, data / "data", tmp_path / "parts", settings(data), share=(0, 2))
    done: list[tuple[str, int, int]] = []
    parts = compare(
        classifier, data / "data", tmp_path / "parts", settings(data), share=(1, 2),
        progress=lambda *args: done.append(args),
    )  # fmt: skip
    assert done == [(f"energy {name}", i, 2) for name in ("inherent", "grad") for i in (1, 2)]
    assert sorted(map(json.dumps, parts)) == sorted(map(json.dumps, whole))


def test_rows_of_other_boxes_do_not_mix_but_other_metrics_may_follow(
    classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    compare(classifier, data / "data", tmp_path, settings(data, metrics=("energy",)))
    both = settings(data, metrics=("energy", "sparseness"))
    assert len(compare(classifier, data / "data", tmp_path, both)) == 16
    only = Settings(explainers=("inherent",), metrics=("completeness",), samples=4)
    assert len(compare(classifier, data / "data", tmp_path, only)) == 20
    with pytest.raises(InputError, match="holds rows of other settings.*they differ in objects"):
        compare(classifier, data / "data", tmp_path, settings(data, masks=data / "masks"))


@pytest.mark.parametrize(
    "options, message",
    [
        (
            dict(metrics=("energy",)),
            "energy with neither boxes nor masks; say where .*--boxes FILE or --masks",
        ),
        (dict(metrics=("energy",), boxes=Path("b"), masks=Path("m")), "energy with both boxes and masks"),
        (dict(boxes=Path("b")), "boxes are of the metric energy; add --metric energy or leave out --boxes"),
        (dict(metrics=(), masks=Path("m")), "masks are of the metric energy"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings(**options)


def test_without_any_object_there_is_no_game(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match="data: no image has an object; masks are PNG files under the names"):
        compare(classifier, data / "data", tmp_path / "run", settings(data, masks=tmp_path / "masks"))


def test_the_command_writes_tables_and_a_plot(data: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(data / "data"), "--metric", "energy", "--samples", "3", "-o", str(tmp_path)]
    command += [
        "--model",
        SMALL,
        "--explainer",
        "inherent",
        "--explainer",
        "grad",
        "--boxes",
        str(data / "boxes.csv"),
    ]
    printed = CliRunner().invoke(cli.app, [*command, "--json"])
    document = json.loads(printed.stdout)
    assert {line["explainer"]: line["maps"] for line in document["summary"]} == {"inherent": 3, "grad": 3}
    assert len({line["chance"] for line in document["summary"]}) == 1
    assert len(pd.read_parquet(tmp_path / "rows.parquet")) == 6
    assert Image.open(tmp_path / "energy.png").convert("L").getextrema() != (255, 255)
    table = CliRunner().invoke(cli.app, command).stdout.splitlines()
    assert "chance" in table[0] and len(table) == 3


def test_boxes_without_the_metric_are_no_quiet_wish(data: Path, capsys: Any) -> None:
    assert cli.run(["evaluate", str(data / "data"), "--boxes", str(data / "boxes.csv")]) == 2
    assert "error: --boxes applies to the metric energy" in capsys.readouterr().err


def test_a_target_is_a_class_of_its_box_even_where_the_folder_names_another(
    classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    """An image in the folder "cat" with a box "dog" asks for the dog, and only if the network sees it."""
    lines = (data / "boxes.csv").read_text().splitlines()[1:]
    file = tmp_path / "other.csv"
    file.write_text("\n".join(f"{line},truck" for line in lines))  # which the network sees in none
    with pytest.raises(InputError, match="0 images are right with confidence above 0.5, not 4; add"):
        compare(classifier, data / "data", tmp_path / "run", settings(data, boxes=file))


def test_a_pool_of_inference_mode_is_explained(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    with torch.inference_mode():
        found = compare(classifier, data / "data", tmp_path, settings(data, samples=1))
    assert len(found) == 2
