"""Networks that change their image before they encode it, or encode several: at the given pixels."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close, images, network
from torch import Tensor, nn

from bcos_zoo import Explanation, ExplanationHead, InputError, explain
from bcos_zoo.layers import BcosConv2d, BcosLinear, Encode, LogitLayer
from bcos_zoo.posthoc import attribute
from bcos_zoo.posthoc.adapters import BcosAttribution

FIELDS = ("logits", "weights", "contributions", "bias")


class Tiny(nn.Module):
    def __init__(self, seed: int = 0, in_chans: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encode = Encode(in_chans)
        self.conv = BcosConv2d(2 * in_chans, 8, 3, padding=1)
        self.linear = BcosLinear(8, 4)
        self.logits = LogitLayer(4)

    def forward(self, x: Tensor) -> Tensor:
        return 30 * self.logits(self.linear(self.conv(self.encode(x)).mean((2, 3))))


class Before(nn.Module):
    """A change of the image, then a network."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.change(x))


class Mean(nn.Module):
    """The mean of networks, or of one network's answers to changed images."""

    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x) for net in self.nets]).mean(0)


def flip(x: Tensor) -> Tensor:
    return x.flip(-1)


def shift(x: Tensor) -> Tensor:
    return F.pad(x, (2, 0, 1, 0))[..., : x.shape[-2], : x.shape[-1]]


def larger(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=1.5, mode="bicubic")


def grey(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": flip,
    "crop": lambda x: x[..., 1:6, 2:],
    "shift": shift,
    "pad": lambda x: F.pad(x, (1, 2, 3, 0)),
    "smaller": lambda x: F.interpolate(x, (4, 3), mode="bilinear", antialias=True),
    "larger": larger,
    "rotate": lambda x: x.rot90(1, (-2, -1)),
    "bgr": lambda x: x[:, [2, 1, 0]],
    "halve": lambda x: x * 0.5,
    "clone": lambda x: x.clone(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "cutout": lambda x: x * (torch.arange(x.shape[-1]).to(x) > 2),
}


def matrix(change: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """(values out, values in): column by column, what a change makes of one value that is 1."""
    columns = []
    for i in range(torch.Size(shape).numel()):
        one = torch.zeros(shape, dtype=torch.float64)
        one.view(-1)[i] = 1
        columns.append(change(one[None])[0].flatten())
    return torch.stack(columns, 1)


def expected_of(net: nn.Module, change: Callable[[Tensor], Tensor], x: Tensor, targets: list[int]) -> Any:
    """Weights, contributions and bias of one image, from the network inside and the matrix of the change."""
    inside = explain(net, change(x), targets)
    m = matrix(change, tuple(x.shape[1:]))
    weights, bias = [], []
    for t in range(len(targets)):
        over_u, over_inverse = inside.weights[0, t].flatten(1).flatten().chunk(2)
        weights.append(torch.cat([m.T @ over_u, m.T @ over_inverse]).view(2 * x.shape[1], *x.shape[2:]))
        bias.append(inside.bias[0, t] + (over_inverse * (1 - m.sum(1))).sum())
    stacked = torch.stack(weights)
    both = torch.cat([x[0], 1 - x[0]])
    return inside.logits, stacked, (stacked * both).sum(1), torch.stack(bias)


@pytest.fixture
def x() -> Tensor:
    return 0.1 + 0.8 * images(1, 8, 7).double()


@pytest.mark.parametrize("name", CHANGES)
def test_the_map_is_led_back_to_the_given_pixels(name: str, x: Tensor) -> None:
    net = Tiny().double().eval()
    logits, weights, contributions, bias = expected_of(net, CHANGES[name], x, [0, 2])
    got = explain(Before(net, CHANGES[name]).eval(), x, [0, 2])
    assert_close(got.logits, logits, 1e-12)
    assert_close(got.weights[0], weights, 1e-9)
    assert_close(got.contributions[0], contributions, 1e-9)
    assert_close(got.bias[0], bias, 1e-9)
    assert got.completeness().abs().max() < 1e-11


def mirrored_mean(net: nn.Module, x: Tensor, targets: Any) -> dict[str, Tensor]:
    """What the mean over an image and its mirror image is, from two explanations."""
    one, other = explain(net, x, targets), explain(net, x.flip(-1), targets)
    found = {}
    for field in FIELDS:
        mirrored = getattr(other, field)
        if field in ("weights", "contributions"):
            mirrored = mirrored.flip(-1)
        found[field] = (getattr(one, field) + mirrored) / 2
    return found


def agrees(got: Explanation, expected: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    for field in FIELDS:
        assert_close(getattr(got, field), expected[field], tolerance)


@pytest.mark.parametrize("name", ["bcos_resnet20", "bcos_simple_vit_ti_patch16_224", "bcos_convnext_atto"])
def test_test_time_augmentation_is_explained_as_its_branches(name: str) -> None:
    net = network(name).double()
    x = images(2, like=net).double()
    tta = Mean(net, Before(net, flip)).eval()
    expected = mirrored_mean(net, x, [0, 1])
    agrees(explain(tta, x, [0, 1]), expected)
    agrees(explain(tta, x, [0, 1], max_batch=1), expected)
    agrees(explain(tta, x, [0, 1], create_graph=True), expected)
    agrees(ExplanationHead(tta)(x, [0, 1]), expected)


def test_an_ensemble_is_the_sum_of_its_members(x: Tensor) -> None:
    nets = [Tiny(seed).double().eval() for seed in range(3)]
    each = [explain(net, x, [0, 3]) for net in nets]
    expected = {field: torch.stack([getattr(one, field) for one in each]).mean(0) for field in FIELDS}
    agrees(explain(Mean(*nets).eval(), x, [0, 3]), expected)


def test_members_that_see_other_channels_and_sizes_are_added_at_the_given_pixels(x: Tensor) -> None:
    colour, pale = Tiny(0).double().eval(), Tiny(1, in_chans=1).double().eval()
    parts = [
        expected_of(colour, CHANGES["smaller"], x, [1]),
        expected_of(pale, grey, x, [1]),
    ]
    got = explain(Mean(Before(colour, CHANGES["smaller"]), Before(pale, grey)).eval(), x, [1])
    assert_close(got.weights[0], (parts[0][1] + parts[1][1]) / 2, 1e-9)
    assert_close(got.contributions[0], (parts[0][2] + parts[1][2]) / 2, 1e-9)
    assert_close(got.bias[0], (parts[0][3] + parts[1][3]) / 2, 1e-9)


class Stacked(nn.Module):
    """The same mean with both images in one batch, one behind the other or side by side."""

    def __init__(self, net: nn.Module, interleaved: bool) -> None:
        super().__init__()
        self.net, self.interleaved = net, interleaved

    def forward(self, x: Tensor) -> Tensor:
        if self.interleaved:
            both = torch.stack([x, x.flip(-1)], 1).flatten(0, 1)
            return self.net(both).unflatten(0, (-1, 2)).mean(1)
        return sum(self.net(torch.cat([x, x.flip(-1)])).chunk(2)) / 2


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("create_graph", [False, True])
def test_crops_in_one_batch_belong_to_their_image(interleaved: bool, create_graph: bool) -> None:
    net, x = Tiny().double().eval(), images(3, 8, 7).double()
    targets = torch.tensor([[0, 1], [2, 3], [1, 0]])
    got = explain(Stacked(net, interleaved).eval(), x, targets, create_graph=create_graph)
    agrees(got, mirrored_mean(net, x, targets))


def test_other_doors_give_the_same(x: Tensor) -> None:
    net = Tiny().double().eval()
    tta = Mean(net, Before(net, flip)).eval()
    expected = mirrored_mean(net, x, 2)["contributions"]
    assert_close(attribute(tta, x, 2, "inherent"), expected[:, 0], 1e-9)
    assert_close(BcosAttribution(tta).attribute(x, 2).sum(1), expected[:, 0], 1e-9)
    ixg = attribute(tta, x, 2, "ixg")
    assert ixg.shape == expected[:, 0].shape


def test_an_explanation_of_changed_images_has_gradients_of_its_own(x: Tensor) -> None:
    """Against finite differences of the explanation without a graph."""
    net = Tiny().double().eval()
    model = Mean(net, Before(net, shift)).eval()

    def score(x: Tensor, create_graph: bool) -> Tensor:
        return explain(model, x, 1, create_graph=create_graph).contributions[..., :4, :].square().sum()

    x = (0.8 * x + 0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(score(x, True), x)
    direction = torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype) - 0.5
    with torch.no_grad():
        sides = [score(x + sign * 1e-6 * direction, False) for sign in (1, -1)]
    assert float((sides[0] - sides[1]) / 2e-6) == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


class InPlace(nn.Module):
    def __init__(self, net: nn.Module, factor: float, offset: float) -> None:
        super().__init__()
        self.net, self.factor, self.offset = net, factor, offset

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.mul_(self.factor).add_(self.offset))


def test_a_network_that_writes_on_its_image_is_seen_to(x: Tensor) -> None:
    net, before = Tiny().double().eval(), x.clone()
    got = explain(InPlace(net, 0.5, 0.0).eval(), x, 0)
    _, weights, _, bias = expected_of(net, lambda x: x * 0.5, x, [0])
    assert_close(got.weights[0], weights, 1e-9)
    assert_close(got.bias[0], bias, 1e-9)
    assert torch.equal(x, before)
    with pytest.raises(InputError, match="no linear map of the given image"):
        explain(InPlace(net, 0.5, 0.25).eval(), x, 0)


class Normalize(nn.Module):
    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.mean, self.std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean.to(x)) / self.std.to(x)


IMAGENET = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
NORMALISED = {
    "imagenet": (IMAGENET, 1.0),
    "half": (Normalize([0.5] * 3, [0.5] * 3), 1.0),
    "an image near the mean": (IMAGENET, 0.02),  # whose values stay in [0, 1] for the most part
}


@pytest.mark.parametrize("name", NORMALISED)
def test_normalisation_before_the_network_is_named(name: str) -> None:
    normalise, contrast = NORMALISED[name]
    model = nn.Sequential(normalise, Tiny()).eval()
    x = 0.5 + contrast * (images(1, 8, 7) - 0.5)
    for ask in (
        lambda: explain(model, x),
        lambda: explain(Mean(model[1], model).eval(), x),
        lambda: attribute(model, x, 0, "ixg"),
        lambda: attribute(model, x, 0, "inherent"),
        lambda: BcosAttribution(model).attribute(x, 0),
    ):
        with pytest.raises(InputError, match="encode .*leave out mean/std normalisation"):
            ask()


class Changed(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x)


def geometric(x: Tensor) -> Tensor:
    return (x * x.mean((1, 2, 3), keepdim=True)).sqrt()


NOT_LINEAR: dict[str, tuple[nn.Module, str]] = {
    "gamma": (
        Changed(lambda x: x**2.2),
        r"1.encode encodes values of shape \(1, 3, 8, 7\) that are no linear map",
    ),
    # Of degree one: at any one point, they are their Jacobian times the image.
    "a geometric mean": (Changed(geometric), "no linear map of the given image"),
    "more contrast": (Changed(lambda x: x * (x.mean() / x.amax())), "no linear map of the given image"),
    "a maximum": (nn.MaxPool2d(3, 1, 1), "no linear map of the given image"),
    "sorted": (
        Changed(lambda x: x.flatten(2).sort(-1).values.view_as(x)),
        "no linear map of the given image",
    ),
    "white padding": (nn.ConstantPad2d(1, 1.0), r"of shape \(1, 3, 10, 9\) that are no linear map"),
    "another image": (Changed(lambda x: torch.full_like(x, 0.5)), "no linear map of the given image"),
    "brighter": (Normalize([-0.01] * 3, [1.0] * 3), "no linear map of the given image"),
    "8 bit": (Normalize([0.0] * 3, [1 / 255] * 3), "encodes values from .*; allowed is .0, 1."),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NOT_LINEAR)
def test_what_is_no_linear_map_of_the_image_is_refused_in_one_line(name: str, dtype: torch.dtype) -> None:
    change, message = NOT_LINEAR[name]
    with pytest.raises(InputError, match=message) as caught:
        explain(nn.Sequential(change, Tiny()).to(dtype).eval(), images(1, 8, 7).to(dtype), 0)
    assert "\n" not in str(caught.value)


class Feeds(nn.Module):
    """One network makes the image of another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Encode(), Tiny()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)[:, :3])


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_network_on_what_another_encoded_is_refused(create_graph: bool) -> None:
    with pytest.raises(InputError, match="second.encode encodes what another part of the network gave"):
        explain(Feeds().eval(), images(1, 8, 7), 0, create_graph=create_graph)


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Tiny()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_a_network_without_a_graph_is_refused() -> None:
    with pytest.raises(InputError, match=r"has no graph back to the image; leave out torch.no_grad"):
        explain(Frozen().eval(), images(1, 8, 7), 0)


@pytest.mark.parametrize("name", ["flip", "larger", "shift"])
def test_changes_are_linear_to_float32_of_large_images_too(name: str) -> None:
    model = Before(Tiny(), CHANGES[name]).eval()
    x = images(2, 120, 90)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = explain(model, x, [0, 1])
    double = explain(copy.deepcopy(model).double(), x.double(), [0, 1])
    assert_close(got.weights.double(), double.weights, 1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # from inside dynamo
def test_a_compiled_part_is_led_back_too(x: Tensor) -> None:
    net = Tiny().double().eval()
    expected = mirrored_mean(net, x, [0, 1])
    compiled = copy.deepcopy(net)
    compiled.compile(backend="eager")
    agrees(explain(Mean(compiled, Before(compiled, flip)).eval(), x, [0, 1]), expected)
