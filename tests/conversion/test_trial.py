"""The trial of `bcosify`: what it refuses, on which device it runs, and what it says of the network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import assert_close
from networks import original
from test_in_place import Between
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo.conversion import rules


def between(function: Callable[[Tensor], Tensor]) -> Any:
    return Between(function).eval()


def test_code_that_casts_to_float32_may_differ_by_its_rounding_and_no_other_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cast(x: Tensor) -> Tensor:
        return x.relu().float().mul(0.3).to(x.dtype)

    assert 1e-9 < bcos_zoo.bcosify(between(cast)).conversion["difference"] < 1e-5
    assert bcos_zoo.bcosify(between(torch.relu)).conversion["difference"] < 1e-12
    monkeypatch.setitem(rules.RULES, "relu", lambda call: call.path((1 + 1e-7) * call.args[0].relu()))
    assert bcos_zoo.bcosify(between(cast)).conversion["difference"] < 1e-5
    with pytest.raises(bcos_zoo.InputError, match=r"linear mode than outside: by [1-9]e-08 of its logits"):
        bcos_zoo.bcosify(between(lambda x: x.relu() + 1))


class Fails(RuntimeError):
    pass


def test_a_backward_pass_that_fails_is_refused_in_one_line() -> None:
    def fail(gradient: Tensor) -> Tensor:
        raise Fails("no gradient\nhere")

    def hooked(x: Tensor) -> Tensor:
        y = x * 2
        if y.requires_grad:
            y.register_hook(fail)
        return y

    with pytest.raises(
        bcos_zoo.InputError, match="cannot run in linear mode .Fails: no gradient here"
    ) as caught:
        bcos_zoo.bcosify(between(hooked))
    assert "\n" not in str(caught.value)


def test_the_trial_runs_on_the_cpu_whatever_the_default_device() -> None:
    model = copy.deepcopy(original("test_resnet")).float()
    expected = bcos_zoo.bcosify(model).conversion
    with torch.device("meta"):
        assert bcos_zoo.bcosify(model).conversion == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_a_network_on_an_accelerator_is_converted_there() -> None:
    model = copy.deepcopy(original("test_resnet")).float()
    here, there = bcos_zoo.bcosify(model, b=1), bcos_zoo.bcosify(copy.deepcopy(model).cuda(), b=1)
    assert there.conversion == here.conversion
    x = torch.rand(1, 3, 64, 64)
    assert_close(there(x.cuda()).cpu(), here(x), 1e-4)


def test_a_network_on_the_meta_device_is_refused() -> None:
    with torch.device("meta"):
        model = timm.create_model("test_resnet")
    with pytest.raises(bcos_zoo.InputError, match="is on the meta device, where weights have no numbers"):
        bcos_zoo.bcosify(model)


def test_a_compiled_network_is_the_network_inside() -> None:
    model = copy.deepcopy(original("test_resnet")).float()
    converted = bcos_zoo.bcosify(torch.compile(model))  # type: ignore[arg-type]
    assert converted.conversion == bcos_zoo.bcosify(model).conversion
    assert converted.conversion["stem"] == "wide" and type(converted.network) is type(model)


def test_layers_that_see_the_image_but_only_make_factors_are_counted() -> None:
    """Oracle: the parameters of squeeze-and-excitation, by timm's names."""
    model = copy.deepcopy(original("test_efficientnet"))
    said = bcos_zoo.bcosify(model).conversion
    own = [p.numel() for key, p in model.named_parameters() if ".se." in key]
    assert said["layers_of_factors"] == len(own) // 2 == 4
    assert said["share_of_factors"] == pytest.approx(sum(own) / sum(p.numel() for p in model.parameters()))
    assert bcos_zoo.bcosify(original("test_resnet")).conversion["layers_of_factors"] == 0


class Lost(Between):
    """Most of its weights make a factor of what nothing but a mean runs past."""

    def __init__(self) -> None:
        super().__init__(lambda x: x)
        self.wide = nn.Conv2d(6, 6, 7, padding=3)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return torch.sigmoid(self.wide(x)) * x.mean((2, 3), keepdim=True)


def test_a_main_path_lost_to_factors_shows() -> None:
    said = bcos_zoo.bcosify(Lost().eval()).conversion
    assert said["layers_of_factors"] == 1
    assert said["share_of_factors"] == pytest.approx((6 * 6 * 49 + 6) / (6 * 6 * 49 + 6 + 168 + 21))


@pytest.mark.parametrize("divided", [lambda x: x / (1 + F.relu(x)), lambda x: torch.div(x, 1 + F.relu(x))])
def test_a_path_divided_by_a_path_is_a_choice(divided: Callable[[Tensor], Tensor]) -> None:
    said = bcos_zoo.bcosify(between(divided)).conversion
    assert said["choices"] == ["Between: div: divisor held"]


@pytest.mark.parametrize("act", ["hard_mish", "hard_swish", "mish", "gelu_tanh", "quick_gelu", "prelu"])
def test_timms_activations_are_exact(act: str) -> None:
    """hard_mish has a backward pass of its own in timm, and is spelt out."""
    model = timm.create_model("test_resnet", num_classes=5, act_layer=act).double().eval()
    converted, x = bcos_zoo.bcosify(model, b=1), torch.rand(1, 3, 64, 64, dtype=torch.float64)
    e = bcos_zoo.explain(converted, x)
    assert_close(e.logits, model((x - 0.5) / 0.5), 1e-9)
    assert e.completeness().abs().max() < 1e-10


def test_features_that_come_without_a_mark_are_on_the_path() -> None:
    """convnext's head has a norm, whose deviation must be held: by plain autograd it has no slope along x."""
    model = bcos_zoo.bcosify(original("convnext_atto"), b=1)
    shape = model.forward_features(torch.rand(1, 3, 64, 64, dtype=torch.float64)).shape
    features = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    with bcos_zoo.linear_mode() as tape:
        logits = model.forward_head(features)
    assert_close(logits, original("convnext_atto").forward_head(features), 1e-10)
    parts = [features, *tape.constants]
    found = torch.autograd.grad(logits[0, 1], parts)
    assert_close(sum((g * c).sum() for g, c in zip(found, parts, strict=True)), logits[0, 1], 1e-10)
    assert not hasattr(features, "_bcos_zoo_mark")


def test_projections_that_are_wrapped_stay_linear_too() -> None:
    names = list(bcos_zoo.bcosify(original("levit_128s")).bcos_layers())
    assert names and not [name for name in names if ".qkv" in name or ".kv" in name or ".q." in name]
    assert [name for name in names if name.endswith("proj.ln.linear")]


def test_so_do_those_of_mobilenets_attention() -> None:
    model = timm.create_model("mobilenetv4_hybrid_medium", num_classes=5).eval()
    model.pretrained_cfg["input_size"] = (3, 96, 96)
    names = list(bcos_zoo.bcosify(model).bcos_layers())
    attention = {name.partition(".attn.")[2] for name in names if ".attn." in name}
    assert attention == {"output.proj"}
