"""What `bcosify` changes when asked to: biases, centring norms, maxima."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from conftest import assert_close
from networks import images, original
from test_in_place import Between
from timm.layers import (
    BatchNormAct2d,
    GroupNorm,
    GroupNorm1,
    GroupNormAct,
    LayerNorm,
    LayerNorm2d,
    LayerNormAct,
    LayerNormAct2d,
    LayerNormFp32,
    create_pool2d,
)
from timm.models.metaformer import GroupNorm1NoBias, LayerNorm2dNoBias, LayerNormNoBias
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo.conversion import reestimate
from bcos_zoo.conversion.norms import average, uncentre


class OwnBatchNorm(BatchNormAct2d):
    """A subclass with nothing of its own, as some of timm's."""


MAPS = (2, 6, 5, 4)
NORMS: list[
    tuple[Any, tuple[int, ...], tuple[int, ...] | None]
] = [  # norm, its input, axes of its statistics
    (nn.BatchNorm2d(6), MAPS, None),
    (nn.BatchNorm1d(6), (2, 6), None),
    (nn.BatchNorm1d(6), (2, 6, 5), None),
    (BatchNormAct2d(6), MAPS, None),
    (OwnBatchNorm(6), MAPS, None),
    (nn.LayerNorm(6), (2, 5, 6), (-1,)),
    (nn.LayerNorm((5, 6)), (2, 5, 6), (-2, -1)),
    (LayerNorm(6), (2, 5, 6), (-1,)),
    (LayerNormFp32(6), (2, 5, 6), (-1,)),
    (LayerNormNoBias(6), (2, 5, 6), (-1,)),
    (LayerNormAct(6), (2, 5, 6), (-1,)),
    (LayerNorm2d(6), MAPS, (1,)),
    (LayerNorm2dNoBias(6), MAPS, (1,)),
    (LayerNormAct2d(6), MAPS, (1,)),
    (nn.GroupNorm(1, 6), MAPS, (1, 2, 3)),
    (GroupNorm1(6), MAPS, (1, 2, 3)),
    (GroupNorm1NoBias(6), MAPS, (1, 2, 3)),
    (GroupNorm(6, num_groups=1), MAPS, (1, 2, 3)),
    (GroupNormAct(6, num_groups=1), MAPS, (1, 2, 3)),
]


@pytest.mark.parametrize(("norm", "shape", "axes"), NORMS, ids=lambda x: type(x).__name__)
def test_an_uncentred_norm_only_divides_by_the_deviation(norm: Any, shape: Any, axes: Any) -> None:
    norm = copy.deepcopy(norm).double().eval()
    with torch.no_grad():
        for key, tensor in norm.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + (0.5 if key == "running_var" else 0))
    x, eps = torch.randn(shape, dtype=torch.float64), norm.eps
    at = [1] * len(shape)
    at[-1 if axes is not None and axes[-1] == -1 else 1] = 6
    if axes is None:
        expected = x / (norm.running_var + eps).sqrt().view(at) * norm.weight.view(at)
    else:
        expected = x / (x.var(axes, correction=0, keepdim=True) + eps).sqrt()
        expected = expected * (norm.weight if axes == (-2, -1) else norm.weight.view(at))
        if norm.bias is not None:
            expected = expected + (norm.bias if axes == (-2, -1) else norm.bias.view(at))
    if hasattr(norm, "act"):
        expected = expected.relu()
    network = nn.Sequential(norm)
    assert uncentre(network) == (["0"], 0)
    assert_close(network(x), expected, 1e-10)


def test_groups_have_deviations_of_their_own() -> None:
    norm, x = nn.GroupNorm(3, 6).double(), torch.randn(MAPS, dtype=torch.float64)
    network = nn.Sequential(norm)
    uncentre(network)
    for group, part in zip(x.split(2, 1), network(x).split(2, 1), strict=True):
        deviation = group.flatten(1).std(1, correction=0)[:, None, None, None]
        assert_close(part, group / (deviation**2 + norm.eps).sqrt(), 1e-10)


def test_a_norm_in_two_places_stays_one_and_other_kinds_are_counted() -> None:
    shared = nn.BatchNorm2d(3)
    network = nn.ModuleDict(
        dict(
            one=nn.Sequential(shared),
            two=nn.Sequential(shared),
            other=nn.InstanceNorm2d(3),
            no=nn.Linear(1, 1),
        )
    )
    assert uncentre(network) == (["one.0", "two.0"], 1)
    assert network["one"][0] is network["two"][0] is not shared  # type: ignore[index]


@pytest.mark.parametrize(
    ("centring", "key"), [("dropped", "norms_uncentred"), ("fading", "batch_norms_fading")]
)
def test_a_norm_in_two_places_is_counted_once_and_named_twice(centring: Any, key: str) -> None:
    network = Between(lambda x: x)
    network.norm = nn.Sequential(norm := nn.BatchNorm2d(6), nn.ReLU(), norm)
    said = bcos_zoo.bcosify(network.eval(), centring=centring).conversion
    assert said[key] == 1
    assert list(said["plan"]["uncentred"]) + list(said["plan"]["fading"]) == ["norm.0", "norm.2"]


def test_averages_take_the_place_of_maxima() -> None:
    """Oracle: the mean of a patch by hand; SAME pads behind first."""
    same = create_pool2d("max", 3, 2, padding="same")
    others = nn.AdaptiveMaxPool2d(1), nn.MaxPool2d(2, dilation=2)
    network = nn.Sequential(same, nn.MaxPool2d(2), *others)
    assert average(network) == (["0", "1"], 2)
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    padded = nn.functional.pad(x, (0, 1, 0, 1))
    expected = [padded[0, 0, i : i + 3, j : j + 3].sum() / 9 for i in (0, 2) for j in (0, 2)]
    assert_close(network[0](x).flatten(), torch.stack(expected), 1e-12)
    assert network[1](x)[0, 0, 0, 0] == x[0, 0, :2, :2].mean()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test_nfnet", dict(centring="dropped"), "centring='dropped' reaches nothing, for it has no norms"),
        ("test_vit", dict(max_pool="average"), "max_pool='average' reaches nothing, for it has no max pools"),
    ],
)
def test_an_option_that_reaches_nothing_is_refused(name: str, options: Any, message: str) -> None:
    with pytest.raises(bcos_zoo.InputError, match=message):
        bcos_zoo.bcosify(original(name), **options)


def test_one_that_reaches_only_other_kinds_says_so() -> None:
    network = Between(lambda x: x)
    network.norm = nn.InstanceNorm2d(6)
    with pytest.raises(bcos_zoo.InputError, match="its 1 norms are of other kinds; leave it out"):
        bcos_zoo.bcosify(network.eval(), centring="dropped")
    network = Between(lambda x: x)
    network.conv.bias = network.fc.bias = None
    with pytest.raises(bcos_zoo.InputError, match="biases='dropped' reaches nothing"):
        bcos_zoo.bcosify(network.eval(), biases="dropped")


@pytest.mark.parametrize("name", ["levit_128s", "poolformer_s12"])
def test_what_was_changed_is_said(name: str) -> None:
    said = bcos_zoo.bcosify(original(name), centring="dropped").conversion
    kinds = (nn.BatchNorm2d, nn.BatchNorm1d, nn.GroupNorm, nn.LayerNorm)
    assert said["norms_uncentred"] == sum(isinstance(m, kinds) for m in original(name).modules())
    assert said["norms_left"] == 0 and "max_pools_left" not in said


def moved(model: Any, key: str, x: Tensor) -> float:
    """How far the constants in the logits move with a bias: by the explanation of them."""
    before = bcos_zoo.explain(model, x).bias
    with torch.no_grad():
        model.get_parameter(key).add_(1)
        after = bcos_zoo.explain(model, x).bias
        model.get_parameter(key).sub_(1)
    return float((after - before).abs().max())


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "swinv2_tiny_window8_256", "test_efficientnet"])
def test_the_biases_are_those_whose_constants_reach_the_logits(name: str) -> None:
    """v_bias is one; q_bias and those of squeeze-and-excitation make factors, so they are none."""
    model = bcos_zoo.bcosify(original(name), b=1)
    named = {key for key, p in model.named_parameters() if key.endswith("bias")}
    assert {key for key in named if key.endswith("v_bias")} <= model.biases <= named
    for key in named - model.biases:
        assert key.endswith("q_bias") or ".se." in key or "cpb_mlp" in key
    assert named - model.biases and not any(key.endswith("q_bias") for key in model.biases)
    model.scale_constants(0.5)
    for key in named:
        scaled = 0.5 if key in model.biases else 1.0
        before = original(name).get_parameter(key.removeprefix("network."))
        assert torch.equal(model.get_parameter(key), scaled * before)


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "swinv2_tiny_window8_256", "convnextv2_atto"])
def test_dropped_biases_leave_no_constant_of_theirs(name: str) -> None:
    """Oracle: the original with these parameters set to zero."""
    model = bcos_zoo.bcosify(original(name), b=1, biases="dropped")
    expected = bcos_zoo.bcosify(original(name), b=1)
    assert model.conversion["biases_dropped"] == len(expected.biases) > 0
    with torch.no_grad():
        for key in expected.biases:
            expected.get_parameter(key).zero_()
    x = images(name)
    with torch.no_grad():
        assert_close(model(x), expected(x), 1e-9)
    assert not model.biases and not {key for key, _ in model.named_parameters()} & expected.biases


def test_a_fresh_classifiers_bias_is_scaled_too() -> None:
    model = bcos_zoo.bcosify(timm.create_model("test_resnet", num_classes=0).eval())
    assert "network.fc.bias" not in model.biases
    model.reset_classifier(4)
    assert "network.fc.bias" in model.biases


def test_a_card_of_other_channels_says_so() -> None:
    for channels in (1, 4):
        card = bcos_zoo.bcosify(timm.create_model("test_resnet", in_chans=channels)).pretrained_cfg
        assert card["input_size"][0] == len(card["mean"]) == len(card["std"]) == channels


def test_without_batch_norms_nothing_is_estimated() -> None:
    model = bcos_zoo.bcosify(original("test_vit"))
    model.forward = None  # type: ignore[assignment]
    reestimate(model, iter([images("test_vit")]))


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_statistics_are_put_back_after_any_exception(fault: type[BaseException]) -> None:
    model = bcos_zoo.bcosify(copy.deepcopy(original("test_resnet")).float())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    def batches() -> Any:
        yield images("test_resnet").float()
        raise fault

    with pytest.raises(fault):
        reestimate(model, batches())
    with pytest.raises(bcos_zoo.InputError, match="got no images"):
        reestimate(model, [])
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(m.momentum == 0.1 for m in model.modules() if isinstance(m, nn.BatchNorm2d))
