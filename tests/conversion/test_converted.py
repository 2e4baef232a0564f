"""Converted networks: the function unchanged at B = 1, and explanations that are complete at any B."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
from conftest import assert_close
from networks import SMALL, images, normalised, original
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo.conversion import Converted, reestimate
from bcos_zoo.conversion.layers import BcosForm

# Not marked slow: one of each kind of rule.
QUICK = {
    "test_resnet", "test_efficientnet", "convnextv2_atto", "test_vit", "vit_tiny_patch16_224/registers",
    "swin_tiny_patch4_window7_224", "test_nfnet", "eva02_tiny_patch14_224", "starnet_s1",
}  # fmt: skip
IN_FLOAT32 = {"efficientvit_b0", "deepseek_vit_412m"}  # their code casts to it; linear mode keeps float64
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SMALL]


@functools.lru_cache(maxsize=4)
def _converted(name: str, b: float) -> Converted:
    return bcos_zoo.bcosify(original(name), b=b)


def converted(name: str, b: float = 2.0) -> Converted:
    return copy.deepcopy(_converted(name, b))


@torch.no_grad()
def amplified(model: Converted, x: Tensor) -> Converted:
    """Weights such that every B-cos layer's response is of size 1: without norms, the image would vanish."""

    def rescale(layer: Any, _: Any, y: Tensor) -> Tensor:
        bias = 0 if layer.bias is None else layer.bias.view(-1, *[1] * (2 * isinstance(layer, nn.Conv2d)))
        size = (y - bias).std()
        (layer.gain if hasattr(layer, "gain") else layer.weight).div_(size)
        return (y - bias) / size + bias

    handles = [layer.register_forward_hook(rescale) for layer in model.bcos_layers().values()]
    model(x)
    for handle in handles:
        handle.remove()
    return model


@pytest.mark.parametrize("name", NAMES)
def test_at_b_1_the_function_is_the_originals(name: str) -> None:
    model, x = converted(name, b=1), images(name)
    with torch.no_grad():
        expected = original(name)(normalised(original(name), x))
        assert_close(model(x), expected, 1e-5 if name in IN_FLOAT32 else 1e-10)


@pytest.mark.parametrize("b", [1.0, pytest.param(1.5, marks=pytest.mark.slow), 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_contributions_and_constants_make_up_the_logit(name: str, b: float) -> None:
    """Weights and norm statistics fit, so that the image has a share in the logit worth explaining."""
    x = images(name)
    model = amplified(converted(name, b=b), images(name, 4, seed=1))
    reestimate(model, images(name, 4, seed=1))
    with torch.no_grad():
        logits = model(x)
    e = bcos_zoo.explain(model, x, [0, 3])
    assert_close(e.logits, logits, 1e-5 if name in IN_FLOAT32 else 1e-10)
    size = e.logits.abs().amax() + e.bias.abs().amax()
    assert e.completeness().abs().max() < 1e-9 * size
    explained = e.contributions.sum((-1, -2)).abs().max()
    assert explained > 1e-5 * size, "nothing of the image: completeness would be tested against nothing"
    encoded = torch.cat([x, 1 - x], 1).unsqueeze(1)
    assert_close((e.weights * encoded).sum((2, 3, 4)) + e.bias, e.logits[:, [0, 3]], 1e-9)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "swin_tiny_patch4_window7_224", "test_efficientnet"]
)
def test_an_image_is_explained_alike_alone_and_in_a_batch(name: str) -> None:
    model, x = converted(name), images(name, 3)
    whole = bcos_zoo.explain(model, x, 1)
    for i in range(3):
        alone = bcos_zoo.explain(model, x[i : i + 1], 1)
        assert_close(alone.weights[0], whole.weights[i], 1e-9)
        assert_close(alone.bias[0], whole.bias[i], 1e-9)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "starnet_s1"])
def test_an_explanation_with_a_graph_is_the_one_without(name: str) -> None:
    model, x = converted(name), images(name, 1)
    plain = bcos_zoo.explain(model, x, 2)
    graphed = bcos_zoo.explain(model, x, 2, create_graph=True)
    assert_close(graphed.weights.detach(), plain.weights, 1e-8)
    assert_close(graphed.bias.detach(), plain.bias, 1e-8)
    graphed.contributions.square().sum().backward()
    layers = [module for module in model.modules() if isinstance(module, BcosForm)]
    assert all(layer.weight.grad is not None and layer.weight.grad.isfinite().all() for layer in layers)


def test_the_gradient_of_an_explanation_is_its_finite_difference() -> None:
    """Of the weight of one layer: what trains with explanations moves them as the gradient says."""
    model, x = converted("test_efficientnet"), images("test_efficientnet", 1)

    def energy() -> Tensor:
        return bcos_zoo.explain(model, x, 2, create_graph=True).contributions[..., :32, :].square().sum()

    weight = next(p for p in model.parameters() if p.ndim == 4)
    (gradient,) = torch.autograd.grad(energy(), weight)
    direction = torch.randn_like(weight)
    step, values = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step * direction)
        values.append(float(energy().detach()))
        with torch.no_grad():
            weight.sub_(sign * step * direction)
    numeric = (values[0] - values[1]) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(numeric, rel=1e-4)


def test_units_heads_and_classifiers_take_converted_networks() -> None:
    model, x = converted("test_resnet").float(), images("test_resnet", 2).float()
    unit = bcos_zoo.explain_unit(model, x, "network.layer3.0.conv2", 7)
    assert_close(unit.contributions.sum((-1, -2)) + unit.bias, unit.logits, 1e-4)
    e = bcos_zoo.ExplanationHead(model)(x, 1)
    assert_close(e.contributions.sum((-1, -2)) + e.bias, e.logits[:, 1:2], 1e-4)
    wrapped = nn.Sequential(model, nn.Softplus())  # what follows the network is none of its business
    assert wrapped(x).shape == (2, 5)


def test_outside_linear_mode_timms_code_runs_as_it_stands() -> None:
    """Hooks are called, and at B = 1 the gradients of the parameters are the original's."""
    name = "test_efficientnet"
    plain, model, x = copy.deepcopy(original(name)), converted(name, b=1), images(name)
    seen: list[Any] = []
    model.network.blocks.register_forward_hook(lambda *given: seen.append(given))
    plain(normalised(plain, x)).square().sum().backward()
    model(x).square().sum().backward()
    assert len(seen) == 1
    theirs = dict(plain.named_parameters())
    for key, parameter in model.network.named_parameters():
        if key != plain.pretrained_cfg["first_conv"] + ".weight":  # whose gradient is in two halves
            assert_close(parameter.grad, theirs[key].grad, 1e-9)


def test_a_copy_a_pickle_and_a_state_dict_give_the_same() -> None:
    model, x = converted("test_vit"), images("test_vit")
    logits = model(x)
    again = converted("test_vit")
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    again.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), again):
        assert torch.equal(twin(x), logits)
        assert twin.conversion == model.conversion
        assert bcos_zoo.explain(twin, x, 0).completeness().abs().max() < 1e-9


def test_it_offers_what_timms_networks_offer() -> None:
    model, x = converted("test_resnet"), images("test_resnet")
    assert (model.num_classes, model.num_features, model.in_chans) == (5, 96, 3)
    features = model.forward_features(x)
    assert_close(model.forward_head(features), model(x), 1e-12)
    assert model.forward_head(features, pre_logits=True).shape == (2, 96)
    theirs = original("test_resnet").feature_info
    assert [level["num_chs"] for level in model.feature_info] == [level["num_chs"] for level in theirs]
    assert all(model.get_submodule(level["module"]) is not None for level in model.feature_info)
    assert len(model.forward_intermediates(x, intermediates_only=True)) == 5
    with bcos_zoo.linear_mode():
        assert_close(model.forward_head(model.forward_features(x)), model(x), 1e-10)
    card = model.pretrained_cfg
    assert card["mean"] == (0.0, 0.0, 0.0) and card["std"] == (1.0, 1.0, 1.0)
    assert card["first_conv"] == "network.conv1.0" and card["classifier"] == "network.fc"
    assert "url" not in card and "hf_hub_id" not in card
    from timm.models import group_parameters

    assert group_parameters(model, model.group_matcher())
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and isinstance(model.get_classifier(), BcosForm)
    assert bcos_zoo.explain(model, x, 6).completeness().abs().max() < 1e-9


def test_it_trains_with_checkpointing_and_is_explained_without() -> None:
    model, x = converted("test_resnet"), images("test_resnet")
    model.set_grad_checkpointing()
    model.train()(x).sum().backward()
    assert bcos_zoo.explain(model.eval(), x, 0).completeness().abs().max() < 1e-9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_compiles_as_the_original_does() -> None:
    model, x = converted("test_resnet").float(), images("test_resnet").float()
    with torch.no_grad():
        assert_close(torch.compile(model)(x), model(x), 1e-4)
