"""Every module of a network can be asked about, and answers with what it gave, not with what became of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import EXPLAINED, assert_close, images, network, smallest_of_each_family
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.explanations.units import activations
from bcos_zoo.layers import BcosConv2d, BcosLinear, Encode, LogitLayer
from bcos_zoo.posthoc import attribute

SMALLEST = [name for name in smallest_of_each_family() if name in EXPLAINED]


def outputs_of(model: nn.Module, x: Tensor) -> dict[tuple[str, int], Tensor]:
    """What each module gives at each call, copied at once."""
    found: dict[tuple[str, int], Tensor] = {}
    calls: dict[str, int] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            call = calls[name] = calls.get(name, -1) + 1
            if isinstance(output, Tensor):
                found[name, call] = output.detach().clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


def units_of(output: Tensor, last: bool) -> Tensor:
    """(N, units): means over the map."""
    output = output if output.ndim != 4 or not last else output.movedim(-1, 1)
    return output.mean((2, 3)) if output.ndim == 4 else output.mean(1) if output.ndim == 3 else output


@pytest.mark.parametrize("share", [8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SMALLEST)
def test_every_module_is_explained_as_what_it_gave(name: str, share: int) -> None:
    """At each call. share: one in so many is asked, each one under `slow`."""
    model = network(name).double()
    x = images(1, like=model).double()
    outputs = outputs_of(model, x)
    several = {key for key, call in outputs if call}
    assert len(outputs) > 12
    for layer, call in list(outputs)[:: max(1, len(outputs) // 8) if share > 1 else 1]:
        output = outputs[layer, call]
        last = layer.startswith("to_patch_embedding") and "stem" not in layer  # tokens, in rows and columns
        expected = units_of(output, last)
        unit = expected.shape[1] // 2
        which = {"call": call} if layer in several else {}
        explained = bcos_zoo.explain_unit(model, x, layer, unit, **which)
        size = 1e-9 * output.abs().mean()
        assert (activations(model, x, layer, unit, **which) - expected[:, unit]).abs().max() <= size, layer
        assert (explained.logits[:, 0] - expected[:, unit]).abs().max() <= size, layer
        assert explained.completeness().abs().max() <= size, layer


class Block(nn.Module):
    """A network of one's own that writes on what its layers gave, as torchvision's do."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encode, self.conv = Encode(), BcosConv2d(6, 8, 3, padding=1)
        self.norm = nn.Identity()
        self.relu, self.kind = nn.ReLU(inplace=True), kind
        self.linear, self.logits = BcosLinear(8, 4), LogitLayer(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.encode(x))
        y = self.norm(x * 2 - x.mean((2, 3), keepdim=True))
        if self.kind == "add":
            y += x
        elif self.kind == "relu":
            y = self.relu(y)
        elif self.kind == "scale":
            y.mul_(3)
        else:
            y[:, :, ::2] = 0
        return self.logits(self.linear(y.mean((2, 3))))


@pytest.mark.parametrize("kind", ["add", "relu", "scale", "set"])
def test_what_follows_does_not_write_on_what_is_explained(kind: str) -> None:
    model, x = Block(kind).double().eval(), images(2, 9, 8).double()
    expected = units_of(outputs_of(model, x)["norm", 0], False)
    for unit in range(8):
        assert_close(activations(model, x, "norm", unit), expected[:, unit], 1e-12)
        explained = bcos_zoo.explain_unit(model, x, "norm", unit)
        assert_close(explained.logits[:, 0], expected[:, unit], 1e-12)
        assert explained.completeness().abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["add", "relu", "scale", "set"])
def test_layercam_sees_what_the_layer_gave_and_its_own_gradient(kind: str) -> None:
    """Oracle: the rest of the network as a function of a copy of the layer's output."""
    pytest.importorskip("captum")
    model, x = Block(kind).double().eval(), images(1, 9, 8).double()

    def rest(y: Tensor) -> Tensor:
        z = model.conv(model.encode(x))
        y = y.clone()
        if kind == "add":
            y = y + z
        elif kind == "relu":
            y = y.relu()
        elif kind == "scale":
            y = y * 3
        else:
            y = torch.cat([y[:, :, i : i + 1] * (i % 2) for i in range(y.shape[2])], 2)
        return model.logits(model.linear(y.mean((2, 3))))

    y = outputs_of(model, x)["norm", 0].requires_grad_()
    (gradient,) = torch.autograd.grad(rest(y)[0, 1], y)
    expected = (gradient.relu() * y.detach()).sum(1).relu()
    assert_close(attribute(model, x, 1, "layercam", layer="norm"), expected, 1e-9)
    expected = (gradient.mean((2, 3), keepdim=True) * y.detach()).sum(1).relu()
    assert_close(attribute(model, x, 1, "gradcam", layer="norm"), expected, 1e-9)


class Odd(nn.Module):
    """A layer that gives a tuple, one that is called three times, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.conv, self.mix = Encode(), BcosConv2d(6, 6, 3, padding=1), BcosConv2d(6, 6, 1)
        self.pair, self.unused, self.pool = Pair(), nn.Identity(), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.encode(x))
        for _ in range(3):
            x = self.mix(x)
        x, _ = self.pair(x)
        return self.pool(x).flatten(1)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x


def test_layers_called_several_times_are_told_apart() -> None:
    model, x = Odd().double().eval(), images(2, 9, 8).double()
    outputs = outputs_of(model, x)
    for call in range(3):
        expected = outputs["mix", call].mean((2, 3))[:, 4]
        explained = bcos_zoo.explain_unit(model, x, "mix", 4, call=call)
        assert_close(explained.logits[:, 0], expected, 1e-12)
        assert explained.labels == ((f"mix[4] call {call}",),) * 2
        assert_close(activations(model, x, "mix", 4, call=call), expected, 1e-12)


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        ("mix", {}, "mix is called 3 times in a pass; say call=0 to 2"),
        ("mix", {"call": 3}, "mix has no call 3 in a pass; allowed are 0 to 2"),
        ("mix", {"call": -1}, "call=-1: allowed are integers, 0 and more"),
        ("unused", {}, "unused is not called in a pass; name the layer that holds it, or one inside it"),
        ("pair", {}, "pair gives a tuple; name a layer that gives one tensor"),
        ("Mix", {}, "no layer named 'Mix'; closest: mix"),
    ],
)
def test_what_is_unclear_is_asked_about_in_one_line(layer: str, options: Any, message: str) -> None:
    for ask in (bcos_zoo.explain_unit, activations):
        with pytest.raises(InputError, match=message):
            ask(Odd().eval(), images(), layer, 0, **options)


def test_units_stand_last_in_layer_norms_and_linear_layers_of_maps() -> None:
    """(N, H, W, D) of a conventional layer norm; timm's LayerNorm2d, a subclass of it, gives (N, K, H, W)."""
    from timm.layers import LayerNorm2d

    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.last, self.first = Encode(), nn.LayerNorm(6), LayerNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.encode(x)
            return self.last(self.first(x).permute(0, 2, 3, 1)).mean((1, 2))

    model, x = Maps().double().eval(), images(1, 9, 7).double()
    outputs = outputs_of(model, x)
    assert_close(activations(model, x, "last", 5), outputs["last", 0][..., 5].mean((1, 2)), 1e-12)
    assert_close(activations(model, x, "first", 5), outputs["first", 0][:, 5].mean((1, 2)), 1e-12)


def test_a_hook_of_the_caller_that_changes_an_output_is_heard(small: Any) -> None:
    model = copy.deepcopy(small)
    plain = activations(model, images(), "layer2", 3)
    model.layer2.register_forward_hook(lambda module, inputs, output: output * 2)
    assert_close(activations(model, images(), "layer2", 3), plain * 2, 1e-6)


class Counted(nn.Module):
    """A network whose first parameter is no number of its computation, as in quantised ones."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Parameter(torch.tensor([3]), requires_grad=False)
        self.encode, self.conv = Encode(), BcosConv2d(6, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.encode(x)).mean((2, 3))


def test_activations_are_in_the_precision_that_the_network_computes_in() -> None:
    model, x = Counted().eval(), images(2, 9, 8)
    expected = bcos_zoo.explain_unit(model, x, "conv", 1).logits[:, 0]
    assert_close(activations(model, x, "conv", 1), expected, 1e-6)
