"""A converted network made again: by its arguments, from a folder, by timm, without a trial."""

from __future__ import annotations

import copy
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import assert_close
from networks import SMALL, images, original
from test_converted import NAMES

import bcos_zoo
from bcos_zoo.conversion import Converted
from bcos_zoo.conversion.layers import BcosForm
from bcos_zoo.errors import InputError

LABELS = ["a", "b", "c", "d", "e"]
ALL_DROPPED: dict[str, Any] = dict(b=1.5, biases="dropped", centring="dropped", max_pool="average")


def converted(name: str, **options: Any) -> Converted:
    return bcos_zoo.bcosify(copy.deepcopy(original(name)).float(), **options)


@pytest.fixture(scope="module")
def plain() -> Converted:
    return converted("test_resnet")


@pytest.mark.parametrize("name", NAMES)
def test_its_arguments_and_weights_make_the_same_network(name: str) -> None:
    model, x = converted(name), images(name).float()
    again = timm.create_model("bcos_converted", **json.loads(json.dumps(model.build_arguments))).eval()
    again.load_state_dict(model.state_dict())
    assert isinstance(again, Converted) and again.biases == model.biases
    assert again.conversion == json.loads(json.dumps(model.conversion))
    assert {name: type(m) for name, m in again.named_modules()} == {
        name: type(m) for name, m in model.named_modules()
    }
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    one, other = (bcos_zoo.explain(network, x[:1], 1) for network in (again, model))
    torch.testing.assert_close(one.weights, other.weights, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, dict(centring="fading"), ALL_DROPPED, dict(b=3, rows="unit")])
def test_a_folder_of_it_is_a_network_like_any_other(tmp_path: Path, options: dict[str, Any]) -> None:
    model, x = converted("test_resnet", **options), images("test_resnet").float()
    folder = bcos_zoo.export(bcos_zoo.Classifier(model, LABELS), tmp_path / "out")
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    clf = bcos_zoo.load(folder)
    assert list(clf.class_names) == LABELS
    with torch.no_grad():
        for found in (again, clf.model):
            torch.testing.assert_close(found(x), model(x), rtol=0, atol=0)
    assert clf.explain(str(Path(bcos_zoo.__file__).parent / "samples" / "chelsea.jpg")).weights.shape[2] == 6


def test_it_keeps_the_size_and_the_channels_that_its_original_was_built_with(tmp_path: Path) -> None:
    source = timm.create_model("test_vit", img_size=96, num_classes=5, in_chans=1)
    model = bcos_zoo.bcosify(source.eval())
    folder = bcos_zoo.export(bcos_zoo.Classifier(model, LABELS), tmp_path / "out")
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.rand(2, 1, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, ALL_DROPPED])
def test_another_number_of_classes_or_channels_may_be_asked_for(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    model, x = converted("test_resnet", **options), images("test_resnet").float()
    folder = bcos_zoo.export(bcos_zoo.Classifier(model, LABELS), tmp_path / "out")
    features = model.forward_features(x).detach()
    for classes in (3, 0):
        again = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=classes).eval()
        with torch.no_grad():
            assert again(x).shape == (2, classes or model.num_features)
            torch.testing.assert_close(again.forward_features(x), features, rtol=0, atol=0)
        assert again.biases == {key for key in model.biases if classes or ".fc." not in key}
        again.reset_classifier(4)
        assert again.biases == model.biases and again.plan == model.plan
        assert isinstance(again.get_classifier(), BcosForm)
    grey = timm.create_model(f"local-dir:{folder}", pretrained=True, in_chans=1).eval()
    weight, own = (next(m.parameters()) for m in (grey, model))
    assert_close(weight, torch.cat([half.sum(1, keepdim=True) for half in own.chunk(2, 1)], 1), 1e-6)


RESET: list[tuple[str, dict[str, Any]]] = [
    ("test_resnet", {}),
    ("test_resnet", ALL_DROPPED),
    ("levit_128s", {}),  # of two classifiers
    ("levit_128s", dict(centring="fading")),
    ("levit_128s", dict(b=1.5, biases="dropped", centring="dropped")),
    ("convnextv2_atto", dict(biases="dropped")),
]


@pytest.mark.parametrize("without_classes", [False, True], ids=["again", "by way of none"])
@pytest.mark.parametrize(("name", "options"), RESET, ids=str)
def test_a_fresh_classifier_is_of_the_kind_of_the_one_before(
    tmp_path: Path, name: str, options: dict[str, Any], without_classes: bool
) -> None:
    """Also once exported. Oracle: the forms that a conversion by rule gave."""
    model, x = converted(name, **options), images(name).float()
    forms = {key: type(module) for key, module in model.named_modules()}
    biases, plan = model.biases, model.plan
    if without_classes:
        model.reset_classifier(0)
        with torch.no_grad():
            assert model(x).shape == (2, model.num_features)
        assert not {key for key in model.biases if key not in dict(model.named_parameters())}
    model.reset_classifier(3)
    assert {key: type(module) for key, module in model.named_modules()} == forms
    assert model.biases == biases and model.plan == plan
    folder = bcos_zoo.export(bcos_zoo.Classifier(model, LABELS[:3]), tmp_path / "out")
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert again.biases == model.biases and again.conversion == json.loads(json.dumps(model.conversion))
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    e = bcos_zoo.explain(again, x, 1)
    assert e.completeness().abs().max() < 1e-4 * (e.logits.abs().max() + e.bias.abs().max())


def test_a_classifier_for_features_alone_is_converted_and_exported(tmp_path: Path) -> None:
    model = bcos_zoo.bcosify(timm.create_model("test_resnet", num_classes=0).eval())
    model.reset_classifier(3)
    assert "network.fc.bias" in model.biases and isinstance(model.get_classifier(), BcosForm)
    folder = bcos_zoo.export(bcos_zoo.Classifier(model, LABELS[:3]), tmp_path / "out")
    again = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert again.biases == model.biases and again.conversion == json.loads(json.dumps(model.conversion))


def test_the_exponent_that_is_exported_is_that_of_the_layers(tmp_path: Path) -> None:
    model, x = converted("test_resnet", b=Fraction(3, 2)), images("test_resnet").float()
    assert json.loads(json.dumps(model.conversion))["b"] == 1.5
    for layer in model.bcos_layers().values():
        layer.b = np.float32(1.25)
    folder = bcos_zoo.export(bcos_zoo.Classifier(model, LABELS), tmp_path / "out")
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert {layer.b for layer in again.bcos_layers().values()} == {1.25}
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    next(iter(model.bcos_layers().values())).b = 3
    with pytest.raises(InputError, match="b from 1.25 to 3, and a config.json holds one") as caught:
        bcos_zoo.export(bcos_zoo.Classifier(model, LABELS), tmp_path / "other")
    assert "\n" not in str(caught.value)


# As a published config.json has it. Frozen: it must load whatever fields a plan gets later.
PUBLISHED: dict[str, Any] = {
    "original": "test_resnet",
    "num_classes": 5,
    "conversion": {
        "from": "test_resnet.r160_in1k", "b": 1.5,
        "plan": {
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "b": 1.5, "rows": "unit",
            "bcos": ["conv1.0", "fc"], "unbiased": ["bn1.bias"],
        },
    },
}  # fmt: skip


def test_a_published_plan_loads() -> None:
    model = timm.create_model("bcos_converted", **copy.deepcopy(PUBLISHED))
    assert list(model.bcos_layers()) == ["network.conv1.0", "network.fc"]
    assert {(layer.b, layer.rows) for layer in model.bcos_layers().values()} == {(1.5, "unit")}
    assert model.network.bn1.bias is None and model.folded


def test_by_name_it_is_converted_by_rule_with_its_own_options(tmp_path: Path) -> None:
    made = timm.create_model("bcos_converted", original="test_resnet", b=1.25, num_classes=3)
    assert made.conversion["from"].startswith("test_resnet") and made.num_classes == 3
    assert {layer.b for layer in made.bcos_layers().values()} == {1.25}
    folder = bcos_zoo.export(bcos_zoo.Classifier(made.eval(), LABELS[:3]), tmp_path / "out")
    x = images("test_resnet").float()
    with torch.no_grad():
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        torch.testing.assert_close(again(x), made(x), rtol=0, atol=0)
    levels = timm.create_model("bcos_converted", original="test_resnet", features_only=True)
    assert [len(y[0]) for y in levels(torch.rand(1, 3, 64, 64))] == levels.feature_info.channels()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(conversion={}), "give the `conversion`"),
        (dict(conversion="none"), "give the `conversion`"),
        (dict(conversion={"plan": 3}), "is none"),
        (dict(conversion={"plan": {"b": 2}}), "lacks mean, rows, std"),
        (dict(plan=dict(more=1)), "adds more"),
        (dict(b=3.0), "b=3.0 beside a conversion with b=2.0"),
        (dict(original="test_vit"), "has no layer"),
        (dict(plan=dict(b=0.5)), "plan.b=0.5 does not fit"),
        (dict(plan=dict(b=True)), "plan.b=True does not fit"),
        (dict(plan=dict(rows="long")), "plan.rows='long' does not fit"),
        (dict(plan=dict(bcos=[3])), "plan.bcos=.* does not fit"),
        (dict(plan=dict(bcos=["bn1"])), "'bn1' cannot be a B-cos layer"),
        (dict(plan=dict(uncentred=["conv1"])), "'conv1' cannot be uncentred"),
        (dict(plan=dict(unbiased=["conv1.bias"])), "which the plan takes away"),
        (dict(plan=dict(mean=["x"])), "plan.mean=.* does not fit"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_damaged_conversion_is_refused_in_one_line(plain: Converted, change: Any, said: str) -> None:
    arguments = json.loads(json.dumps(plain.build_arguments))
    arguments["conversion"]["plan"] |= change.pop("plan", {})
    with pytest.raises(InputError, match=said) as caught:
        timm.create_model("bcos_converted", **(arguments | change))
    assert "\n" not in str(caught.value)


def test_what_was_not_made_by_name_cannot_be_exported(tmp_path: Path) -> None:
    source = copy.deepcopy(original("test_resnet")).float()
    del source.pretrained_cfg
    with pytest.raises(InputError, match="not made by timm"):
        bcos_zoo.export(bcos_zoo.Classifier(bcos_zoo.bcosify(source), LABELS), tmp_path / "out")


def test_every_small_network_is_here() -> None:
    assert len(NAMES) == len(SMALL)


def test_a_network_whose_norms_have_half_faded_is_complete() -> None:
    model, x = bcos_zoo.bcosify(original("test_resnet"), centring="fading"), images("test_resnet")
    for norm in model.modules():
        if hasattr(norm, "share"):
            norm.share.fill_(0.4)
    e = bcos_zoo.explain(model, x, [0, 3])
    assert e.completeness().abs().max() < 1e-9 * (e.logits.abs().amax() + e.bias.abs().amax())
    for training in (False, True):
        model.train(training)
        with torch.no_grad():
            logits = model(x)
            with bcos_zoo.linear_mode():
                assert_close(model(x), logits, 1e-10)


@pytest.mark.parametrize(
    ("original", "said"),
    [("nope", "timm has no network named 'nope'; closest: "), (3, "original=3: allowed are the names")],
)
def test_an_original_that_timm_does_not_have_is_refused(original: Any, said: str) -> None:
    with pytest.raises(bcos_zoo.BcosZooError, match=said):
        timm.create_model("bcos_converted", original=original)


def test_an_older_name_of_timms_is_one() -> None:
    """timm builds these, though it does not list them."""
    with pytest.warns(UserWarning, match="deprecated model name"):
        model = timm.create_model("bcos_converted", original="gluon_resnet18_v1b", num_classes=2)
    assert model.num_classes == 2
