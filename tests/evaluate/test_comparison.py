"""Explanations compared on folders of images: what a run keeps, how it goes on, and what it measures."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from commands import SMALL
from PIL import Image
from sure import class_folders
from typer.testing import CliRunner

import bcos_zoo
from bcos_zoo import Classifier, InputError, cli, evaluate, explain, metrics
from bcos_zoo.evaluate import Settings, compare, rows, summarise

FAST = Settings(explainers=("inherent", "grad"), grid=2, samples=3)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return bcos_zoo.load("bcos_resnet20.cifar10")


@pytest.fixture(scope="module")
def data(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(classifier, tmp_path_factory.mktemp("data"))


def test_the_score_of_a_map_is_the_share_in_its_cell(
    classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    found = compare(classifier, data, tmp_path, Settings(explainers=("inherent",), grid=2, samples=1))
    assert [(row["sample"], row["map"]) for row in found] == [(0, i) for i in range(4)]
    paths, labels = evaluate.accuracy.labelled_files(classifier, data)
    logits, truth = evaluate.accuracy.logits_of(classifier, paths, labels)
    [grid] = metrics.make_grids(logits, truth, 2, 1).tolist()
    image = metrics.tile(classifier.preprocess([paths[i] for i in grid]), 2)
    targets = torch.tensor([[labels[i] for i in grid]])
    contributions = explain(classifier.model, image[None], targets).contributions[0].clamp_min(0)
    for row in found:
        top, left = 32 * (row["map"] // 2), 32 * (row["map"] % 2)
        own = contributions[row["map"]]
        expected = own[top : top + 32, left : left + 32].sum() / own.sum()
        assert row["score"] == pytest.approx(float(expected), rel=1e-4)


def test_what_is_done_is_not_done_again_and_half_a_sample_is_nothing(
    classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    whole = compare(classifier, data, tmp_path / "whole", FAST)
    assert len(whole) == 2 * 3 * 4
    broken = tmp_path / "broken"
    compare(classifier, data, broken, FAST)
    [file] = broken.glob("localisation.grad.*.jsonl")
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:6]) + '\n{"explainer": "gra')  # killed in the second sample
    assert len(list(rows(broken))) == 3 * 4 + 4
    done: list[tuple[str, int, int]] = []
    again = compare(classifier, data, broken, FAST, progress=lambda *args: done.append(args))
    assert done == [("localisation grad", 1, 2), ("localisation grad", 2, 2)]
    assert sorted(map(json.dumps, again)) == sorted(map(json.dumps, whole))


def test_a_row_that_was_cut_off_takes_no_other_with_it(
    classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    settings = Settings(explainers=("inherent",), metrics=("sparseness",), samples=3)
    whole = compare(classifier, data, tmp_path, settings)
    [file] = tmp_path.glob("*.jsonl")
    text = file.read_text()
    for end in (len(text) - 1, len(text) - 10, text.index("\n") + 9, 5):
        file.write_text(text[:end])
        again = compare(classifier, data, tmp_path, settings)
        assert sorted(map(json.dumps, again)) == sorted(map(json.dumps, whole))


def test_processes_share_the_samples(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    whole = compare(classifier, data, tmp_path / "whole", FAST)
    first = compare(classifier, data, tmp_path / "shared", FAST, share=(0, 2))
    assert {row["sample"] for row in first} == {0, 2}
    both = compare(classifier, data, tmp_path / "shared", FAST, share=(1, 2))
    assert sorted(map(json.dumps, both)) == sorted(map(json.dumps, whole))


def test_other_settings_do_not_mix_with_what_is_there(
    classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    compare(classifier, data, tmp_path, Settings(explainers=("inherent",), grid=2, samples=1))
    with pytest.raises(
        InputError, match="other settings, data or weights; give another folder with -o .they differ in seed"
    ):
        compare(classifier, data, tmp_path, Settings(explainers=("inherent",), grid=2, samples=1, seed=1))
    assert len(compare(classifier, data, tmp_path, FAST)) == 2 * 3 * 4  # more of the same


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(explainers=("inherent", "lrp")), "no explainer named lrp; known: inherent, "),
        (dict(metrics=("accuracy",)), "no metric named accuracy; known: localisation, "),
        (dict(fewer={"lrp": 1}), "no explainer named lrp"),
        (dict(samples=0), "number of samples must be 1 or more"),
    ],
)
def test_settings_without_a_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings(**options)


def test_too_few_images_are_refused(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="enough for 0 grids of 9 classes"):
        compare(classifier, data, tmp_path, Settings(samples=1))


@pytest.mark.parametrize(
    "metric",
    ["deletion", "insertion", "sparseness", "stability", "completeness", "constants", "checkerboard"],
)
def test_single_images_are_measured_too(
    classifier: Classifier, data: Path, tmp_path: Path, metric: str
) -> None:
    settings = Settings(explainers=("inherent", "grad"), metrics=(metric,), samples=2)
    found = compare(classifier, data, tmp_path, settings)
    names = (
        ["inherent"] if metric in ("completeness", "constants") else ["grad", "inherent"]
    )  # the only one that claims it
    assert sorted((row["explainer"], row["sample"]) for row in found) == [
        (n, i) for n in names for i in (0, 1)
    ]
    most = {"completeness": 1e-4, "checkerboard": 1e4}.get(metric, 2)
    assert all(0 <= row["score"] <= most for row in found)
    if metric == "deletion":
        assert all(row["curve"][0] > 0.5 and row["curve"][-1] < row["curve"][0] for row in found)
        picture = Image.open(evaluate.curve_plot(found, tmp_path / "curves.png"))
        assert picture.convert("L").getextrema() != (255, 255)


def test_the_checkerboard_is_the_strongest_of_the_networks_strides(
    classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    settings = Settings(explainers=("inherent",), metrics=("checkerboard",), samples=2)
    found = compare(classifier, data, tmp_path, settings)
    path = sorted(data.glob("*/*"))
    maps = [classifier.explain(one, to).contributions[0, 0] for one in path for to in classifier.class_names]
    by_stride = {stride: [float(metrics.checkerboard(one, stride)) for one in maps] for stride in (2, 4)}
    strongest = {round(max(both), 4) for both in zip(*by_stride.values(), strict=True)}
    assert {round(row["score"], 4) for row in found} <= strongest
    assert strongest != {round(one, 4) for one in by_stride[4]}  # the last stride is not always the strongest


def test_a_network_without_strides_or_with_too_few_pixels_is_refused_before_it_begins(
    classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    settings = Settings(explainers=("inherent",), metrics=("checkerboard",), samples=1)
    own = copy.copy(classifier)
    own.model = copy.deepcopy(classifier.model)
    own.model.feature_info = [{"reduction": 8}]
    with pytest.raises(
        InputError, match="maps of 32x32 pixels and a stride of 8; allowed are sides of at least 5"
    ):
        compare(own, data, tmp_path / "small", settings)
    own.model.feature_info = [{"reduction": 1}, {"reduction": 1}]
    with pytest.raises(InputError, match="patterns of a network's strides, and this one has none; leave out"):
        compare(own, data, tmp_path / "none", settings)
    del own.model.feature_info
    with pytest.raises(InputError, match="needs the strides of the network, which says nothing of them"):
        compare(own, data, tmp_path / "none", settings)
    assert not (tmp_path / "small").exists() and not (tmp_path / "none").exists()


def test_pixels_go_and_come_from_either_end(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    settings = Settings(explainers=("inherent",), metrics=evaluate.CURVES, samples=2)
    found = compare(classifier, data, tmp_path, settings)
    area = {(row["metric"], row["sample"]): row["score"] for row in found}
    for i in (0, 1):
        assert area["deletion", i] < area["deletion-least", i]
        assert area["insertion", i] > area["insertion-least", i]
    for metric in evaluate.CURVES:
        evaluate.curve_plot(found, tmp_path / f"{metric}.png", metric=metric)


@pytest.mark.parametrize(
    ("metric", "best"),
    [
        *(("localisation", "b"), ("insertion", "b"), ("deletion", "a"), ("stability", "a")),
        *(("deletion-least", "b"), ("insertion-least", "a")),
    ],
)
def test_a_summary_begins_with_the_best_median(metric: str, best: str) -> None:
    made = [
        dict(explainer=name, metric=metric, sample=i, map=0, score=score)
        for name, scores in (("a", (0.1, 0.2, 0.9)), ("b", (0.3, 0.3, 0.3)))
        for i, score in enumerate(scores)
    ]
    lines = summarise(made)
    assert lines[0]["explainer"] == best
    a, b = sorted(lines, key=lambda line: line["explainer"])
    assert (b["p50"], b["samples"]) == (0.3, 3)
    assert a["mean"] == pytest.approx(0.4)


def test_infinite_scores_are_summarised_written_and_drawn(tmp_path: Path) -> None:
    """The stability of a map of zeros, which Grad-CAM may give, is infinite."""
    made = [
        dict(explainer=name, metric="stability", sample=i, map=0, score=score)
        for name, scores in (("gradcam", (0.1, math.inf, 0.2, math.inf)), ("lime", (math.inf,)))
        for i, score in enumerate(scores)
    ]
    lines = {line["explainer"]: line for line in summarise(made)}
    assert [lines["gradcam"][p] for p in ("p25", "p50", "p75")] == [pytest.approx(0.175), math.inf, math.inf]
    assert lines["lime"]["p50"] == math.inf
    path, _ = evaluate.write_tables(made, tmp_path)
    text = path.read_text()
    assert "Infinity" not in text and json.loads(text)[0]["mean"] is None
    with Image.open(evaluate.box_plot(made, tmp_path / "x.png", metric="stability")) as picture:
        assert picture.convert("L").getextrema() != (255, 255)


def test_the_command_writes_tables_and_a_plot(data: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(data), "--model", SMALL]
    command += ["--metric", "localisation", "--grid", "2", "--samples", "2"]
    command += [
        "--explainer",
        "inherent",
        "--explainer",
        "gradcam",
        "--fewer",
        "gradcam=1",
        "-o",
        str(tmp_path),
    ]
    run = CliRunner().invoke(cli.app, [*command, "--json"])
    document = json.loads(run.stdout)
    assert {line["explainer"]: line["maps"] for line in document["summary"]} == {"inherent": 8, "gradcam": 4}
    assert len(pd.read_parquet(tmp_path / "rows.parquet")) == 12
    assert json.loads((tmp_path / "summary.json").read_text()) == document["summary"]
    assert Image.open(tmp_path / "localisation.png").convert("L").getextrema() != (255, 255)


# The second process begins when the first has done its share, and should be waiting.
LATE = """
import os, pathlib, runpy, sys, time
first = pathlib.Path(sys.argv[-1], "localisation.inherent.0-2.jsonl")
while os.environ["RANK"] == "1" and not (first.exists() and first.read_text().count("\\n") == 8):
    time.sleep(0.1)
time.sleep(2 * int(os.environ["RANK"]))
runpy.run_module("bcos_zoo", run_name="__main__")
"""


def test_two_processes_make_one_table(data: Path, tmp_path: Path) -> None:
    (script := tmp_path / "late.py").write_text(LATE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(script), "evaluate", str(data), "--model", SMALL]
    command += ["--metric", "localisation", "--grid", "2"]
    command += ["--samples", "3", "--explainer", "inherent", "-o", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr
    assert len(pd.read_parquet(tmp_path / "rows.parquet")) == 12
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


def test_an_image_is_explained_the_same_alone_and_among_64(classifier: Classifier) -> None:
    x = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    together = explain(classifier.model, x, 3)
    for i in (0, 31, 63):
        alone = explain(classifier.model, x[i : i + 1], 3)
        scale = float(alone.weights.abs().max())
        assert float((together.weights[i] - alone.weights[0]).abs().max()) < 1e-5 * scale
        assert float((together.bias[i] - alone.bias[0]).abs()) < 1e-5


def test_an_explainer_without_a_score_is_never_first():
    from bcos_zoo.evaluate import summarise

    rows = [
        {"metric": metric, "explainer": name, "sample": 0, "map": 0, "score": score}
        for metric in ("localisation", "deletion")
        for name, score in (("a", math.nan), ("b", 0.2), ("c", 0.4))
    ]
    order = [(line["metric"], line["explainer"]) for line in summarise(rows)]
    assert order == [("deletion", n) for n in "bca"] + [("localisation", n) for n in "cba"]
