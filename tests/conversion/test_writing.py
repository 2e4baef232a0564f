"""Parts of tensors written over, and calls spelt otherwise: marks and values follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from test_in_place import Between, assert_explained
from test_rules import C, image, linear
from torch import Tensor

import bcos_zoo
from bcos_zoo.conversion.marks import is_held, on_path
from bcos_zoo.layers import encode


def into(
    made: Callable[[Tensor], Tensor], write: Callable[[Tensor, Tensor], Any]
) -> Callable[[Tensor], Tensor]:
    """A function that makes a tensor, writes something of x into it, and gives it."""

    def function(x: Tensor) -> Tensor:
        z = made(x)
        write(z, x)
        return z

    return function


def _add_to_a_view(z: Tensor, x: Tensor) -> None:
    part = z[:, :2]
    part += x[:, :2]


def _copy_into_a_view_of_a_view(z: Tensor, x: Tensor) -> None:
    z[:, 1:5][:, 1:3].copy_(x[:, :2])


PATHS = {
    "added to a view of ones": into(torch.ones_like, _add_to_a_view),
    "copied into a view of a view of ones": into(torch.ones_like, _copy_into_a_view_of_a_view),
    "copied into a view of zeros": into(torch.zeros_like, _copy_into_a_view_of_a_view),
    "out": into(torch.empty_like, lambda z, x: torch.add(x, C, out=z)),
    "input by name": lambda x: torch.mul(input=x, other=C) + torch.flatten(input=x, start_dim=0).view_as(x),
    "relu, input by name": lambda x: F.relu(input=x) + torch.clamp(input=x, min=0, max=0.3),
    "where by names": lambda x: torch.where(condition=x > 0.2, input=x, other=C),
    "a new tensor": lambda x: x * x.new_tensor([2.0]) + x.new_tensor(0.5),
    "a number of the image": lambda x: x * float(x.mean()) + x * bool(x.any()) + x * int(x[0, 0, 0, 0] + 3),
    "with its sign": lambda x: +x,
}  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_it_is_on_the_path_and_complete(name: str) -> None:
    y, tape, _ = linear(PATHS[name])
    assert on_path(y)
    assert_close(y.detach(), PATHS[name](encode(image()) * 1.5), 1e-10)
    weights = torch.randn(y.shape, dtype=torch.float64)
    parts = [tape.encodings[0].encoded, *tape.constants]
    found = torch.autograd.grad((weights * y).sum(), parts, allow_unused=True)
    assert found[0] is not None and found[0].any()
    total = sum((g * c).sum() for g, c in zip(found, parts, strict=True) if g is not None)
    assert_close(total, (weights * y.detach()).sum(), 1e-9)


def _assign(z: Tensor, x: Tensor) -> None:
    z[:, :2] = x[:, :2].sigmoid()


def _copy(z: Tensor, x: Tensor) -> None:
    z[:, :2].copy_(x[:, :2].sigmoid())


def _beside_the_path(z: Tensor, x: Tensor) -> None:
    z[:, :2] = x[:, :2].sigmoid()
    z[:, 2:4] = x[:, :2]


@pytest.mark.parametrize("made", [torch.zeros_like, torch.ones_like, lambda x: x * 2])
@pytest.mark.parametrize("write", [_assign, _copy, _beside_the_path])
def test_a_tensor_with_factors_in_it_is_a_factor(write: Any, made: Any) -> None:
    """Held as a whole: as it stands, with the values it has outside, and without a way to the image."""
    function = into(made, write)
    z, _, _ = linear(function)
    assert is_held(z)
    assert_close(z.detach(), function(encode(image()) * 1.5), 1e-10)

    def multiplied(x: Tensor) -> Tensor:
        return function(x) * x

    y, tape, _ = linear(multiplied)
    assert on_path(y)
    (found,) = torch.autograd.grad(y.sum(), tape.encodings[0].encoded)
    assert_close(found, 1.5 * function(encode(image()) * 1.5), 1e-10)


@pytest.mark.parametrize("write", [_assign, _copy, _beside_the_path])
def test_such_a_factor_is_played_back(write: Any) -> None:
    def between(y: Tensor) -> Tensor:
        return y * into(lambda x: x * 2, write)(y)

    model = bcos_zoo.bcosify(Between(between).double().eval())
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    e = bcos_zoo.explain(model, x, create_graph=True)
    assert_close(e.logits.detach(), model(x).detach(), 1e-10)
    assert_close(e.weights.detach(), bcos_zoo.explain(model, x).weights, 1e-10)
    assert e.completeness().abs().max() < 1e-10


def test_random_numbers_written_over_the_path_are_constants() -> None:
    def function(x: Tensor) -> Tensor:
        y = x * 1
        y[:, :2].uniform_(1, 2)
        return y

    torch.manual_seed(0)
    y, tape, _ = linear(function)
    torch.manual_seed(0)
    expected = function(encode(image()) * 1.5)
    assert on_path(y)
    assert_close(y.detach(), expected, 1e-12)
    assert len(tape.constants) == 1


@pytest.mark.parametrize("operation", [lambda x, c: x * c, lambda x, c: x / c, lambda x, c: x - c])
def test_a_constant_written_over_later_was_what_it_was(operation: Any) -> None:
    def between(y: Tensor) -> Tensor:
        c = torch.full_like(y, 2)
        y = operation(y, c)
        c.zero_()
        return y

    assert_explained(between)


def test_a_number_at_places_that_depend_on_the_image_is_a_constant() -> None:
    def between(y: Tensor) -> Tensor:
        y[y < 0] = 0.2
        return y

    assert_explained(between)


def test_constants_at_places_that_depend_on_the_image_are_held() -> None:
    def function(x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        z[x > 0.5] = 1
        return z

    z, _, _ = linear(function)
    assert is_held(z)
    y, tape, _ = linear(lambda x: function(x) * x)
    (found,) = torch.autograd.grad(y.sum(), tape.encodings[0].encoded)
    assert on_path(y)
    assert_close(found, 1.5 * function(encode(image()) * 1.5), 1e-12)


def test_rows_of_what_is_held_are_held() -> None:
    rows, _, _ = linear(lambda x: list(x.sigmoid()))
    assert len(rows) == 2 and all(is_held(row) for row in rows)
