"""Every registered network: built, described and explained exactly."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import timm
import torch
from conftest import (
    EXPLAINED,
    NAMES,
    assert_close,
    by_size,
    gap,
    images,
    network,
)
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

import bcos_zoo


@pytest.fixture(scope="module", params=by_size(NAMES))
def model(request: pytest.FixtureRequest) -> Any:
    return network(request.param)


@pytest.fixture
def explained(model: Any) -> Any:
    if model.pretrained_cfg["architecture"] not in EXPLAINED:
        pytest.skip("a conventional twin: it has no exact explanation")
    return model


def test_every_network_explains_exactly_in_float64(explained):
    x = images(1, 65, 63, like=explained)
    explanation = bcos_zoo.explain(explained, x, dtype=torch.float64)
    assert explanation.weights.dtype == torch.float64
    assert gap(explanation) < 1e-9


def test_every_network_explains_exactly_in_float32(explained):
    """As far as float32 can add: terms of this size round so, even where their sum is near zero."""
    explanation = bcos_zoo.explain(explained, images(2, 32, 48, like=explained))
    assert explanation.weights.dtype == torch.float32
    terms = explanation.contributions.abs().sum(dim=(-2, -1)) + explanation.bias.abs()
    assert (explanation.completeness().abs() < 2e-5 * terms).all()
    assert (explanation.contributions.abs().sum(dim=(-2, -1)) > 0.1).all()  # bias alone would be exact, too


def test_logits_are_the_same_in_and_out_of_linear_mode(explained):
    """In float64, for deep networks with such weights amplify rounding errors."""
    x = images(1, like=explained).double()
    with torch.inference_mode():
        logits = copy.deepcopy(explained).double()(x)
    assert_close(bcos_zoo.explain(explained, x, dtype=torch.float64).logits, logits, 1e-9)


def test_an_image_is_seen_the_same_alone_and_in_a_batch(model):
    model = copy.deepcopy(model).double()
    x = images(3, like=model).double()
    with torch.inference_mode():
        alone = torch.cat([model(x[i : i + 1]) for i in range(3)])
        assert_close(model(x), alone, 1e-9)
    if model.pretrained_cfg["architecture"] in EXPLAINED:
        whole, single = bcos_zoo.explain(model, x, 0), bcos_zoo.explain(model, x[1:2], 0)
        assert_close(whole.weights[1:2], single.weights, 1e-9)
        assert_close(whole.bias[1:2], single.bias, 1e-9)


def test_threads_explain_and_predict_at_the_same_time(explained):
    model, x = copy.deepcopy(explained).double(), images(1, like=explained).double()
    logits, expected = model(x).detach(), bcos_zoo.explain(model, x).weights

    def work(index: int) -> None:
        if index % 2:
            assert_close(bcos_zoo.explain(model, x).weights, expected, 1e-9)
        else:
            with torch.no_grad():
                assert_close(model(x), logits, 1e-9)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # torch's, at the switch of oneDNN
def test_bfloat16_stays_finite_and_keeps_its_dtype(model):
    model = copy.deepcopy(model).bfloat16()
    x = images(1, like=model).bfloat16()
    # Without oneDNN, whose bfloat16 convolutions (torch 2.14, AMX) give anything over maps of two pixels.
    with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=False):
        logits = model(x)
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
    if model.pretrained_cfg["architecture"] in EXPLAINED:  # in float32, for half precision can underflow
        assert bcos_zoo.explain(model, x).weights.dtype == torch.float32


def test_a_whole_network_can_be_saved_and_copied(model):
    x = images(1, like=model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for again in (torch.load(buffer, weights_only=False), copy.deepcopy(model)):
        with torch.inference_mode():
            torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


def test_a_state_dict_makes_the_same_network(model):
    x = images(1, like=model)
    state = copy.deepcopy(model.state_dict())
    again = timm.create_model(model.pretrained_cfg["architecture"], device="meta").eval()
    again.load_state_dict(state, assign=True)
    if hasattr(model, "logits"):  # it has no state, but may have been given a temperature
        again.logits = model.logits
    with torch.inference_mode():
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


def test_a_gradient_reaches_every_parameter(model):
    model = copy.deepcopy(model).train()
    model(images(3, like=model)).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@pytest.mark.parametrize("name", NAMES)
def test_every_network_is_built_without_memory_and_says_its_shapes(name):
    model = timm.create_model(name, device="meta", dtype=torch.bfloat16).eval()
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    assert {(t.device.type, t.dtype) for t in tensors} == {("meta", torch.bfloat16)}
    card = model.pretrained_cfg
    x = torch.empty(1, *card["input_size"], device="meta", dtype=torch.bfloat16)
    features = model.forward_features(x)
    if card["pool_size"] is None:  # tokens
        assert features.shape[::2] == (1, model.num_features)
    else:
        assert features.shape == (1, model.num_features, *card["pool_size"])
    assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    logits = model(x)
    assert logits.shape == (1, model.num_classes) == (1, card["num_classes"])
    assert logits.dtype == torch.bfloat16
    assert model.float()(x.float()).shape == logits.shape


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_ours_and_documented(name):
    entrypoint = timm.model_entrypoint(name)
    assert name.startswith("bcos_")
    assert entrypoint.__module__.rpartition(".")[2].startswith("bcos_")  # or timm would list it with its own
    assert entrypoint.__doc__


@pytest.mark.parametrize("name", [*NAMES, *bcos_zoo.list_models(pretrained=True)])
def test_the_card_makes_timms_own_transform_give_rgb_in_0_1(name):
    model = timm.create_model(name, device="meta")
    card = model.pretrained_cfg
    assert card["first_conv"] + ".weight" == next(iter(model.state_dict()))
    assert f"{card['classifier']}.weight" in model.state_dict()
    config = resolve_model_data_config(model)
    assert config["input_size"] == tuple(card["input_size"])
    for grey in (0, 255):
        picture = Image.new("RGB", (400, 300), (grey, grey, grey))
        pixels = create_transform(**config)(picture)
        assert pixels.shape == config["input_size"]
        assert pixels.aminmax() == (grey / 255, grey / 255)
        augmented = create_transform(**config, is_training=True)(picture)
        assert augmented.shape == config["input_size"]
        assert augmented.min() >= 0 and augmented.max() <= 1
