"""The shortcuts one by one, their switch, and where they are not taken."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import timm
import torch
from torch import nn

from bcos_zoo.errors import InputError
from bcos_zoo.layers import BatchNorm2d, BcosConv2d, BcosLinear, GroupNorm2d, _fast, _switch, fast_ways
from bcos_zoo.layers import functional as BF

EXACT = dict(rtol=1e-12, atol=1e-14)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_switch_is_a_call_and_a_block_and_knows_its_ways() -> None:
    with fast_ways(True):
        assert all(_switch.on(name) for name in _switch.WAYS)
        with fast_ways(False, "fold"):
            assert not _switch.on("fold") and _switch.on("rows")
            with pytest.raises(ZeroDivisionError), fast_ways(False):
                assert _switch.switched_off()
                raise ZeroDivisionError
            assert not _switch.on("fold") and _switch.on("rows")
            fast_ways(False)
            assert _switch.switched_off()
        assert not _switch.switched_off()
        with pytest.raises(InputError, match="no fast way named 'folded'; known: attention, dense"):
            fast_ways(False, "folded")
        assert all(_switch.on(name) for name in _switch.WAYS)


def test_the_switch_is_the_processs_and_not_the_threads() -> None:
    seen = []
    with fast_ways(False):
        thread = threading.Thread(target=lambda: seen.append(_switch.switched_off()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_the_environment_has_the_switch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, ways in (("0", ()), ("1", _switch.WAYS)):
        monkeypatch.setenv("BCOS_ZOO_FAST", value)
        assert _switch._from_environment() == frozenset(ways)
    monkeypatch.setenv("BCOS_ZOO_FAST", "no")
    with pytest.raises(InputError, match="BCOS_ZOO_FAST='no': allowed are 0 for the plain formulas alone"):
        _switch._from_environment()


def layer_of(kind: str) -> Any:
    layer = BcosConv2d(3, 4, 3, padding=1) if kind == "conv" else BcosLinear(3, 4)
    return layer.double().eval()


def looked_at(inner: nn.Module, seen: list[Any]) -> None:
    inner.register_forward_hook(lambda m, args, y: seen.append(y.clone()))


LOOKS: dict[str, Any] = {
    "forward hook": looked_at,
    "pre-hook": lambda m, seen: m.register_forward_pre_hook(lambda m, args: seen.append(args)),
    "pre-hook with keywords": lambda m, seen: m.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(args), with_kwargs=True
    ),
    "hook always called": lambda m, seen: m.register_forward_hook(
        lambda m, args, y: seen.append(y), always_call=True
    ),
    "backward hook": lambda m, seen: m.register_full_backward_hook(lambda *_: seen.append(1)),
    "backward pre-hook": lambda m, seen: m.register_full_backward_pre_hook(lambda *_: seen.append(1)),
    "own forward": lambda m, seen: setattr(
        m, "forward", lambda x, own=m.forward: (seen.append(x), own(x))[1]
    ),
    "global hook": lambda m, seen: nn.modules.module.register_module_forward_hook(
        lambda one, *_: seen.append(one) if one is m else None
    ),
    "global pre-hook": lambda m, seen: nn.modules.module.register_module_forward_pre_hook(
        lambda one, *_: seen.append(one) if one is m else None
    ),
}


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("look", LOOKS)
def test_whoever_looks_at_the_linear_layer_inside_sees_it_called(look: str, kind: str) -> None:
    layer, x = layer_of(kind), random(2, 3, 5, 3)
    expected, seen = layer(x), []
    handle = LOOKS[look](layer.linear, seen)
    try:
        got = layer(x.requires_grad_())
        got.sum().backward()
    finally:
        if handle is not None:
            handle.remove()
    assert len(seen) == 1 or (seen and look == "own forward")  # which is also asked for its rows
    torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("which", ["conv", "norm"])
def test_whoever_looks_at_a_convolution_or_its_frozen_norm_sees_it_called(which: str, look: str) -> None:
    conv, norm, x = layer_of("conv"), BatchNorm2d(4).double().eval().requires_grad_(False), random(2, 3, 5, 5)
    norm.running_var.copy_(torch.arange(1, 5))
    with torch.no_grad():
        expected, seen = norm(conv(x)), []
    handle = LOOKS[look](dict(conv=conv, norm=norm)[which], seen)
    try:
        got = _fast.conv_norm(conv, norm, x.requires_grad_())
        got.sum().backward()
    finally:
        if handle is not None:
            handle.remove()
    assert len(seen) == 1
    torch.testing.assert_close(got, expected, **EXACT)


class Louder(BatchNorm2d):
    """A norm of somebody's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * super().forward(x)


class Doubled(nn.Conv2d):
    """A convolution of somebody's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, 2 * self.weight, None) + 0


def test_subclasses_with_a_forward_of_their_own_are_called() -> None:
    conv, x = layer_of("conv"), random(2, 3, 5, 5)
    plain, louder = BatchNorm2d(4).double().eval(), Louder(4).double().eval()
    with torch.no_grad():
        torch.testing.assert_close(_fast.conv_norm(conv, louder, x), 3 * plain(conv(x)), **EXACT)
        torch.testing.assert_close(_fast.chain((conv, louder), x), 3 * plain(conv(x)), **EXACT)
    conv.normalize, doubled = False, Doubled(3, 4, 3, padding=1, bias=False).double()
    doubled.weight, expected = conv.linear.weight, conv(x)
    conv.linear = doubled
    torch.testing.assert_close(conv(x), 4 * expected, **EXACT)  # of degree b = 2 in the weights


def test_a_forward_replaced_in_the_class_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x, own = layer_of("conv"), random(2, 3, 5, 5), nn.Conv2d.forward
    called: list[int] = []
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: (called.append(1), own(self, x))[1])
    conv(x)
    assert called == [1]


def test_nothing_that_was_put_out_is_written_over() -> None:
    conv, norm, x = layer_of("conv"), BatchNorm2d(4).double().eval(), random(2, 3, 5, 5)
    shortcut = random(2, 4, 5, 5, seed=1)
    before = x.clone(), shortcut.clone()
    with torch.no_grad():
        expected = norm(conv(x)) + shortcut
        got = _fast.conv_norm(conv, norm, x, shortcut=shortcut)
    torch.testing.assert_close(got, expected, **EXACT)
    assert torch.equal(x, before[0]) and torch.equal(shortcut, before[1])
    kept: list[Any] = []
    norm.register_forward_hook(lambda m, args, y: kept.append((args[0], y)))
    with torch.no_grad():
        _fast.conv_norm(conv, norm, x, shortcut=shortcut)
        torch.testing.assert_close(kept[0][0], conv(x), **EXACT)
        torch.testing.assert_close(kept[0][1], norm(conv(x)), **EXACT)


@pytest.mark.parametrize("norm", [GroupNorm2d(4, 2), BatchNorm2d(4, centered=True), nn.Identity()])
def test_a_path_between_norm_and_shortcut_is_called(norm: nn.Module) -> None:
    conv, x, shortcut = layer_of("conv"), random(2, 3, 5, 5), random(2, 4, 5, 5, seed=1)
    norm = copy.deepcopy(norm).double().eval()
    expected = norm(conv(x)) + shortcut
    halve = nn.Linear(1, 1)
    halve.forward = lambda x: x / 2
    for path, factor in ((None, 1), (nn.Identity(), 1), (halve, 0.5)):
        with torch.no_grad():
            got = _fast.conv_norm(conv, norm, x, path=path, shortcut=shortcut)
        torch.testing.assert_close(got, factor * (expected - shortcut) + shortcut, **EXACT)


@pytest.mark.parametrize("name", _switch.WAYS)
def test_each_way_alone_changes_nothing(name: str) -> None:
    conv, deep = BcosConv2d(256, 6, 7, padding=3, groups=2), BcosConv2d(64, 4, 3, max_out=2, scale=2.0)
    tokens = BcosLinear(64, 8)
    x = torch.rand(2, 256, 5, 4).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), fast_ways(False):
        calls = [
            lambda: conv(x),
            lambda: deep(x[:, :64]),
            lambda: tokens(x.flatten(0).unflatten(0, (-1, 64))),
        ]
        expected = [call() for call in calls]
        with fast_ways(True, name):
            for call, y in zip(calls, expected, strict=True):
                torch.testing.assert_close(call(), y)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [((7, 7), (1, 1), (3, 3)), ((5, 6), (2, 3), (2, 1))]
)
def test_large_windows_summed_along_columns_and_rows_are_the_same(layout, kernel, stride, padding):
    x = random(2, 4, 12, 13).square()
    expected = BF.window_sum(x, kernel, stride, padding, (1, 1))
    single = x.float().contiguous(memory_format=layout)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.float16, enabled=autocast):
            got = _fast._window_sum(1e6 * single, kernel, stride, padding, (1, 1))
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double() / 1e6, expected, rtol=1e-5, atol=1e-5)


def test_the_scale_written_in_place_is_the_same_in_one_piece_and_in_many(monkeypatch):
    linear, norm = random(5, 3, 4, 4), random(5, 1, 4, 4).abs() + 1
    expected = linear * BF.bcos_scale(linear, norm, 2.0)
    for cached in (1, 100, 10**9):
        monkeypatch.setattr(_fast, "CACHED", cached)
        torch.testing.assert_close(_fast._scale(linear.clone(), lambda: norm, 2.0), expected, **EXACT)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (6, 3, 4)])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_the_short_way_to_channel_energy_sums_squares_group_by_group(groups, shape, requires_grad):
    x = random(*shape)
    got = _fast._energy(x.clone().requires_grad_(requires_grad), groups)
    expected = torch.stack([part.square().sum(-3) for part in x.chunk(groups, -3)], -3)
    torch.testing.assert_close(got.detach(), expected, **EXACT)


@pytest.mark.parametrize("name", ["bcos_resnet20", "bcos_resnet50", "bcos_convnext_atto"])
def test_stochastic_depth_that_is_off_changes_no_bit(name):
    small = {} if name == "bcos_resnet20" else {"layers": (1, 1, 1, 1)}
    made = [timm.create_model(name, drop_path_rate=rate, **small).eval() for rate in (0.0, 0.5)]
    made[1].load_state_dict(made[0].state_dict())
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(made[0](x), made[1](x))


def test_blocks_of_threads_that_overlap_leave_the_switch_as_it_was() -> None:
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with fast_ways(False, "fold"):
            entered.set()
            left.wait(30)

    thread = threading.Thread(target=other)
    before = {name for name in _switch.WAYS if _switch.on(name)}
    with fast_ways(False):
        thread.start()
        assert entered.wait(30)
    assert {name for name in _switch.WAYS if _switch.on(name)} == before - {"fold"}
    left.set()
    thread.join()
    assert {name for name in _switch.WAYS if _switch.on(name)} == before


def test_calls_without_end_are_not_all_remembered() -> None:
    with fast_ways(True):
        for number in range(50):
            fast_ways(number % 2 == 0, *([] if number % 5 else ["fold"]))
        fast_ways(True)
        assert len(_switch._changes) < 15
    assert all(map(_switch.on, _switch.WAYS))
