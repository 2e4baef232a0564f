"""What a network writes over: in linear mode as outside of it, whether as a statement or through a view."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import assert_close
from test_rules import ROW, C, image, linear
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo.conversion.marks import on_path
from bcos_zoo.layers import encode


def done(*statements: Callable[[Tensor], object]) -> Callable[[Tensor], Tensor]:
    """A function of x that makes y = x - 0.4, does something to it, and gives it."""

    def function(x: Tensor) -> Tensor:
        y = x - 0.4
        for statement in statements:
            statement(y)
        return y

    return function


def _added(y: Tensor) -> None:
    y += C


def _divided(y: Tensor) -> None:
    y /= 3


def _power(y: Tensor) -> None:
    y **= 2


def _through_a_view(y: Tensor) -> None:
    first = y[:, :2]
    first += 1


def _swapped(y: Tensor) -> None:
    y[:, 0], y[:, 1] = y[:, 1].clone(), y[:, 0].clone()


PATHS = {
    "add_": done(lambda y: y.add_(C, alpha=2), _added),
    "sub_": done(lambda y: y.sub_(C)),
    "mul_": done(lambda y: y.mul_(ROW[:, None, None]), lambda y: y.mul_(y)),
    "div_": done(_divided, lambda y: y.div_(ROW.abs()[:, None, None] + 1)),
    "pow_": done(_power, lambda y: y.pow_(2)),
    "a view": done(_through_a_view),
    "swapped": done(_swapped),
    "relu_": done(lambda y: F.relu(y, inplace=True), lambda y: y.relu_()),
    "leaky_relu_": done(lambda y: F.leaky_relu(y, 0.1, inplace=True)),
    "elu_": done(lambda y: F.elu_(y)),
    "elu inplace": done(lambda y: F.elu(y, inplace=True)),
    "silu inplace": done(lambda y: F.silu(y, inplace=True)),
    "hardswish inplace": done(lambda y: F.hardswish(y, inplace=True)),
    "hardtanh inplace": done(lambda y: F.hardtanh(y, inplace=True)),
    "relu6 inplace": done(lambda y: F.relu6(y, inplace=True)),
    "tanh_": done(lambda y: y.tanh_()),
    "clamp_": done(lambda y: y.clamp_(min=0), lambda y: y.clamp_(max=0.3)),
    "clamp_min_": done(lambda y: y.clamp_min_(0)),
    "addcmul_": done(lambda y: y.addcmul_(y, C, value=2)),
    "addcmul_ of paths": done(lambda y: y.addcmul_(y, y, value=2)),
    "addcdiv_": done(lambda y: y.addcdiv_(C, C.abs() + 1)),
    "lerp_": done(lambda y: y.lerp_(C, 0.3)),
    "masked_fill_": done(lambda y: y.masked_fill_(y < 0, 0.2)),
    "zero_ of a view": done(lambda y: y[:, :4].zero_()),
    "fill_ of a view": done(lambda y: y[:, :4].fill_(0.3)),
    "copy_": done(lambda y: y[:, :2].copy_(C[:, :2]), lambda y: y[:, 2:4].copy_(2 * y[:, 4:])),
    "a path into zeros": lambda x: torch.zeros_like(x).add_(x),
    "a path into ones": lambda x: torch.ones_like(x).mul_(x),
    "a path onto constants": lambda x: torch.ones_like(x).add_(x).mul_(2),
    "unsqueeze_": done(lambda y: y.unsqueeze_(1), lambda y: y.squeeze_(1)),
    "transpose_": done(lambda y: y.transpose_(2, 3), lambda y: y.t() if y.ndim == 2 else y),
    "a gate written over": lambda x: x * x.sigmoid().mul_(2).add_(1),
    "a gate twice": lambda x: (lambda g: x * g + x * g.mul_(2))(x.sigmoid()),
}


@pytest.mark.parametrize("name", PATHS)
def test_what_is_written_over_is_what_it_is_outside(name: str) -> None:
    y, tape, _ = linear(PATHS[name])
    expected = PATHS[name](encode(image()) * 1.5)
    assert on_path(y)
    assert_close(y.detach(), expected, 1e-10)
    weights = torch.randn(y.shape, dtype=torch.float64)
    parts = [tape.encodings[0].encoded, *tape.constants]
    found = torch.autograd.grad((weights * y).sum(), parts, allow_unused=True)
    total = sum((g * c).sum() for g, c in zip(found, parts, strict=True) if g is not None)
    assert_close(total, (weights * y.detach()).sum(), 1e-9)


HELD = {
    "sigmoid_": done(lambda y: y.sigmoid_()),
    "exp_": done(lambda y: y.exp_()),
    "sqrt_": done(lambda y: y.abs_(), lambda y: y.sqrt_()),
    "round_": done(lambda y: y.round_()),
    "a clamp above zero": done(lambda y: y.clamp_(0.2, 0.5)),
    "a factor added": done(lambda y: y.add_(y.sigmoid())),
}


@pytest.mark.parametrize("name", HELD)
def test_what_is_held_has_the_values_it_has_outside_too(name: str) -> None:
    y, _, _ = linear(HELD[name])
    assert not on_path(y)
    assert_close(y.detach(), HELD[name](encode(image()) * 1.5), 1e-10)


class Between(nn.Module):
    """A network like timm's, with something between its layers."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between, self.num_classes = between, 3
        self.pretrained_cfg = dict(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
        self.conv, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 3)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.between(self.conv(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.fc(x.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def assert_explained(between: Callable[[Tensor], Tensor]) -> None:
    """In linear mode such a network gives what it gives outside of it, and its explanation is complete."""
    model = bcos_zoo.bcosify(Between(between).double().eval(), b=1)
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    e = bcos_zoo.explain(model, x)
    assert_close(e.logits, model(x), 1e-10)
    assert e.completeness().abs().max() < 1e-10


@pytest.mark.parametrize(
    "statement",
    [
        lambda y: y[:, :4].zero_(),
        lambda y: y[:, :4].fill_(0.3),
        lambda y: F.elu_(y),
        lambda y: y.clamp_(min=0),
        lambda y: y.addcmul_(y, y, value=2),
        lambda y: y.tanh_(),
    ],
)
def test_a_converted_network_is_explained_as_what_it_gives(statement: Callable[[Tensor], object]) -> None:
    def between(y: Tensor) -> Tensor:
        statement(y)
        return y

    assert_explained(between)


@pytest.mark.parametrize(
    "statement", [lambda y: y[:, :4].sigmoid_(), lambda y: y[:, :4].add_(y[:, :4].sigmoid())]
)
def test_a_part_of_the_path_that_becomes_a_factor_is_refused(statement: Callable[[Tensor], object]) -> None:
    def between(y: Tensor) -> Tensor:
        statement(y)
        return y

    with pytest.raises(bcos_zoo.InputError):
        bcos_zoo.bcosify(Between(between).eval(), b=1)


def test_linear_mode_that_gives_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completeness is of the linear pass with itself; the trial also compares it with the plain pass."""
    from bcos_zoo.conversion import rules

    monkeypatch.setitem(rules.RULES, "relu", lambda call: call.path(2 * call.args[0]))
    with pytest.raises(bcos_zoo.InputError, match="gives something else in linear mode"):
        bcos_zoo.bcosify(Between(lambda y: y.relu()).eval())


@pytest.mark.parametrize("act", ["tanh", "elu", "hard_swish", "relu6", "selu"])
def test_timms_activations_in_place(act: str) -> None:
    model = timm.create_model("test_resnet", num_classes=5, act_layer=act).double().eval()
    converted = bcos_zoo.bcosify(model, b=1)
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    assert_close(bcos_zoo.explain(converted, x).logits, converted(x), 1e-9)


def test_a_factor_that_is_written_over_is_played_back_as_it_was() -> None:
    model = bcos_zoo.bcosify(Between(lambda y: y * y.sigmoid().mul_(2)).double().eval())
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    e = bcos_zoo.explain(model, x, create_graph=True)
    assert_close(e.logits.detach(), model(x).detach(), 1e-10)


def test_a_constant_that_is_written_over_later_stays_what_was_added() -> None:
    def between(y: Tensor) -> Tensor:
        c = torch.ones_like(y)
        y = y + c
        c.zero_()
        return y

    model = bcos_zoo.bcosify(Between(between).double().eval())
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    assert bcos_zoo.explain(model, x).completeness().abs().max() < 1e-10
