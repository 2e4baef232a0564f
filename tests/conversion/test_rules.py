"""The rules one by one: after any of these functions, what is on the path is complete."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from torch import Tensor, nn

from bcos_zoo.conversion import rules
from bcos_zoo.conversion.calls import logging
from bcos_zoo.conversion.holding import Holding
from bcos_zoo.conversion.marks import PATH, is_held, marked, on_path
from bcos_zoo.layers import encode, linear_mode
from bcos_zoo.layers.linear_mode import record_encoded

C = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
W = torch.randn(6, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
ROW = C[0, :, 0, 0]


def _assigned(x: Tensor) -> Tensor:
    buffer = torch.ones_like(x)
    buffer[:, 1:3] = x[:, :2]
    buffer[:, 3] += x[:, 0]
    return buffer


def _in_place(x: Tensor) -> Tensor:
    y = x * 1
    y += C
    y = y.mul_(2).relu_().sub(0.1)
    y -= x
    y[:, 0] = 3
    return y.div_(2)


def _standardised(x: Tensor) -> Tensor:
    var, mean = torch.var_mean(x, 1, keepdim=True)
    return (x - mean) / var.sqrt()


ON_PATH: dict[str, Callable[[Tensor], Any]] = {
    "a constant added": lambda x: x + C + 1 + torch.add(2, x) + C.add(x, alpha=3),
    "a constant subtracted": lambda x: (x - C) + (1 - x) + torch.rsub(x, C) + C.sub(x),
    "broadcast": lambda x: x[:, :1] + C,
    "scaled": lambda x: 2 * x * ROW[:, None, None] / 3 + x.div(ROW[:, None, None]).neg(),
    "in place": _in_place,
    "assigned": _assigned,
    "two paths": lambda x: x * x.relu() + x * x.mean((2, 3), keepdim=True),
    "squared": lambda x: x**2 + x.square() + x.pow(3) + x.pow(1),
    "divided by a path": lambda x: x / (x.abs().sum(1, keepdim=True) + 1),
    "a matrix product": lambda x: W @ x.flatten(2) + (x.flatten(2).mT @ W).mT,
    "of two paths": lambda x: x.flatten(2) @ (x.flatten(2).mT @ x.flatten(2)),
    "einsum": lambda x: torch.einsum("nkhw,kl->nlhw", x, W) + torch.einsum("nkhw,nkhw->nkhw", [x, x]),
    "addcmul": lambda x: torch.addcmul(x, x, C, value=2) + torch.addcmul(C, x.sigmoid(), x),
    "baddbmm": lambda x: torch.baddbmm(C[..., 0], x[:, :, 0], C[:, :4, :, 0], beta=2, alpha=3),
    "lerp": lambda x: torch.lerp(x, C, 0.3),
    "chosen": lambda x: torch.where(x > 0, x, C) + x.masked_fill(x < 0.3, 0.7) + torch.where(x > 1, 0.0, x),
    "extremes": lambda x: torch.maximum(x, C) + torch.minimum(x, 2 * x) + x.max(1, True)[0],
    "largest": lambda x: x.amax(1, keepdim=True) + x.max(1)[0][:, None],
    "sorted": lambda x: x.topk(2, 1)[0] + x.sort(1).values[:, :2],
    "joined": lambda x: torch.cat([x, C, C[:, :1].expand(2, 1, 5, 4)], 1),
    "stacked": lambda x: torch.stack([x[:, 0], C[:, 0]], 1).repeat(1, 7, 1, 1)[:, :13],
    "shapes": lambda x: x.permute(0, 2, 3, 1).flatten(1, 2).roll(1, 1).chunk(2, -1)[1].reshape(2, 5, 4, 3),
    "kept at float64": lambda x: x.float() + x.to(torch.float32) + x.double(),
    "factors kept at float64": lambda x: x.softmax(-1, dtype=torch.float32) * x + x.sigmoid().float() * x,
    "constants beside float64": lambda x: torch.matmul(W.float(), x.flatten(2).float()),
    "padded": lambda x: F.pad(x, (1, 2, 0, 1), value=0.5) + F.pad(x, (1, 2, 1, 0), mode="reflect"),
    "pooled": lambda x: F.avg_pool2d(x, 2, 1) + F.max_pool2d(x, 2, 1),
    "pooled past the edge": lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 2),
    "resized": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear") + F.interpolate(x, (10, 8)),
    "gates": lambda x: F.gelu(x) + F.gelu(x, approximate="tanh") + F.silu(x) + F.relu(x),
    "more gates": lambda x: F.mish(x) + F.elu(x) + F.hardswish(x),
    "tanh": lambda x: torch.tanh(x) + x * x.tanh(),
    "caps of tensors": lambda x: x.clamp(ROW[:, None, None], torch.tensor(math.inf)),
    "a cap of tensors": lambda x: x.clamp(max=torch.tensor(0.6)),
    "-inf": lambda x: x.masked_fill(x < 0.3, -math.inf).amax(1),
    "chosen -inf": lambda x: torch.where(x > 0.2, x, -math.inf).amax(1),
    "caps": lambda x: F.relu6(4 * x) + F.hardtanh(x) + x.clamp(-0.5, 2) + x.clamp(min=0),
    "a cap in place": lambda x: (x + 0).clamp_(max=0.2),
    "floors and ceilings": lambda x: x.clamp_max(0.5) + x.clamp_min(-0.1) + x.clip(min=0).clamp_max_(2),
    "iterated": lambda x: sum(row for row in x) + torch.stack(list(x.unbind(1)), 1),
    "sampled": lambda x: F.grid_sample(x, (x[:, :2] - 0.5).permute(0, 2, 3, 1), align_corners=False),
    "piecewise": lambda x: F.relu(x, inplace=True) + F.leaky_relu(x, 0.1) + F.prelu(x, ROW) + x.abs(),
    "written-out gates": lambda x: x * torch.sigmoid(1.702 * x) + x * F.relu6(x + 3) / 6,
    "written-out mish": lambda x: x * torch.tanh(F.softplus(x)),
    "glu": lambda x: F.glu(x, 1),
    "a layer": lambda x: F.linear(x.movedim(1, -1), W, ROW) + F.linear(x.movedim(1, -1), W),
    "convolutions": lambda x: F.conv2d(x, C[:, :, :3, :3], ROW[:2], padding=1),
    "convolutions along an axis": lambda x: F.conv1d(x.flatten(2), C[..., 0], ROW[:2]),
    "weights of the image": lambda x: F.conv2d(x[:1], x.sigmoid()[:, :, :3, :3], padding=1),
    "batch norm": lambda x: F.batch_norm(x, ROW, ROW.abs() + 0.5, ROW, ROW),
    "batch norm without weights": lambda x: F.batch_norm(x, ROW, ROW.abs() + 1),
    "batch norm of a batch": lambda x: F.batch_norm(x, None, None, ROW, ROW, True),
    "layer norm": lambda x: F.layer_norm(x, (5, 4), C[0, 0], C[1, 1]) + F.layer_norm(x, (4,)),
    "group norm": lambda x: F.group_norm(x, 3, ROW, ROW) + F.instance_norm(x, weight=ROW, bias=ROW),
    "rms norm": lambda x: F.rms_norm(x, (4,), C[0, 0, 0]),
    "written-out rms norm": lambda x: x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt(),
    "normalised": lambda x: F.normalize(x, dim=1) + F.local_response_norm(x, 3),
    "over its norm": lambda x: x / x.norm(dim=1, keepdim=True),
    "var_mean": _standardised,
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, x[..., :1].expand(2, 6, 5, 5)),
    "written-out attention": lambda x: (x @ x.mT + C[:, :, :, :1]).softmax(-1) @ x,
    "dropout": lambda x: F.dropout(x, 0.5) + F.dropout(x, 0.5, False),
}  # fmt: skip


def image() -> Tensor:
    return torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def linear(function: Callable[[Tensor], Any]) -> tuple[Any, Any, Any]:
    """What a function gives of scaled colours in linear mode; the tape; the functions' choices."""
    with linear_mode() as tape, logging() as log:
        encoded = record_encoded(encode(image()), image(), nn.Identity())
        with Holding():
            y = function(marked(encoded * 1.5, PATH))
    return y, tape, log


@pytest.mark.parametrize("name", ON_PATH)
def test_it_gives_the_same_and_is_complete(name: str) -> None:
    function = ON_PATH[name]
    torch.manual_seed(0)
    y, tape, _ = linear(function)
    torch.manual_seed(0)
    expected = function(encode(image()) * 1.5)
    assert on_path(y)
    if name != "dropout":
        assert_close(y.detach(), expected.to(y.dtype), 1e-6 if "float64" in name else 1e-10)
    weights = torch.randn(y.shape, dtype=torch.float64)
    parts = [tape.encodings[0].encoded, *tape.constants]
    assert all(part.ndim for part in parts)  # an explanation looks for the axis of the batch
    found = torch.autograd.grad((weights * y).sum(), parts, allow_unused=True)
    total = sum((g * c).sum() for g, c in zip(found, parts, strict=True) if g is not None)
    assert_close(total, (weights * y.detach()).sum(), 1e-9)
    assert found[0] is not None and found[0].abs().max() > 0


@pytest.mark.parametrize(
    "function",
    [
        torch.sigmoid, torch.exp, torch.Tensor.detach, lambda x: x.softmax(-1), lambda x: x.std(),
        lambda x: x.clamp(min=1), lambda x: x + x.sigmoid(), lambda x: torch.cat([x, x.sigmoid()]),
        lambda x: 1 / x,
        lambda x: torch.full_like(x, 2) * x.sigmoid(), lambda x: x.argmax(1), lambda x: torch.sin(x),
        lambda x: torch.special.bessel_j0(x),
        lambda x: x.sigmoid_(), lambda x: torch.where(x > 0, x, x.exp()), lambda x: x.round(),
    ],
)  # fmt: skip
def test_what_is_no_linear_function_is_held(function: Callable[[Tensor], Any]) -> None:
    y, tape, _ = linear(function)
    assert is_held(y)
    if y.requires_grad:  # an in-place form: its graph ends where the values were written over
        assert not torch.autograd.grad(y.sum(), tape.encodings[0].encoded)[0].any()
    assert torch.equal(y, function(encode(image()) * 1.5))


def test_of_held_factors_and_constants_whatever_is_made_is_held() -> None:
    y, tape, _ = linear(lambda x: F.linear(x.sigmoid(), C[0, 0].mT[:1].expand(3, 5)[:, :4], ROW[:3]).add_(1))
    assert is_held(y) and not y.requires_grad
    assert len(tape.constants) == 0


def test_constants_stay_constants() -> None:
    y, _, _ = linear(lambda x: torch.zeros_like(x) + x.new_ones(1) + x.shape[0] + x.size(1))
    assert not on_path(y) and not is_held(y)


@pytest.mark.parametrize(
    ("function", "held"),
    [
        (lambda x: x * x.mean((2, 3), keepdim=True), "mul: right factor held"),  # what is broadcast
        (lambda x: x.mean((2, 3), keepdim=True) * x, "mul: left factor held"),
        (lambda x: F.silu(x) * x, "mul: left factor held"),  # what an activation gave
        (lambda x: (2 * x) * F.gelu(x), "mul: right factor held"),
        (lambda x: (2 * x) * (3 * x), "mul: right factor held"),
        (lambda x: x @ (2 * x).mT, "matmul: left factor held"),
        (lambda x: x @ x.relu().mT, "matmul: right factor held"),
    ],
)
def test_of_two_paths_the_factor_held_is_chosen_by_rule(function: Any, held: str) -> None:
    y, _, log = linear(function)
    y.sum().backward()
    assert [choice for choice, _ in log.choices] == [held]


def test_a_choice_that_no_linear_map_runs_through_is_none() -> None:
    y, _, log = linear(lambda x: x * (x @ x.mT).softmax(-1).mean())
    y.sum().backward()
    assert log.choices == []


def test_the_table_names_functions_of_torch() -> None:
    """A misspelt name would never be met. The few left over are of operators, or of torch's inner names."""
    places = [torch, torch.Tensor, F, torch.linalg, torch.special, torch.fft, nn.functional]
    spelt = {name for place in places for name in dir(place)}
    unknown = {name for name in rules.RULES if not {name, f"__{name}__", f"{name}_"} & spelt}
    fourier = {name for name in unknown if name.removeprefix("fft_") in spelt}
    assert unknown - fourier == {"respond", "radd", "linalg_norm", "linalg_vector_norm"} & unknown
