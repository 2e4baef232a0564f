"""Scores of predictions through the verb: one label, several, a single logit; intervals by groups."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import network
from PIL import Image
from typer.testing import CliRunner

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.cli import app
from bcos_zoo.evaluate import Asked, accuracy_of, discriminate
from bcos_zoo.evaluate.samples import Pool
from bcos_zoo.outputs import Outputs
from bcos_zoo.training.network_folder import write_network

pytest.importorskip("torchmetrics", reason="the extra bcos-zoo[eval] is not installed")
THREE, TWO = ("cat", "dog", "frog"), ("cat", "dog")


def painted(i: int) -> Image.Image:
    rng = np.random.default_rng(i)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize((32, 32), Image.Resampling.BICUBIC)


def folders(root: Path, counts: dict[str, int]) -> Path:
    """Images of each class, two of each patient."""
    number = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            painted(number).save(root / name / f"patient{number // 2}_{i}.png")
            number += 1
    return root


def model(tmp_path: Path, outputs: Outputs, logits: int) -> Path:
    return write_network(
        network("bcos_resnet20", num_classes=logits, layers=[1, 1, 1]), outputs, tmp_path / "model"
    )


def evaluated(*words: object) -> Any:
    result = CliRunner().invoke(app, ["evaluate", *map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*words: object) -> str:
    result = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    assert result.exit_code == 2 or isinstance(result.exception, InputError), result.output
    return result.stderr + str(result.exception)


def by_hand(odds: torch.Tensor, shown: torch.Tensor) -> float:
    """Share of pairs in the right order."""
    a, b = odds[shown.bool()][:, None], odds[~shown.bool()][None]
    return float(((a > b).double() + 0.5 * (a == b)).mean())


def test_dogs_alone_are_evaluated_and_what_has_no_meaning_is_said(tmp_path):
    run, root = model(tmp_path, Outputs(TWO), 1), folders(tmp_path / "d", {"dog": 4})
    found = evaluated(root, "--model", run, "--metric", "accuracy", "--metric", "auroc")
    assert set(found["per_class"]) == {"dog"} and 0 <= found["calibration_error"] <= 1
    assert "top5" not in found and found["outputs"] == "sigmoid"
    values = {one["label"]: one["value"] for one in found["scores"]}
    assert values == {None: None, "cat": None, "dog": None}
    assert [one["undefined"] for one in found["scores"][1:]] == ["no image shows it", "every image shows it"]
    text = CliRunner().invoke(app, ["evaluate", str(root), "--model", str(run), "--metric", "auroc"]).stdout
    assert "undefined" in text and "every image shows it" in text.replace("\n", " ").replace("  ", " ")


def test_two_classes_of_a_single_logit_have_one_auroc(tmp_path):
    run, root = model(tmp_path, Outputs(TWO), 1), folders(tmp_path / "d", {"cat": 6, "dog": 6})
    both = ("--metric", "auroc", "--metric", "sensitivity")
    found = evaluated(root, "--model", run, *both, "--specificity", 0.5)
    auroc = {one["label"]: one["value"] for one in found["scores"] if one["metric"] == "auroc"}
    assert auroc["cat"] == auroc["dog"] == auroc[None]
    assert len(found["scores"]) == 6 and found["asked"] == {
        "metrics": ["auroc", "sensitivity"], "specificity": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_a_class_is_told_from_others_by_its_probability(kind):
    """By a softmax that is not the order of its logits: all of an image may be large."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 3, generator=generator) + 30 * torch.randn(50, 1, generator=generator)
    truth = torch.randint(3, (50,), generator=generator)
    found = discriminate(Outputs(THREE, kind), logits, truth, Asked(("auroc",)))
    exact = logits.double()
    for c, one in enumerate(found[1:]):
        odds = exact[:, c]
        if kind == "softmax":
            odds = odds - exact[:, [i for i in range(3) if i != c]].logsumexp(1)
        assert one.value == pytest.approx(by_hand(odds, truth == c), abs=1e-6)
    assert found[0].value == pytest.approx(sum(one.value or 0 for one in found[1:]) / 3)


def several(tmp_path: Path, rows: int = 12) -> tuple[Path, torch.Tensor]:
    rng = np.random.default_rng(5)
    truth = rng.random((rows, 2)) < 0.5
    with (tmp_path / "set.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient", "frog", "cat"])  # in an order of their own, and no dog
        for i, (frog, cat) in enumerate(truth.astype(int).tolist()):
            painted(i).save(tmp_path / f"{i}.png")
            writer.writerow([f"{i}.png", f"p{i // 3}", frog, cat])
    return tmp_path / "set.csv", torch.tensor(truth)


def test_several_labels_come_from_a_table(tmp_path):
    run = model(tmp_path, Outputs(THREE, multilabel=True), 3)
    table, truth = several(tmp_path)
    found = evaluated(
        table, "--model", run, "--metric", "auroc", "--metric", "accuracy", "--confidence", 0.9,
        "--resamples", 20, "--group", "patient",
    )  # fmt: skip
    assert found["groups"] == 4 and found["images"] == 12 and "top1" not in found
    scores = {(one["metric"], one["label"]): one for one in found["scores"]}
    assert scores["auroc", "dog"]["undefined"] == "no image shows it"
    classifier = bcos_zoo.load(run)
    with torch.no_grad():
        logits = classifier.logits(classifier.preprocess([tmp_path / f"{i}.png" for i in range(12)]))
    assert scores["auroc", "frog"]["value"] == pytest.approx(by_hand(logits[:, 2], truth[:, 0]), abs=1e-6)
    assert scores["auroc", "cat"]["value"] == pytest.approx(by_hand(logits[:, 0], truth[:, 1]), abs=1e-6)
    right = ((logits > 0) == torch.stack([truth[:, 1], torch.zeros(12).bool(), truth[:, 0]], 1)).all(1)
    exact = scores["exact", None]
    assert exact["value"] == pytest.approx(100 * float(right.double().mean()))  # per cent, as everywhere
    assert exact["low"] <= exact["value"] <= exact["high"] and exact["resamples"] == 20


def test_the_test_part_of_a_table_is_what_is_measured(tmp_path):
    run = model(tmp_path, Outputs(THREE), 3)
    with (tmp_path / "set.csv").open("w", newline="") as file:
        rows = [("cat", "train"), ("dog", "train"), ("cat", "val"), ("dog", "val"), ("dog", "test")]
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for i, row in enumerate(rows):
            painted(i).save(tmp_path / f"{i}.png")
            writer.writerow([f"{i}.png", *row])
    found = evaluated(tmp_path / "set.csv", "--model", run)
    assert (found["images"], found["part"], set(found["per_class"])) == (1, "test", {"dog"})


def test_groups_of_copies_widen_the_interval_back_to_that_of_the_images(tmp_path):
    run, root = model(tmp_path, Outputs(THREE), 3), tmp_path / "d"
    for name in THREE:
        (root / name).mkdir(parents=True)
        for i in range(4):
            for copy in range(4):
                painted(10 * THREE.index(name) + i).save(root / name / f"{name}{i}-{copy}.png")
    words = (root, "--model", run, "--metric", "accuracy", "--confidence", 0.9, "--resamples", 100)
    wide, narrow = (
        evaluated(*words, "--group", r"(\w+)-\d\.png")["scores"][0], evaluated(*words)["scores"][0]
    )  # fmt: skip
    assert wide["value"] == narrow["value"]
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"]) > 0
    assert evaluated(*words)["scores"][0] == narrow  # the same seed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--specificity", "0.9"],
            "--specificity belongs to the metric sensitivity; add --metric sensitivity",
        ),
        (["--group", "a"], "--group belongs to confidence intervals; add --confidence 0.95"),
        (
            ["--metric", "auroc", "--resamples", "9"],
            "--resamples belongs to confidence intervals; add --confidence 0.95",
        ),
        (["--metric", "auroc", "--confidence", "95"], "confidence=95.0: allowed are shares between 0 and 1"),
        (["--metric", "sensitivity", "--specificity", "95"], "specificity=95.0: allowed are shares"),
        (
            ["--metric", "localisation", "--confidence", "0.9"],
            "--confidence belongs to the metrics accuracy, auroc, sensitivity",
        ),
        (["--metric", "aurok"], "no metric named aurok"),
    ],
)
def test_what_would_change_nothing_or_means_nothing_is_refused(tmp_path, words, message):
    assert message in refused(tmp_path, *words)


def test_several_labels_for_a_network_of_one_are_refused(tmp_path):
    run, (table, _) = model(tmp_path, Outputs(THREE), 3), several(tmp_path)
    assert "several labels an image, but this network tells one" in refused(
        table, "--model", run, "--group", "patient"
    )


def test_classes_that_share_a_name_have_scores_of_their_own():
    """ImageNet has two called crane, a bird and a machine; here no image shows the second."""
    outputs = Outputs(("crane", "dog", "crane"))
    logits = torch.tensor([[2.0, 1.0, 0.0], [3.0, 1.0, 0.0], [0.0, 1.0, 0.0], [2.5, 4.0, 0.0]])
    truth = torch.tensor([0, 0, 1, 1])
    mean, *each = discriminate(outputs, logits, truth, Asked(("auroc",)))
    assert [(one.label, one.value, one.undefined) for one in each] == [
        ("crane (0)", 0.75, None),  # of the four pairs, 2.0 before 2.5 is in the wrong order
        ("dog", pytest.approx(0.75), None),  # 1, 4 against 1, 1: two ties
        ("crane (2)", None, "no image shows it"),
    ]
    assert mean.value == pytest.approx(0.75) and mean.undefined == "crane (2): no image shows it"


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_accuracy_is_the_same_with_and_without_intervals(tmp_path, confidence):
    """A network of several labels on class folders, each image of one: the class on top counts."""
    run = model(tmp_path, Outputs(THREE, multilabel=True), 3)
    root = folders(tmp_path / "d", dict.fromkeys(THREE, 3))
    words = [] if confidence is None else ["--confidence", confidence, "--resamples", 20]
    found = evaluated(root, "--model", run, "--metric", "accuracy", *words)
    classifier = bcos_zoo.load(run)
    paths = sorted(root.rglob("*.png"))
    logits = torch.cat([classifier.logits(classifier.preprocess(path)) for path in paths])
    right = [THREE[int(z.argmax())] == path.parent.name for z, path in zip(logits, paths, strict=True)]
    expected = 100 * sum(right) / len(right)
    assert found["top1"] == pytest.approx(expected)
    assert [(one["metric"], one["value"]) for one in found.get("scores", [])] == (
        [] if confidence is None else [("top1", pytest.approx(expected))]
    )


def test_accuracy_is_told_by_what_is_known_of_an_image():
    outputs, logits = Outputs(THREE, multilabel=True), torch.tensor([[3.0, 1.0, -1.0], [-2.0, 5.0, 1.0]])
    [one] = discriminate(outputs, logits, torch.tensor([0, 1]), Asked(("accuracy",)))
    assert (one.metric, one.value) == ("top1", accuracy_of(outputs, logits, torch.tensor([0, 1])).top1)
    several = torch.tensor([[1, 1, 0], [0, 1, 0]])  # the second has a class too many
    [one] = discriminate(outputs, logits, several, Asked(("accuracy",)))
    assert (one.metric, one.value) == ("exact", 50.0)


def test_answers_whose_probabilities_round_to_one_are_told_apart():
    """In float64 the sigmoids of 40 and 45 are both exactly 1."""
    logits, truth = torch.tensor([[40.0, 45.0, 0.0], [50.0, 45.0, 0.0]]), torch.tensor([1, 0])
    pool = Pool([Path("a"), Path("b")], truth, logits, Outputs(THREE))
    assert sorted(one.paths[0].name for one in pool.singles(2, seed=0)) == ["a", "b"]
    found = accuracy_of(Outputs(THREE), logits, truth)
    assert (found.top1, found.calibration_error) == (100.0, 0.0)  # certain, and right
