"""A pytest plugin, loaded beside timm's own tests: it points them at one network of ours."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from conftest import random_state
from timm.models import generate_default_cfgs, register_model

from bcos_zoo import weights
from bcos_zoo.conversion import Converted, bcos_converted
from bcos_zoo.conversion.trial import randomised
from bcos_zoo.layers import LogitLayer
from bcos_zoo.weights import state_dicts

CONVERTED = "bcos_converted_"  # ahead of the name of the original: registered here alone, for these tests
VITS = "bcos_*vit*"  # their features are tokens: "non-standard" to timm

# Tests of a few networks by name whose property is meant for all; what follows `model_name` for ours.
EXTENDED: dict[str, tuple[Any, ...]] = {
    "test_reset_classifier_keeps_pool": (),
    "test_prune_intermediate_layers_params_used": (),
    "test_prune_intermediate_layers_last_feature": (True,),
    "test_forward_after_prune_intermediate_layers": (),
    "test_prune_to_stem_feature": (),
}


class Exclusion(NamedTuple):
    """Tests that must fail on some networks, by patterns of both names, and why this is no fault of ours."""

    test: str
    network: str
    reason: str


EXCLUDED = (
    Exclusion(
        "*torchscript",
        "*",
        "linear mode is a context variable, which TorchScript cannot compile; torch deprecates TorchScript",
    ),
    Exclusion(
        "test_model_forward_features",
        "bcos_inception_v3",
        "maps shrink without padding, and the test spares such networks its lower bound by timm's names only",
    ),
    Exclusion("test_reset_classifier_keeps_pool", "bcos_inception_v3", "64 pixels vanish without padding"),
    Exclusion("test_prune_to_stem_feature", "bcos_inception_v3", "64 pixels vanish without padding"),
    Exclusion("test_reset_classifier_keeps_pool", "bcos_resnet50_clip", "it pools by attention alone"),
    Exclusion("test_reset_classifier_keeps_pool", VITS, "tokens are averaged, never their maximum taken"),
    Exclusion(
        "test_prune_intermediate_layers_last_feature", "bcos_resnet50_clip", "it pools by attention alone"
    ),
    Exclusion("test_prune_intermediate_layers_last_feature", VITS, "it averages maps, and tokens are none"),
    Exclusion("test_prune_to_stem_feature", VITS, "it wants features to be maps, and these are tokens"),
    Exclusion(
        "test_prune_intermediate_layers_last_feature",
        CONVERTED + "test_vit",
        "it averages maps, and tokens are none",
    ),
    Exclusion(
        "test_prune_to_stem_feature",
        CONVERTED + "test_vit",
        "it wants features to be maps, and these are tokens",
    ),
)


def _register(name: str) -> None:
    """Register an original of timm's, converted by rule, under a name that timm's tests can take."""
    original = name.removeprefix(CONVERTED)

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> Any:
        return bcos_converted.bcos_converted(pretrained, **({"original": original} | kwargs))

    entrypoint.__name__, entrypoint.__module__ = name, bcos_converted.__name__
    card = {key: value for key, value in timm.get_pretrained_cfg(original).to_dict().items() if key != "url"}
    bcos_converted.default_cfgs |= generate_default_cfgs(
        {name: card | {"hf_hub_id": None, "mean": (0.0,) * 3, "std": (1.0,) * 3}}
    )
    register_model(entrypoint)


def pytest_configure(config: pytest.Config) -> None:
    if (name := config.getoption("--network")).startswith(CONVERTED):
        _register(name)


def know_ours(non_standard: list[str], with_intermediates: list[str]) -> None:
    """Add ours to timm's lists of names; a line put into its tests calls this before the lists are used."""
    non_standard.append(VITS)
    with_intermediates += [module for module in timm.list_modules() if module.startswith("bcos_")]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--network", required=True, help="the architecture to test")


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Leave only the wanted network of each list of names, so that thousands of others are not collected."""
    name, further = metafunc.config.getoption("--network"), EXTENDED.get(metafunc.definition.name)
    for mark in metafunc.definition.iter_markers("parametrize"):
        if mark.args[0].replace(" ", "").split(",")[0] == "model_name":
            cases = mark.args[1]
            if further is None:
                cases[:] = [case for case in cases if isinstance(case, str) and _architecture(case) == name]
            else:
                cases[:] = [(name, *further) if further else name]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    name = config.getoption("--network")
    items[:] = [item for item in items if _architecture(_parameters(item).get("model_name", "")) == name]
    for item in items:
        for test, network, reason in EXCLUDED:
            if fnmatchcase(item.originalname, test) and _concerns(network, name):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def _concerns(pattern: str, name: str) -> bool:
    """Whether an exclusion is of that network; of a converted one only if its pattern says so, or is *."""
    meant = not name.startswith(CONVERTED) or pattern == "*" or pattern.startswith(CONVERTED)
    return meant and fnmatchcase(name, pattern)


@pytest.fixture(autouse=True)
def _ours(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What timm's tests cannot know of our networks."""
    original = request.module.create_model

    def create_model(*args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        on_meta = next(model.parameters()).is_meta  # where only shapes are asked for
        if getattr(model, "num_classes", 0) and not kwargs.get("pretrained") and not on_meta:
            _as_if_trained(model)
        return model

    def fetch(checkpoint: str, cache_dir: object = None) -> Path:
        path = tmp_path / "published.safetensors"
        state_dicts.save(timm.create_model(checkpoint).state_dict(), path)
        return path

    monkeypatch.setattr(request.module, "create_model", create_model)
    monkeypatch.setattr(weights, "fetch", fetch)  # hundreds of megabytes, and not what is tested


@torch.no_grad()
def _as_if_trained(model: Any) -> None:
    """Random weights with which noise, timm's images, makes logits that differ by about one.

    As the network comes from the constructor, its logits are next to constant, and any two would be equal.
    """
    training = model.training
    if isinstance(model, Converted):
        randomised(model)
        return
    random_state(model, mean=0.1)
    noise = torch.randn(4, *(min(side, 128) for side in model.default_cfg["input_size"]))
    norms = [module for module in model.modules() if hasattr(module, "running_var")]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(noise)
    for norm in norms:
        norm.momentum = 0.1
    if isinstance(model.logits, LogitLayer):
        model.logits.temperature = (model.logits.temperature or 1) * float(model.eval()(noise).std())
    model.train(training)


def _parameters(item: pytest.Function) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}


def _architecture(name: object) -> str:
    return str(name).partition(".")[0]
