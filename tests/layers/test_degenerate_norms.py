"""A norm whose statistics would be those of one value refuses: it would multiply by 1 / sqrt(eps) instead."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn

from bcos_zoo.errors import InputError
from bcos_zoo.layers import (
    NORM_NAMES,
    BatchNorm2d,
    BcosConv2d,
    GroupNorm2d,
    LayerNorm,
    PositionNorm2d,
    conv_norm,
    fast_ways,
    linear_mode,
    make_norm2d,
)

K = 4


def values_of_a_statistic(name: str, shape: tuple[int, ...]) -> int:
    """How many numbers one variance is taken of, counted by hand."""
    n, k, h, w = shape
    return {
        "an": n * k * h * w, "bn": n * h * w, "gn": k // 2 * h * w, "in": h * w, "ln": k * h * w, "pn": k,
    }[name.removesuffix("u")]  # fmt: skip


@pytest.mark.parametrize("linear", [False, True], ids=["", "linear mode"])
@pytest.mark.parametrize("shape", [(1, K, 1, 1), (1, 2, 1, 1), (2, K, 1, 1), (1, K, 1, 2), (3, 2, 1, 1)])
@pytest.mark.parametrize("name", NORM_NAMES)
def test_a_norm_in_training_takes_two_values_and_refuses_one(name, shape, linear):
    norm = make_norm2d(name, shape[1]).train()
    before = copy.deepcopy(norm.state_dict())

    def run():
        if not linear:
            return norm(torch.full(shape, 0.5))
        with linear_mode():
            return norm(torch.full(shape, 0.5))

    if values_of_a_statistic(name, shape) > 1:
        assert run().isfinite().all()
        return
    with pytest.raises(InputError, match="one value.*(larger batch|larger image)") as error:
        run()
    assert "\n" not in str(error.value) and str(shape) in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


@pytest.mark.parametrize("name", [name for name in NORM_NAMES if name[:2] in ("an", "bn")])
def test_a_batch_norm_in_eval_mode_takes_one_value(name):
    norm = make_norm2d(name, 1).eval()
    expected = 0.5 / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(norm(torch.full((1, 1, 1, 1), 0.5)), torch.full((1, 1, 1, 1), expected))


@pytest.mark.parametrize("name", ["gn", "gnu", "in", "inu"])
def test_a_norm_of_one_value_a_group_is_refused_in_eval_mode_too_for_its_statistics_are_the_same(name):
    with pytest.raises(InputError, match="one value"):
        make_norm2d(name, 2).eval()(torch.rand(3, 2, 1, 1))


@pytest.mark.parametrize(
    "make", [lambda: PositionNorm2d(1), lambda: make_norm2d("pnu", 1), lambda: LayerNorm(1)]
)
def test_a_norm_over_one_channel_is_refused_when_it_is_made(make):
    with pytest.raises(InputError, match="one channel has no variance"):
        make()


def test_what_torch_refuses_of_one_value_ours_refuse():
    x = torch.rand(1, 3, 1, 1)
    for theirs, ours in (
        (nn.BatchNorm2d(3), BatchNorm2d(3)),
        (nn.GroupNorm(3, 3), GroupNorm2d(3, 3)),
        (nn.InstanceNorm2d(3), GroupNorm2d(3, 3)),
    ):
        with pytest.raises(ValueError):
            theirs(x)
        with pytest.raises(InputError):
            ours(x)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("linear", [False, True], ids=["", "linear mode"])
@pytest.mark.parametrize(
    ("name", "made_for"),  # a norm over the channels, or over groups of them, needs several
    [(name, n) for name in NORM_NAMES for n in (1, 2, K) if n > 1 or name[:2] not in ("pn", "gn")],
)
def test_a_norm_takes_the_channels_that_it_was_made_for_and_no_others(name, made_for, linear, training):
    """Weights of one channel broadcast over any map, and a map of one over any weights."""
    norm = make_norm2d(name, made_for).train(training)
    for channels in (1, 2, 3, K):
        x = torch.rand(3, channels, 2, 2)
        with linear_mode() if linear else contextlib.nullcontext():
            if channels == made_for or name[:2] == "an":
                assert norm(x).shape == x.shape
                continue
            with pytest.raises(InputError, match="this norm allows") as error:
                norm(x)
        assert str(tuple(x.shape)) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(K, 5, 5), (3, K), (2, 3, K, 5, 5)])
@pytest.mark.parametrize("name", NORM_NAMES)
def test_a_norm_of_maps_takes_maps_only(name, shape, training):
    norm = make_norm2d(name, K).train(training)
    if name[:2] == "pn" and len(shape) == 3:
        expected = norm(torch.ones(1, *shape))[0]
        torch.testing.assert_close(norm(torch.ones(shape)), expected)
        return
    with pytest.raises(InputError, match="this norm allows"):
        norm(torch.rand(shape))


@pytest.mark.parametrize("linear", [False, True], ids=["", "linear mode"])
def test_a_layer_norm_of_tokens_takes_the_channels_that_it_was_made_for(linear):
    for width in (1, 3, 5):
        with linear_mode() if linear else contextlib.nullcontext():
            with pytest.raises(InputError, match=r"this norm allows \(..., 4\)"):
                LayerNorm(4)(torch.rand(2, 3, width))


@pytest.mark.parametrize("made_for", [1, K, 16])
def test_a_norm_that_does_not_fit_its_convolution_is_refused_folded_into_it_too(made_for):
    conv, norm, x = BcosConv2d(6, 8, 1).eval(), BatchNorm2d(made_for).eval(), torch.rand(2, 6, 3, 3)
    for fast in (True, False):
        with fast_ways(fast), torch.no_grad(), pytest.raises(InputError, match="this norm allows"):
            conv_norm(conv, norm, x)
