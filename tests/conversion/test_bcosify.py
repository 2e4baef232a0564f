"""`bcosify`: its options, what it refuses, and what it says of the result."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import timm
import torch
from conftest import assert_close
from networks import images, normalised, original
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo.conversion import Converted, reestimate
from bcos_zoo.conversion.layers import BcosForm
from bcos_zoo.conversion.norms import UncentredLayerNorm
from bcos_zoo.layers import BatchNorm2d


def plain(name: str = "test_resnet") -> Any:
    return copy.deepcopy(original(name)).float()


def complete(model: Converted, x: Tensor) -> None:
    e = bcos_zoo.explain(model, x, 1)
    assert e.completeness().abs().max() < 1e-4 * (e.logits.abs().amax() + e.bias.abs().amax())


def test_the_network_given_is_left_as_it_is() -> None:
    model, x = plain(), images("test_resnet").float()
    before, logits = copy.deepcopy(model.state_dict()), model(x)
    bcos_zoo.bcosify(model, biases="dropped", centring="dropped", max_pool="average")
    assert torch.equal(model(x), logits)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_name_is_built_by_timm() -> None:
    model = bcos_zoo.bcosify("test_vit", num_classes=3)
    assert model(torch.rand(1, 3, 160, 160)).shape == (1, 3) and not model.training


@pytest.mark.parametrize("biases", ["kept", "dropped"])
@pytest.mark.parametrize("centring", ["kept", "dropped"])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "convnext_atto", "test_vit"])
def test_what_is_dropped_is_gone_and_the_rest_is_complete(name: str, biases: Any, centring: Any) -> None:
    x = images(name)
    model = bcos_zoo.bcosify(original(name), b=1.25, biases=biases, centring=centring)
    complete(model, x)
    if biases == "dropped":
        left = [key for key, _ in model.named_parameters() if key.endswith("bias")]
        assert all(".se." in key for key in left)
        assert bool(left) == (name == "test_efficientnet")
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm))]
    uncentred = [isinstance(m, (BatchNorm2d, UncentredLayerNorm)) for m in norms]
    assert norms and all(uncentred) if centring == "dropped" else not any(uncentred)


def test_dropped_means_and_biases_leave_the_norms_scale() -> None:
    """Oracle: batch norm's factor on its own."""
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(1, 2)
        norm.weight.uniform_(1, 2)
    from bcos_zoo.conversion.norms import drop_biases, uncentre

    network, x = nn.Sequential(norm).eval(), torch.randn(2, 4, 3, 3)
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None]
    drop_biases(network, ["0.bias"])
    uncentre(network)
    assert_close(network(x), x * factor, 1e-6)


def test_the_maximum_becomes_an_average() -> None:
    model = bcos_zoo.bcosify(plain(), max_pool="average")
    kinds = {type(module) for module in model.modules()}
    assert nn.MaxPool2d not in kinds and any(issubclass(kind, nn.AvgPool2d) for kind in kinds)
    complete(model, images("test_resnet").float())


def test_depthwise_convolutions_and_projections_stay_linear() -> None:
    model = bcos_zoo.bcosify(plain("test_efficientnet"))
    layers = model.bcos_layers().values()
    assert not [layer for layer in layers if getattr(layer, "groups", 1) > 1]
    every = bcos_zoo.bcosify(plain("test_efficientnet"), depthwise="bcos").bcos_layers()
    assert len(every) > len(layers) and any(getattr(layer, "groups", 1) > 1 for layer in every.values())
    vit = bcos_zoo.bcosify(plain("test_vit"))
    assert not [name for name in vit.bcos_layers() if "qkv" in name]
    assert [name for name in vit.bcos_layers() if name.endswith("attn.proj")]


def test_layers_that_only_make_gates_stay_linear() -> None:
    """Squeeze and excitation makes a factor: no linear map runs through its layers."""
    model = bcos_zoo.bcosify(plain("test_efficientnet"))
    squeezers = [m for key, m in model.named_modules() if key.endswith(("conv_reduce", "conv_expand"))]
    assert squeezers and not any(isinstance(m, BcosForm) for m in squeezers)


@pytest.mark.parametrize("rows", ["unit", "published"])
def test_the_other_forms_are_complete_too(rows: Any) -> None:
    complete(bcos_zoo.bcosify(plain(), rows=rows), images("test_resnet").float())


def test_a_stem_of_standardised_weights_is_folded() -> None:
    """[w, -w] / 2 has another mean and deviation than w."""
    assert bcos_zoo.bcosify(plain("test_nfnet")).conversion["stem"] == "folded"
    assert bcos_zoo.bcosify(plain()).conversion["stem"] == "wide"


def test_the_constants_can_be_scaled() -> None:
    model, x = bcos_zoo.bcosify(plain()), images("test_resnet").float()
    model.scale_constants(0.0)
    assert all(not p.any() for key, p in model.named_parameters() if key.endswith(".bias"))
    complete(model, x)


def test_it_says_what_was_converted_from_what_in_plain_data() -> None:
    said = bcos_zoo.bcosify(plain(), b=1.5).conversion
    assert json.loads(json.dumps(said)) == said
    assert said["from"] == "test_resnet.r160_in1k" and said["b"] == 1.5
    assert said["bcos_layers"] == 16 and said["choices"] == []
    assert bcos_zoo.bcosify("starnet_s1", num_classes=2).conversion["choices"] == [
        "Block: mul: left factor held"
    ]


def test_other_numbers_of_channels_are_encoded_too() -> None:
    model = bcos_zoo.bcosify(timm.create_model("test_resnet", in_chans=1, num_classes=2).eval())
    e = bcos_zoo.explain(model, torch.rand(1, 1, 64, 64), 0)
    assert e.weights.shape == (1, 1, 2, 64, 64)


def test_statistics_are_those_of_the_images() -> None:
    """Oracle: mean and variance of what the first norm gets, over both batches."""
    model, x = bcos_zoo.bcosify(plain()).train(), images("test_resnet", 6).float()
    norm: Any = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    model.network.eval()
    before = {id(m): m.training for m in model.modules()}
    reestimate(model, x.split(3))
    seen: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        for batch in x.split(3):
            model(batch)
    handle.remove()
    means = torch.stack([part.mean((0, 2, 3)) for part in seen]).mean(0)
    variances = torch.stack([part.var((0, 2, 3)) for part in seen]).mean(0)
    assert_close(norm.running_mean, means, 1e-4)
    assert_close(norm.running_var, variances, 1e-3)
    assert {id(m): m.training for m in model.modules()} == before and norm.momentum == 0.1
    with pytest.raises(bcos_zoo.InputError, match="got no images"):
        reestimate(model, [])


class Broken(nn.Module):
    """A network with something in its main path."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.conv, self.part, self.fc = nn.Conv2d(3, 8, 3), part, nn.Linear(8, 5)
        self.num_classes, self.in_chans = 5, 3
        self.pretrained_cfg = dict(architecture="broken", input_size=(3, 32, 32))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.part(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x).mean((2, 3)))


class Hidden(torch.autograd.Function):
    """A function of its own, which torch's functions do not show."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(2 * x.numpy())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * 2


class Hiding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + Hidden.apply(x)


class Alone(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy())


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            nn.Sigmoid(),
            r"broken: sigmoid in Sigmoid 'part' gives factors, not a linear function of the image",
        ),
        (nn.Softplus(), r"broken: softplus in Softplus 'part'"),
        (nn.LSTM(30, 30), r"broken: .*LSTM"),
        (Hiding(), r"broken: what it adds as a constant differs between two images"),
        (Alone(), r"broken: its logits do not depend on the image"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(part: nn.Module, message: str) -> None:
    with pytest.raises(bcos_zoo.InputError, match=message) as caught:
        bcos_zoo.bcosify(Broken(part))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(b=0.5), "b=0.5: a B-cos layer needs a number b >= 1"),
        (dict(b="2"), "b='2': a B-cos layer needs a number b >= 1"),
        (dict(b=None), "b=None: a B-cos layer needs a number b >= 1"),
        (dict(b=float("inf")), "b=inf: a B-cos layer needs a number b >= 1"),
        (dict(b=float("nan")), "b=nan: a B-cos layer needs a number b >= 1"),
        (dict(b=True), "b=True: a B-cos layer needs a number b >= 1"),
        (dict(rows="long"), "rows='long': allowed are 'plain', 'unit', 'published'"),
        (dict(depthwise=True), "depthwise=True: allowed are 'linear', 'bcos'"),
        (dict(biases="half"), "biases='half': allowed are 'kept', 'dropped'"),
        (dict(centring=None), "centring=None: allowed are 'kept', 'fading', 'dropped'"),
        (dict(max_pool="max"), "max_pool='max': allowed are 'kept', 'average'"),
        (dict(pretrained=True), "pretrained and num_classes are for a name"),
    ],
)
def test_other_options_are_refused(options: Any, message: str) -> None:
    with pytest.raises(bcos_zoo.InputError, match=message):
        bcos_zoo.bcosify(plain(), **options)


def test_other_networks_are_refused() -> None:
    with pytest.raises(bcos_zoo.UnknownModelError, match="closest: .*resnet18"):
        bcos_zoo.bcosify("resnet_18")
    with pytest.raises(bcos_zoo.InputError, match="it is a B-cos network"):
        bcos_zoo.bcosify(bcos_zoo.create_model("bcos_resnet20"))
    with pytest.raises(bcos_zoo.InputError, match="it is a B-cos network"):
        bcos_zoo.bcosify(bcos_zoo.bcosify(plain()))
    with pytest.raises(bcos_zoo.InputError, match="no forward_features"):
        bcos_zoo.bcosify(nn.Linear(2, 2))
    with pytest.raises(bcos_zoo.InputError, match="the model is a int"):
        bcos_zoo.bcosify(3)  # type: ignore[arg-type]


def test_the_original_is_in_the_converted_one_at_b_1() -> None:
    model, x = bcos_zoo.bcosify(original("test_resnet"), b=1), images("test_resnet")
    assert_close(model(x), original("test_resnet")(normalised(original("test_resnet"), x)), 1e-10)
    model.network.layer1[0].conv1.b = 2.0  # one layer at a time, as a training may
    assert not torch.allclose(model(x), original("test_resnet")(normalised(original("test_resnet"), x)))


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("test_resnet.nonexist", {}, bcos_zoo.UnknownModelError, "no weights named .*it has: r160_in1k"),
        ("hf-hub:", {}, bcos_zoo.UnknownModelError, "cannot build 'hf-hub:'.*allowed are hf-hub:OWNER/NAME"),
        ("local-dir:/nonexistent", {}, bcos_zoo.UnknownModelError, "cannot build .*local-dir:PATH"),
        ("test_resnet", dict(num_classes="3"), bcos_zoo.InputError, "num_classes='3': allowed are integers"),
        ("test_resnet", dict(num_classes=-1), bcos_zoo.InputError, "num_classes=-1: allowed are integers, 0"),
        ("test_resnet", dict(num_classes=True), bcos_zoo.InputError, "num_classes=True: allowed"),
    ],
)
def test_names_that_cannot_be_built_are_refused_in_one_line(
    name: str, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        bcos_zoo.bcosify(name, **options)
    assert "\n" not in str(caught.value)
