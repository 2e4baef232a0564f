"""The norms against torch's own, loops and the official ones, in training and in eval mode."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

from bcos_zoo.errors import InputError
from bcos_zoo.layers import (
    NORM_NAMES,
    BatchNorm2d,
    GroupNorm2d,
    LayerNorm,
    PositionNorm2d,
    linear_mode,
    make_norm2d,
)

EXACT = dict(rtol=1e-12, atol=1e-13)
F64 = torch.float64
BUFFERS = ["running_mean", "running_var", "num_batches_tracked"]
HALVES = [torch.float16, torch.bfloat16]
K = 4  # channels


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Values with an offset and a spread of their own in each channel, so that a forgotten mean shows."""
    x = torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))
    per_channel = torch.arange(1, shape[1] + 1, dtype=F64).reshape(-1, *[1] * (len(shape) - 2))
    return x * per_channel + 3 - per_channel


def with_weights(norm: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for p in norm.parameters():
        p.data.copy_(torch.randn(p.shape, dtype=F64, generator=generator))
    return norm


def statistics_cells(name: str, shape: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
    """The index sets over which each norm takes one variance, written out."""
    kind, cells = name.removesuffix("u"), {}
    for n, k, h, w in itertools.product(*map(range, shape)):
        of = {"an": (), "bn": (k,), "gn": (n, k // (K // 2)), "in": (n, k), "ln": (n,), "pn": (n, h, w)}[kind]
        cells.setdefault(of, []).append((n, k, h, w))
    return list(cells.values())


def loop_norm(name: str, x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    y = torch.empty_like(x)
    for cell in statistics_cells(name, tuple(x.shape)):
        values = [x[i].item() for i in cell]
        mean = sum(values) / len(values)
        std = (sum((v - mean) ** 2 for v in values) / len(values) + eps) ** 0.5
        for i, value in zip(cell, values, strict=True):
            y[i] = (value - (0 if name.endswith("u") else mean)) / std * weight[i[1] % len(weight)]
    return y


@pytest.mark.parametrize("name", NORM_NAMES)
def test_a_norm_agrees_with_the_loop_over_its_cells(name):
    norm = with_weights(make_norm2d(name, K, dtype=F64)).train()
    x = random(2, K, 3, 2)
    expected = loop_norm(name, x, norm.weight.detach())
    torch.testing.assert_close(norm(x), expected, **EXACT)
    with linear_mode():
        torch.testing.assert_close(norm(x), expected, **EXACT)


def torch_norm(name: str) -> nn.Module:
    """torch's own norm for a centred one, fed by `as_torch_takes_it`."""
    norm = {
        "an": lambda: nn.BatchNorm3d(1, dtype=F64),
        "bn": lambda: nn.BatchNorm2d(K, dtype=F64),
        "gn": lambda: nn.GroupNorm(2, K, dtype=F64),
        "in": lambda: nn.GroupNorm(K, K, dtype=F64),
        "ln": lambda: nn.GroupNorm(1, K, dtype=F64),
        "pn": lambda: nn.LayerNorm(K, dtype=F64),
    }[name]()
    return norm  # its bias is zero until trained


def apply_torch_norm(name: str, norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    if name == "an":
        return norm(x.unsqueeze(1)).squeeze(1)
    return norm(x.movedim(1, -1)).movedim(-1, 1) if name == "pn" else norm(x)


@pytest.mark.parametrize("name", [name for name in NORM_NAMES if not name.endswith("u")])
def test_a_centred_norm_is_the_one_of_torch_without_bias(name):
    ours, theirs = with_weights(make_norm2d(name, K, dtype=F64)), with_weights(torch_norm(name))
    for step, training in enumerate([True, True, False, True, False]):
        ours.train(training), theirs.train(training)
        theirs.bias.data.zero_()
        x = random(3, K, 4, 5, seed=step).requires_grad_()
        got, expected = ours(x), apply_torch_norm(name, theirs, x)
        torch.testing.assert_close(got, expected, **EXACT)
        cotangent = random(*x.shape, seed=9)
        for a, b in zip(
            torch.autograd.grad(got, [x, ours.weight], cotangent),
            torch.autograd.grad(expected, [x, theirs.weight], cotangent),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
        for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_layer_norm_is_the_one_of_torch_without_bias(shape):
    ours = with_weights(LayerNorm(5, dtype=F64))
    theirs = nn.LayerNorm(5, bias=False, dtype=F64)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(0)) + 2
    torch.testing.assert_close(ours(x), theirs(x), **EXACT)
    with linear_mode():
        torch.testing.assert_close(ours(x), theirs(x), **EXACT)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.1, 0.75, 0.0, None])
def test_running_statistics_follow_the_momentum(momentum, centered):
    ours = BatchNorm2d(K, centered=centered, momentum=momentum, dtype=F64)
    theirs = nn.BatchNorm2d(K, momentum=momentum, dtype=F64)
    batches = [random(2, K, 3, 3, seed=i) for i in range(4)]
    for x in batches:
        ours(x), theirs(x)
    if centered:
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, **EXACT)
        torch.testing.assert_close(ours.running_var, theirs.running_var, **EXACT)
    else:  # the published networks run on the biased variance, and never fill in the mean
        expected = torch.ones(K, dtype=F64)
        for i, x in enumerate(batches, 1):
            share = 1 / i if momentum is None else momentum
            expected = (1 - share) * expected + share * x.var((0, 2, 3), correction=0)
        torch.testing.assert_close(ours.running_var, expected, **EXACT)
        assert ours.running_mean.count_nonzero() == 0
    assert ours.num_batches_tracked == 4


def test_uncentred_batch_norm_in_eval_mode_only_scales():
    norm = with_weights(BatchNorm2d(K, dtype=F64)).eval()
    norm.running_mean.fill_(7)
    norm.running_var.copy_(torch.arange(K))  # one of them zero
    x = random(2, K, 3, 3)
    scale = norm.weight / (torch.arange(K, dtype=F64) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), x * scale[:, None, None], **EXACT)
    torch.testing.assert_close(norm(2 * x), 2 * norm(x), **EXACT)


@pytest.mark.parametrize("name", NORM_NAMES)
def test_eval_mode_leaves_the_buffers_and_does_not_mix_images(name):
    norm = with_weights(make_norm2d(name, K, dtype=F64))
    norm(random(2, K, 3, 3))
    norm.eval()
    before = copy.deepcopy(norm.state_dict())
    x = random(3, K, 3, 3, seed=1)
    torch.testing.assert_close(norm(x), torch.cat([norm(image[None]) for image in x]), **EXACT)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


@pytest.mark.parametrize("name", NORM_NAMES)
def test_state_dicts_have_the_published_keys_in_their_order(name):
    state = make_norm2d(name, K).state_dict()
    assert list(state) == ["weight"] + (BUFFERS if name[:2] in ("an", "bn") else [])
    assert len(state["weight"]) == (1 if name.startswith("an") else K)


def official_norms() -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        "an": ("AllNorm2d", (K,)), "anu": ("AllNormUncentered2d", (K,)),
        "bn": ("BatchNorm2d", (K,)), "bnu": ("BatchNormUncentered2d", (K,)),
        "gn": ("DetachableGroupNorm2d", (2, K)), "gnu": ("GroupNormUncentered2d", (2, K)),
        "in": ("DetachableGNInstanceNorm2d", (K,)), "inu": ("GNInstanceNormUncentered2d", (K,)),
        "ln": ("DetachableGNLayerNorm2d", (K,)), "lnu": ("GNLayerNormUncentered2d", (K,)),
        "pn": ("DetachablePositionNorm2d", (K,)), "pnu": ("PositionNormUncentered2d", (K,)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def official():
    return pytest.importorskip(
        "bcos.modules.norms", reason="the official bcos package (extra `peer`) is not installed"
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("linear", [False, True], ids=["", "linear mode"])
@pytest.mark.parametrize("name", NORM_NAMES)
def test_norms_agree_with_the_official_ones(official, name, linear, training):
    if linear and training and name in ("an", "bn"):
        pytest.skip("the official layer refuses explanation mode in training")
    cls, arguments = official_norms()[name]
    theirs = getattr(official, cls)(*arguments).double()
    theirs.bias = None  # what the official NoBias does
    ours = make_norm2d(name, K, dtype=F64)
    ours.load_state_dict(with_weights(theirs).state_dict())
    for norm in (ours, theirs):
        norm(random(2, K, 3, 3, seed=2))
        norm.train(training)
    x = random(2, K, 3, 4).requires_grad_()
    cotangent = random(*x.shape, seed=5)
    if linear:
        theirs.set_explanation_mode(True)
        with linear_mode():
            got = ours(x)
    else:
        got = ours(x)
    expected = theirs(x)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(got, x, cotangent),
        torch.autograd.grad(expected, x, cotangent),
        rtol=1e-10,
        atol=1e-11,
    )
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, **EXACT)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", [*NORM_NAMES, "tokens"])
def test_gradients_of_input_and_weight_are_the_numerical_ones(name, training):
    norm = with_weights(LayerNorm(3, dtype=F64) if name == "tokens" else make_norm2d(name, K, dtype=F64))
    norm.train(training)
    x = random(2, K, 2, 3).requires_grad_()

    def forward(x, weight):
        return torch.func.functional_call(norm, {"weight": weight}, x)

    assert torch.autograd.gradcheck(forward, (x, norm.weight.detach().requires_grad_()), fast_mode=True)


@pytest.mark.parametrize("name", ["anu", "gn", "gnu", "ln", "lnu", "pn", "pnu"])
def test_a_norm_of_several_channels_takes_a_single_pixel_in_training(name):
    norm = make_norm2d(name, K)
    x = torch.rand(1, K, 1, 1, requires_grad=True)
    y = norm(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.isfinite().all() and gradient.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in norm.buffers())


@pytest.mark.parametrize("linear", [False, True], ids=["", "linear mode"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", [*NORM_NAMES, "tokens"])
def test_half_precision_stays_finite_for_zeros_and_large_values(name, dtype, training, linear):
    norm = (LayerNorm(6) if name == "tokens" else make_norm2d(name, K)).to(dtype).train(training)
    x = torch.zeros(3, K, 6, 6, dtype=dtype)
    x[1] = 3e4 * (-1.0) ** sum(torch.meshgrid(*map(torch.arange, (K, 6, 6)), indexing="ij"))
    x[2, ::2, ::2] = -3e4
    x.requires_grad_()
    if linear:
        with linear_mode():
            y = norm(x)
    else:
        y = norm(x)
    gradients = torch.autograd.grad(y.float().sum(), [x, norm.weight])
    assert y.dtype == dtype
    # In eval mode the running variance of 1 leaves 3e4 as it is, and the sum over pixels may leave float16.
    assert y.isfinite().all() and gradients[0].isfinite().all()
    assert not gradients[1].isnan().any()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", [*NORM_NAMES, "tokens"])
def test_a_norm_gives_the_dtype_it_got_under_autocast_and_with_float32_weights(name, training):
    norm = (LayerNorm(6) if name == "tokens" else make_norm2d(name, K)).train(training)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.bfloat16, torch.float32):
            x = random(2, K, 3, 6).to(dtype).requires_grad_()
            y = norm(x)
            with linear_mode():
                held = norm(x)
            assert y.dtype == held.dtype == dtype
            torch.testing.assert_close(y, held, rtol=0.01, atol=0.02)


def test_half_precision_statistics_are_those_of_the_numbers_themselves():
    x = (
        1000 + torch.arange(32.0).reshape(1, 2, 4, 4)
    ).half()  # a large mean: halves are too coarse for its square
    for name in NORM_NAMES:
        got = make_norm2d(name, 2).half()(x)
        torch.testing.assert_close(
            got.double(), make_norm2d(name, 2, dtype=F64)(x.double()), rtol=2e-3, atol=1e-4
        )


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("name", [*NORM_NAMES, "tokens"])
def test_norms_can_be_copied_and_pickled(name, clone):
    norm = LayerNorm(3) if name == "tokens" else make_norm2d(name, K)
    x = random(2, K, 3, 3).float()
    norm(x)
    assert torch.equal(clone(norm).eval()(x), norm.eval()(x))


def test_no_name_is_no_norm_and_an_unknown_one_is_refused():
    assert isinstance(make_norm2d("none", K), nn.Identity)
    for name in ("bnx", "u", "", "bnuu"):
        with pytest.raises(InputError, match=f"no norm named '{name}'; known: an, bn, .*, pnu, or 'none'"):
            make_norm2d(name, K)


@pytest.mark.parametrize("groups", [0, 3])
def test_channels_that_do_not_split_into_groups_are_refused(groups):
    with pytest.raises(InputError, match=f"4 channels do not split into {groups} groups; use a divisor"):
        GroupNorm2d(K, groups)


def test_the_printed_norm_tells_its_settings():
    assert repr(BatchNorm2d(3)) == "BatchNorm2d(3, centered=False, joint=False, eps=1e-05)"
    assert repr(GroupNorm2d(4, 2, centered=True)) == "GroupNorm2d(4, 2, centered=True, eps=1e-05)"
    assert repr(PositionNorm2d(4, eps=0.1)) == "PositionNorm2d(4, centered=False, eps=0.1)"
    assert repr(LayerNorm(4)) == "LayerNorm(4, eps=1e-05)"
