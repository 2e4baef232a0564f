"""What outputs mean: the same in every verb, whatever the loss, and for one logit of two classes."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import images, network
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import bcos_zoo
from bcos_zoo import Classifier, InputError, explain
from bcos_zoo.cli import app
from bcos_zoo.outputs import Outputs, of_two, shown
from bcos_zoo.pipeline import bundle
from bcos_zoo.training.network_folder import write_network
from bcos_zoo.weights import config_json, manifest

PICTURE = Image.merge(
    "RGB", [Image.radial_gradient("L"), Image.linear_gradient("L"), Image.new("L", (256,) * 2)]
)
THREE, TWO = ("cat", "dog", "frog"), ("cat", "dog")
SOFTMAX = Outputs(THREE, "softmax")
SMALL = {"layers": [1, 1, 1], "widths": (8, 8, 8)}


def small(classes: int) -> Any:
    return network("bcos_resnet20", num_classes=classes, layers=[1, 1, 1])


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    PICTURE.resize((40, 36)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def odds(z: float) -> float:
    """The sigmoid, by hand."""
    return 1 / (1 + math.exp(-z)) if z > 0 else math.exp(z) / (1 + math.exp(z))


def share(z: list[float], i: int) -> float:
    """The softmax, by hand."""
    return 1 / sum(math.exp(other - z[i]) for other in z)


@pytest.mark.parametrize("shift", [0.0, 50.0, -700.0])
def test_a_softmax_does_not_care_about_a_shift_and_a_sigmoid_is_each_class_by_itself(shift):
    z = [1.5 + shift, -0.25 + shift, 0.75 + shift]
    soft, each = (Outputs(THREE, kind).probabilities(torch.tensor(z)) for kind in ("softmax", "sigmoid"))
    assert soft.dtype == each.dtype == torch.float64
    exact = [float(value) for value in torch.tensor(z)]
    assert soft.tolist() == pytest.approx([share(exact, i) for i in range(3)], rel=1e-12)
    assert each.tolist() == pytest.approx([odds(value) for value in exact], rel=1e-12)


@pytest.mark.parametrize("z", [-30.0, -0.5, 0.0, 3.0, 20.0])
def test_of_a_single_logit_the_first_class_has_the_negative(z):
    outputs = Outputs(TWO)
    logit = torch.tensor([[z]])
    assert outputs.class_logits(logit).tolist() == [[-z, z]]
    assert outputs.class_logits(outputs.class_logits(logit)).tolist() == [[-z, z]]
    first, second = outputs.probabilities(logit)[0].tolist()
    assert (first, second) == pytest.approx((odds(-z), odds(z)), rel=1e-12)
    assert outputs.predicted(logit).tolist() == [int(z > 0)]


def test_a_single_logit_of_several_labels_is_one_class():
    assert not Outputs(TWO, multilabel=True).single(1)
    with pytest.raises(InputError, match="2 class names for 1 classes; give one for each"):
        Outputs(TWO, multilabel=True).check_width(1)
    labels = Outputs(THREE, multilabel=True).predicted(torch.tensor([[0.1, -0.1, 3.0]]))
    assert labels.tolist() == [[True, False, True]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "tanh"}, "outputs of kind 'tanh'; allowed are sigmoid, softmax"),
        ({"kind": "softmax", "multilabel": True}, "a softmax with several labels"),
    ],
)
def test_what_no_network_gives_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        Outputs(THREE, **given)


@pytest.mark.parametrize("z", [2.0, -0.5])
def test_a_single_logit_has_a_sigmoid_and_no_softmax(z):
    """A softmax over [-z, z] would be the sigmoid of 2 z."""
    assert Outputs(TWO).probabilities(torch.tensor([[z]]))[0, 1].item() == pytest.approx(odds(z))
    soft, logit, advice = Outputs(TWO, "softmax"), torch.tensor([[z]]), "of a single logit; .* kind='sigmoid'"
    for call in (soft.probabilities, soft.log_odds, soft.class_logits, soft.predicted):
        with pytest.raises(InputError, match=advice):
            call(logit)
    with pytest.raises(InputError, match=advice):
        Classifier(small(1), soft)
    assert soft.probabilities(torch.tensor([-z, z]))[1].item() == pytest.approx(share([-z, z], 1))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat", "class names are cat; allowed is a list of names"),
        ({"cat", "dog", "frog"}, "class names are {.*; allowed is a list of names"),
        ([0, 1, 2], r"class names hold 0, of type int; allowed are texts: \[str\(name\)"),
        (("cat", None, "frog"), "class names hold None, of type NoneType; allowed are texts"),
        (["cat", b"dog", "frog"], "class names hold b'dog', of type bytes; allowed are texts"),
    ],
)
def test_class_names_are_texts_at_every_door(names, message):
    """Numbers would be written to files that cannot be read again, and "cat" would be three classes."""
    model: Any = small(3)
    doors: list[Any] = [
        Outputs,
        Outputs.of,
        lambda names: Classifier(model, names),
        lambda names: explain(model, images(1), class_names=names),
        lambda names: bcos_zoo.ExplanationHead(model, class_names=names),
    ]
    for door in doors:
        with pytest.raises(InputError, match=message):
            door(names)


def test_class_names_stay_as_they_were_given():
    names = ["cat", "dog"]
    outputs = Outputs(names)  # type: ignore[arg-type]  # as people write it
    names.append("frog")
    assert outputs.class_names == TWO and outputs == Outputs(TWO) and hash(outputs) == hash(Outputs(TWO))


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0.9998, "0.9998"), (0.99996, ">0.9999"), (1.0, ">0.9999"), (0.9994, "0.999"), (0.962, "0.962"),
        (0.5, "0.500"), (0.0321, "0.0321"), (0.000345, "0.000345"), (3e-5, "<0.0001"), (0.0, "<0.0001"),
    ],
)  # fmt: skip
def test_a_probability_is_told_in_digits_that_mean_something(probability, text):
    assert shown(probability) == text


def test_predictions_of_a_softmax_are_its(picture):
    model = small(3)
    classifier = Classifier(model, SOFTMAX)
    z = model(classifier.preprocess(picture))[0].tolist()
    found = classifier.predict(picture)
    wanted = sorted((share(z, i) for i in range(3)), reverse=True)
    assert [p.probability for p in found] == pytest.approx(wanted, rel=1e-4)
    assert sum(p.probability for p in found) == pytest.approx(1)


def test_the_conventional_twins_were_trained_by_cross_entropy_and_all_others_were_not():
    """docs of the official package: `vit_final` of the standard networks alone has it."""
    for name, record in manifest.load().items():
        assert (record.outputs == "softmax") == name.startswith("bcos_std_"), name


def test_the_loss_says_what_a_network_learns_to_give():
    from bcos_zoo.training import networks, recipe

    def learnt(kind: str, logits: int, **task: Any) -> Outputs:
        tables = {"model": {"name": "bcos_resnet20"}, "loss": {"kind": kind}, "run": {"epochs": 1}}
        given: Any = SimpleNamespace(**{"class_names": THREE, "multilabel": False} | task)
        return networks.of_task(recipe.parse(tables, where="test"), given, logits)

    assert learnt("bce", 3) == Outputs(THREE)
    assert learnt("ce", 3) == SOFTMAX
    assert learnt("bce", 3, multilabel=True) == Outputs(THREE, multilabel=True)
    assert (
        learnt("ce", 1, class_names=TWO) == learnt("bce", 1, class_names=TWO) == Outputs(TWO)
    )  # see `LabelLoss`


def test_our_own_recipes_are_of_binary_cross_entropy_as_their_records_are_taken_for():
    from bcos_zoo.training import recipe

    root = Path(bcos_zoo.__file__).parent.parent
    for record in manifest.load().values():
        if isinstance(record.recipe, str):
            assert recipe.read(root / record.recipe).loss.kind == "bce"


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_the_log_odds_are_those_of_the_probabilities_without_rounding(shift):
    z = torch.tensor([[2.0, -1.0, 0.5], [90.0, 0.0, 1.0], [-3.0, -3.0, -3.0]], dtype=torch.float64) + shift
    for row, odds in zip(z.tolist(), SOFTMAX.log_odds(z).tolist(), strict=True):
        others = [[b - a for j, b in enumerate(row) if j != i] for i, a in enumerate(row)]
        wanted = [-math.log(sum(map(math.exp, some))) for some in others]
        assert odds == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    assert torch.equal(Outputs(THREE).log_odds(z), z)


def twice(model: nn.Module) -> nn.Module:
    """Another way to the two logits: a network around the one with a single logit, which negates by hand."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = copy.deepcopy(model)

        def forward(self, x: Tensor) -> Tensor:
            z = self.inside(x)
            return torch.stack([z[:, 0] * -1.0, z[:, 0]], 1)

    return Two().eval()


def test_both_classes_of_a_single_logit_are_explained_completely(picture):
    model = small(1)
    classifier = Classifier(model, TWO)
    x = classifier.preprocess(picture)
    found, by_hand = classifier.explain(picture, ["cat", "dog"]), explain(twice(model), x, [0, 1])
    assert found.labels == (("cat", "dog"),)
    for name in ("logits", "weights", "contributions", "bias"):
        torch.testing.assert_close(getattr(found, name), getattr(by_hand, name), rtol=1e-5, atol=1e-6)
    assert torch.equal(found.contributions[:, 0], -found.contributions[:, 1])
    assert found.completeness().abs().max() < 1e-4
    best = classifier.predict(picture)[0]
    assert classifier.explain(picture).labels == ((best.label,),)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_a_probability_is_explained_as_the_network_makes_it(picture, kind):
    classifier = Classifier(small(3), Outputs(THREE, kind))
    x = classifier.preprocess(picture)
    z = classifier.model(x)[0].tolist()
    e = classifier.head(x, [0, 1, 2], output="probability")
    by_hand = [odds(z[i]) if kind == "sigmoid" else share(z, i) for i in range(3)]
    assert e.logits[0].tolist() == pytest.approx(by_hand, abs=1e-6)
    assert e.completeness().abs().max() < 1e-5
    if kind == "softmax":  # the map: held factor times that of the logit less the mean of the others
        logit = explain(classifier.model, x, [0, 1, 2])
        others = torch.tensor(z[1:]).double().softmax(0)
        log_odds = z[0] - math.log(sum(math.exp(value) for value in z[1:]))
        mean = others[0] * logit.contributions[0, 1] + others[1] * logit.contributions[0, 2]
        wanted = (by_hand[0] - 0.5) / log_odds * (logit.contributions[0, 0] - mean)
        torch.testing.assert_close(e.contributions[0, 0], wanted.float(), rtol=1e-3, atol=1e-6)
    other = "softmax" if kind == "sigmoid" else "sigmoid"
    with pytest.raises(InputError, match=f"probabilities of this network are its {kind}; take 'probability'"):
        classifier.head(x, 0, output=other)


def test_a_probability_of_who_knows_what_is_refused():
    with pytest.raises(InputError, match="does not say what its logits become: take 'sigmoid'"):
        explain(small(3), images(1), 0, output="probability")
    with pytest.raises(InputError, match="softmax is always 1"):
        explain(small(1), images(1), 0, output="softmax")


@pytest.mark.parametrize(
    ("outputs", "logits", "labels", "problem"),
    [
        (SOFTMAX, 3, list(THREE), "single_label_classification"),
        (Outputs(THREE), 3, list(THREE), "multi_label_classification"),
        (Outputs(THREE, multilabel=True), 3, list(THREE), "multi_label_classification"),
        (Outputs(TWO), 1, ["dog"], "multi_label_classification"),
    ],
)
def test_a_folder_says_what_its_outputs_mean(tmp_path, picture, outputs, logits, labels, problem):
    before = Classifier(small(logits), outputs)
    run = write_network(before.model, outputs, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    assert (config["label_names"], config["problem_type"]) == (labels, problem)
    after = bcos_zoo.load(run)
    assert after.outputs == outputs and after.predict(picture) == before.predict(picture)
    card = (run / "README.md").read_text()
    assert ("softmax" in card) == (outputs.kind == "softmax")
    assert ("1 less that of cat" in card) == (logits == 1)


def test_a_damaged_word_on_outputs_is_refused(tmp_path):
    run = write_network(small(3), THREE, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    for said in (
        {"kind": "tanh"},
        {"kind": "softmax", "multilabel": True},
        {"kind": "sigmoid", "class_names": "ab"},
    ):
        config["bcos_zoo"]["outputs"] = said
        (run / "config.json").write_text(json.dumps(config))
        with pytest.raises(bcos_zoo.WeightsError, match="has outputs="):
            config_json.read(f"local-dir:{run}")
    config["bcos_zoo"]["outputs"] = "classes"  # of versions before: sigmoids
    (run / "config.json").write_text(json.dumps(config))
    assert bcos_zoo.load(run).outputs == Outputs(THREE)


def run(*words: object) -> str:
    """What the command prints."""
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return write_network(small(1), TWO, tmp_path / "single")


def test_the_verbs_know_both_classes_of_a_single_logit(tmp_path, picture, single):
    classifier = bcos_zoo.load(single)
    z = float(classifier.model(classifier.preprocess(picture)).detach())
    said = json.loads(run("predict", picture, "--model", single, "--json"))
    assert said["outputs"] == "sigmoid"
    found = {p["label"]: p["probability"] for p in said["images"][0]["predictions"]}
    assert found == pytest.approx({"cat": odds(-z), "dog": odds(z)}, rel=1e-3)
    for name, sign in (("cat", -1), ("dog", 1)):
        said = run("explain", picture, "--model", single, "--target", name, "-o", tmp_path, "--json")
        answer = json.loads(said)["images"][0]
        assert answer["targets"] == [name] and answer["values"] == pytest.approx([sign * z], rel=1e-5)
        assert answer["completeness_gap"] < 1e-4
    e = classifier.explain(picture, "cat")
    file = bundle.write(tmp_path / "a.zip", classifier, picture, e, model=f"local-dir:{single}")
    checks = bundle.verify(file, picture, model=str(single))
    assert all(check.holds for check in checks), checks


def test_predict_says_what_stands_beside_each_other(picture, tmp_path):
    for kind in ("sigmoid", "softmax"):
        model = write_network(small(3), Outputs(THREE, kind), tmp_path / kind)
        assert run("predict", picture, "--model", model).rstrip().endswith(f"({kind})")
        assert f"({kind}) ->" in run("explain", picture, "--model", model, "-o", tmp_path)
    run("explain", picture, "--model", model, "--format", "html", "-o", tmp_path)
    assert "probabilities (softmax)" in (tmp_path / "report.html").read_text()


def test_two_logits_are_one_logit_twice():
    assert of_two(torch.tensor([[2.0], [-1.0]])).tolist() == [[-2.0, 2.0], [1.0, -1.0]]
