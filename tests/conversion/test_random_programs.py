"""Random programs that write over their tensors, in whole, in parts and through views.

In linear mode each gives the values that it gives outside, and what it says is on the path is complete.
Each is also run with its factors recorded and played back, whose map is the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from test_rules import C, image
from torch import Tensor, nn

from bcos_zoo.conversion.holding import Holding
from bcos_zoo.conversion.marks import PATH, is_held, marked, on_path
from bcos_zoo.layers import encode, linear_mode, recording
from bcos_zoo.layers.linear_mode import record_encoded

Statement = Callable[[Tensor, Tensor], object]


def _to(index: slice, value: Callable[[Tensor], Tensor | float]) -> Statement:
    return lambda y, x: y.__setitem__((slice(None), index), value(x))


MADE: list[Callable[[Tensor], Tensor]] = [
    lambda x: x - 0.4,
    lambda x: (x - 0.4).permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),  # a view itself
    torch.zeros_like,
    torch.ones_like,
    lambda x: C.clone(),
    lambda x: x.sigmoid(),
]
STATEMENTS: list[Statement] = [
    lambda y, x: y.add_(C),
    lambda y, x: y.mul_(2),
    lambda y, x: y.relu_(),
    lambda y, x: y.tanh_(),
    lambda y, x: y.exp_(),
    lambda y, x: y.clamp_(-0.1, 0.6),
    lambda y, x: F.silu(y, inplace=True),
    lambda y, x: y.mul_(x),
    lambda y, x: y.mul_(x.sigmoid()),
    lambda y, x: y.mul_(y.sigmoid()),
    lambda y, x: y.sub_(y.mean(1, keepdim=True)),
    lambda y, x: y.div_(x.sum(1, keepdim=True) + 9),
    lambda y, x: y.addcmul_(x, C, value=0.5),
    lambda y, x: y.masked_fill_(x < 0.4, 0.1),
    lambda y, x: torch.mul(x, C, out=y),
    lambda y, x: y.__setitem__(x < 0.3, 0.0),
    _to(slice(0, 1), lambda x: x[:, :1].sigmoid()),
    _to(slice(2, 4), lambda x: x[:, :2]),
    _to(slice(0, 1), lambda x: 3.0),
    lambda y, x: y[:, :3].zero_(),
    lambda y, x: y[:, 1:3].fill_(0.7),
    lambda y, x: y[:, :2].copy_(x[:, 2:4]),
    lambda y, x: y[:, 2:5].add_(x[:, :3]),
    lambda y, x: y[:, 1:][:, :2].mul_(x[:, :2]),
]
ENDS: list[Statement] = [
    lambda y, x: y,
    lambda y, x: y * x,
    lambda y, x: x + y,
    lambda y, x: y.relu() + x,
    lambda y, x: y @ x.mT,
]


def program(seed: int) -> Callable[[Tensor], Tensor]:
    drawn = random.Random(seed)
    made, end = drawn.choice(MADE), drawn.choice(ENDS)
    statements = [drawn.choice(STATEMENTS) for _ in range(drawn.randint(1, 4))]

    def run(x: Tensor) -> Tensor:
        y = made(x)
        for statement in statements:
            statement(y, x)
        return end(y, x)  # type: ignore[return-value]

    return run


def passed(function: Callable[[Tensor], Tensor], encoded: Tensor) -> Tensor:
    with Holding():
        return function(marked(encoded * 1.5, PATH))


@pytest.mark.parametrize("seeds", [range(start, start + 100) for start in range(0, 400, 100)], ids=str)
def test_a_program_gives_what_it_gives_outside_and_is_complete(seeds: range) -> None:
    kinds = set()
    for seed in seeds:
        function = program(seed)
        with torch.no_grad():
            expected = function(encode(image()) * 1.5)
        with linear_mode() as tape:
            encoded = record_encoded(encode(image()), image(), nn.Identity())
            y = passed(function, encoded)
        assert_close(y.detach(), expected, 1e-9)
        kinds.add((on_path(y), is_held(y)))
        if not on_path(y):
            continue
        weights = torch.randn(y.shape, dtype=torch.float64)
        parts = [encoded, *tape.constants]
        found = torch.autograd.grad((weights * y).sum(), parts, allow_unused=True)
        total = sum((g * c.detach()).sum() for g, c in zip(found, parts, strict=True) if g is not None)
        size = (weights * y.detach()).abs().sum()
        assert abs(total - (weights * y.detach()).sum()) <= 1e-9 * size, seed
        _check_played_back(function, y.detach(), weights, found[0], seed)
    assert {(True, False), (False, True)} <= kinds


def _check_played_back(
    function: Callable[[Tensor], Tensor], y: Tensor, weights: Tensor, found: Tensor | None, seed: int
) -> None:
    given = encode(image()).requires_grad_()
    with recording() as factors:
        passed(function, given)
    with linear_mode(factors=factors):
        encoded = record_encoded(encode(image()), image(), nn.Identity())
        again = passed(function, encoded)
    assert not factors, seed
    assert_close(again.detach(), y, 1e-9)
    (graphed,) = torch.autograd.grad((weights * again).sum(), encoded, create_graph=True, allow_unused=True)
    assert (graphed is None) == (found is None), seed
    if graphed is not None and found is not None:
        assert_close(graphed.detach(), found, 1e-9)
        if graphed.requires_grad:
            torch.autograd.grad(graphed.square().sum(), given, allow_unused=True)
