"""The B-cos layers against loops written from the paper, printed values and the official layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bcos_zoo.errors import InputError
from bcos_zoo.layers import BcosConv2d, BcosLinear, linear_mode

EXACT = dict(rtol=1e-12, atol=1e-14)
EXPONENTS = [1, 1.25, 1.5, 2, 2.5, 3]
# Said by torch of its own convolution, once a process.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def source(i: int, size: int, mode: str) -> int | None:
    """The pixel that stands at place i of a padded row, None for a zero."""
    if 0 <= i < size:
        return i
    if mode == "reflect":
        return -i if i < 0 else 2 * (size - 1) - i
    return {"zeros": None, "replicate": min(max(i, 0), size - 1), "circular": i % size}[mode]


def padding_of(padding: Any, kernel: tuple[int, int], dilation: tuple[int, int]) -> list[tuple[int, int]]:
    """(before, after) for rows and columns."""
    if padding == "valid":
        return [(0, 0), (0, 0)]
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(p, p) for p in pair(padding)]


def bcos(
    patch: torch.Tensor, rows: torch.Tensor, b: float, scale: float, normalize: bool, conv: bool
) -> float:
    """One unit: the largest response of its rows, times |cos|^(b-1), as the paper has it."""
    responses = []
    for row in rows:
        length = row.square().sum().sqrt() if normalize else 1
        responses.append(((row * patch).sum() / (length if length != 0 else 1)).item())
    response = max(responses)
    energy = patch.square().sum()
    norm = ((energy + 1e-6).sqrt() if conv else energy.sqrt() + 1e-12).item()
    cosine = abs(response / norm) + (0 if b == 2 else 1e-6)
    return response * (1 if b == 1 else cosine ** (b - 1)) / scale


def loop_conv(
    x, weight, *, b=2, stride=1, padding=0, dilation=1, groups=1, padding_mode="zeros", max_out=1, scale=1,
    normalize=True,
):  # fmt: skip
    """Every output position on its own: gather the padded patch, then each unit."""
    n, channels, height, width = x.shape
    units, per_group, *kernel = weight.shape
    kernel, stride, dilation = tuple(kernel), pair(stride), pair(dilation)
    (top, bottom), (left, right) = padding_of(padding, kernel, dilation)
    rows = (height + top + bottom - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    columns = (width + left + right - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    outputs = units // max_out
    y = x.new_zeros(n, outputs, rows, columns)
    for r in range(rows):
        for c in range(columns):
            patch = x.new_zeros(n, channels, *kernel)
            for i in range(kernel[0]):
                for j in range(kernel[1]):
                    row = source(r * stride[0] + i * dilation[0] - top, height, padding_mode)
                    column = source(c * stride[1] + j * dilation[1] - left, width, padding_mode)
                    if row is not None and column is not None:
                        patch[:, :, i, j] = x[:, :, row, column]
            for image in range(n):
                for o in range(outputs):
                    first = o // (outputs // groups) * per_group
                    seen = patch[image, first : first + per_group]
                    own = weight[o * max_out : (o + 1) * max_out]
                    y[image, o, r, c] = bcos(seen, own, b, scale, normalize, conv=True)
    return y


def seeded(layer: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for p in layer.parameters():
        p.data.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return layer


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def every_way(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The layer's answer without a gradient (in place), with one, and in linear mode."""
    with torch.no_grad():
        answers = [layer(x)]
    answers.append(layer(x.clone().requires_grad_()).detach())
    with linear_mode():
        answers.append(layer(x.clone().requires_grad_()).detach())
    return answers


CONVS: dict[str, tuple[int, int, Any, dict[str, Any]]] = {
    "plain": (3, 4, 3, {}),
    "padded": (3, 4, 3, dict(padding=1)),
    "strided": (3, 4, 3, dict(padding=1, stride=2)),
    "1x1": (3, 4, 1, {}),
    "1x1 strided": (3, 4, 1, dict(stride=2)),
    "1x1 padded": (3, 4, 1, dict(padding=1, stride=(2, 1))),
    "tuples": (2, 3, (3, 2), dict(stride=(1, 2), padding=(1, 0))),
    "a padding of more than half the kernel": (2, 3, 3, dict(padding=2)),
    "an uneven padding of more than half": (2, 3, (3, 2), dict(padding=(1, 2))),
    "reflect": (2, 3, 3, dict(padding=1, padding_mode="reflect")),
    "replicate": (2, 3, 3, dict(padding=(2, 1), padding_mode="replicate", stride=2)),
    "circular": (2, 3, (2, 3), dict(padding=(1, 2), padding_mode="circular")),
    "same, odd": (2, 3, 3, dict(padding="same")),
    "same, even": (2, 3, (2, 4), dict(padding="same")),
    "same, even, reflect": (2, 3, (2, 4), dict(padding="same", padding_mode="reflect")),
    "same, dilated, circular": (2, 3, (2, 3), dict(padding="same", padding_mode="circular", dilation=(1, 2))),
    "valid": (2, 3, 3, dict(padding="valid", stride=2)),
    "valid, replicate": (2, 3, 3, dict(padding="valid", padding_mode="replicate")),
    "groups": (4, 6, 3, dict(groups=2, padding=1)),
    "groups and 1x1": (4, 6, 1, dict(groups=2)),
    "groups, MaxOut, reflect": (4, 4, 3, dict(groups=2, padding=1, max_out=3, padding_mode="reflect")),
    "depthwise": (4, 4, 3, dict(groups=4, padding=1)),
    "depthwise, two each": (2, 4, 3, dict(groups=2, padding=1)),
    "depthwise, MaxOut": (3, 3, 3, dict(groups=3, padding=1, max_out=2)),
    "one channel in": (1, 3, 3, dict(padding=1)),
    "dilated": (2, 3, 3, dict(dilation=2, padding=2)),
    "dilated, MaxOut": (2, 3, 3, dict(dilation=2, padding=2, max_out=2)),
    "dilated, tuples, groups": (4, 4, (2, 3), dict(dilation=(3, 1), padding=(1, 0), groups=2, stride=(1, 2))),
    "MaxOut": (3, 4, 3, dict(padding=1, max_out=2)),
    "scaled": (3, 4, 3, dict(padding=1, max_out=2, scale=0.17)),
    "not normalised": (3, 4, 3, dict(padding=1, normalize=False)),
    "all at once": (4, 4, 2, dict(stride=2, padding=1, groups=2, max_out=2, scale=3.0, normalize=False)),
}  # fmt: skip


@pytest.mark.parametrize("b", EXPONENTS)
@pytest.mark.parametrize("case", CONVS)
def test_a_convolution_agrees_with_the_loop_over_its_patches(case, b):
    channels, outputs, kernel, options = CONVS[case]
    layer = seeded(BcosConv2d(channels, outputs, kernel, b=b, **options, dtype=torch.float64))
    x = random(1, channels, 5, 4)
    expected = loop_conv(x, layer.linear.weight.detach(), b=b, **options)
    for answer in every_way(layer, x):
        torch.testing.assert_close(answer, expected, **EXACT)


@pytest.mark.parametrize("shape", [(7,), (2, 7), (2, 3, 7)])
@pytest.mark.parametrize(
    "options", [{}, dict(max_out=3), dict(scale=0.2), dict(normalize=False, max_out=2)], ids=str
)
@pytest.mark.parametrize("b", EXPONENTS)
def test_a_fully_connected_layer_agrees_with_the_loop_over_its_tokens(b, options, shape):
    layer = seeded(BcosLinear(7, 4, b=b, **options, dtype=torch.float64))
    x, m = random(*shape), options.get("max_out", 1)
    weight, scale, normalize = layer.linear.weight, options.get("scale", 1), options.get("normalize", True)
    expected = [
        [bcos(token, weight[o * m : (o + 1) * m], b, scale, normalize, conv=False) for o in range(4)]
        for token in x.reshape(-1, 7)
    ]
    for answer in every_way(layer, x):
        torch.testing.assert_close(
            answer.reshape(-1, 4), torch.tensor(expected, dtype=torch.float64), **EXACT
        )


@pytest.mark.parametrize(
    "options", [dict(groups=2, max_out=2), dict(padding_mode="reflect"), dict(dilation=2)], ids=str
)
def test_a_single_image_needs_no_batch_axis(options):
    layer = seeded(BcosConv2d(4, 4, 3, padding=1, **options, dtype=torch.float64))
    x = random(2, 4, 5, 4)
    torch.testing.assert_close(torch.stack([layer(image) for image in x]), layer(x), **EXACT)


def test_channels_last_changes_nothing():
    layer, x = (
        seeded(BcosConv2d(4, 6, 3, groups=2, max_out=2, padding=1, dtype=torch.float64)),
        random(2, 4, 5, 4),
    )
    expected = layer(x)
    layer = layer.to(memory_format=torch.channels_last)
    for answer in every_way(layer, x.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(answer, expected.detach(), **EXACT)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(
    "kernel, options",
    [(1, {}), (1, dict(stride=2)), (1, dict(padding=1)), (1, dict(groups=2)), (3, dict(padding=1))],
)
def test_long_rows_of_weights_over_few_pixels_change_nothing_in_channels_last(kernel, options, linear):
    layer = BcosConv2d(256, 6, kernel, **options)
    x = torch.rand(1, 256, 5, 4)
    dense = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected, got = layer(x), layer(dense)
    if linear:
        with linear_mode():
            got = layer(dense.requires_grad_()).detach()
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, expected)


def test_a_response_is_never_longer_than_the_patch_and_shrinks_as_b_grows():
    x = random(2, 3, 6, 6)
    answers = [seeded(BcosConv2d(3, 8, 1, b=b, dtype=torch.float64))(x).abs() for b in (1, 1.5, 2, 3)]
    assert (answers[0] <= x.norm(dim=1, keepdim=True) + 1e-12).all()
    for flatter, sharper in zip(answers, answers[1:], strict=False):
        assert (sharper <= flatter + 1e-5).all()


@pytest.mark.parametrize("layer", [BcosConv2d(3, 4, 1, b=2.5), BcosLinear(3, 4)], ids=["conv", "linear"])
def test_the_size_of_the_weights_does_not_matter_where_they_are_normalised(layer):
    x = torch.randn(3, 3, 3, 3)
    before = layer(x)
    layer.linear.weight.data.mul_(8)
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize(
    ("b", "expected"),
    [
        (2, [[-0.1001420, -0.2906345, -0.3630629, -0.2854642], [3.9337800, 7.1096344, 7.4389296, 3.9572196]]),
        (
            1.5,
            [[-0.2982397, -0.7008095, -0.8353847, -0.6658746], [4.6796064, 7.7085757, 8.0451117, 4.7837715]],
        ),
    ],
)
def test_the_values_the_official_code_printed_come_out(b, expected):
    layer = BcosConv2d(3, 2, 3, padding=1, max_out=2, b=b)
    layer.linear.weight.data = (torch.arange(108) / 10 - 5).reshape(4, 3, 3, 3)
    y = layer((torch.arange(48) / 10).reshape(1, 3, 4, 4))
    torch.testing.assert_close(y[0, :, 0], torch.tensor(expected), rtol=2e-6, atol=2e-7)


@pytest.fixture(scope="module")
def official():
    return pytest.importorskip(
        "bcos.modules", reason="the official bcos package (extra `peer`) is not installed"
    )


def assert_same_layer(ours: nn.Module, theirs: nn.Module, x: torch.Tensor) -> None:
    """Same keys, answers, gradients for x and the weights, and dynamic linear maps."""
    ours.load_state_dict(seeded(theirs).state_dict())
    x = x.requires_grad_()
    for linear in (False, True):
        theirs.set_explanation_mode(linear)
        y = theirs(x)
        cotangent = random(*y.shape)
        expected = (y, *torch.autograd.grad(y, [x, *theirs.parameters()], cotangent))
        if linear:
            with linear_mode():
                y = ours(x)
        else:
            y = ours(x)
        for got, want in zip(
            (y, *torch.autograd.grad(y, [x, *ours.parameters()], cotangent)), expected, strict=True
        ):
            torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("b", EXPONENTS)
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (3, dict(padding=1)),
        (1, dict(stride=2)),
        ((3, 2), dict(stride=(2, 1), padding=(1, 0), max_out=2)),
        (3, dict(groups=2, max_out=2, padding=1)),
        (3, dict(groups=4)),
    ],
    ids=str,
)
def test_convolutions_agree_with_the_official_ones(official, kernel, options, b):
    theirs = official.BcosConv2d(4, 4, kernel, b=b, **options, dtype=torch.float64)
    assert_same_layer(
        BcosConv2d(4, 4, kernel, b=b, **options, dtype=torch.float64), theirs, random(2, 4, 6, 5)
    )


def test_dilated_convolutions_agree_with_the_official_ones(official):
    options = dict(dilation=2, padding=1, dtype=torch.float64)
    with pytest.warns(UserWarning, match="dilation > 1 is much slower"):
        theirs = official.BcosConv2d(4, 3, 3, **options)
    assert_same_layer(BcosConv2d(4, 3, 3, **options), theirs, random(2, 4, 6, 5))


@pytest.mark.parametrize("b", EXPONENTS)
def test_scaled_convolutions_agree_with_the_official_ones(official, b):
    options = dict(b=b, max_out=2, padding=1, dtype=torch.float64)
    with pytest.warns(DeprecationWarning):
        theirs = official.bcosconv2d.BcosConv2dWithScale(4, 3, 3, **options, scale=0.3)
    assert_same_layer(BcosConv2d(4, 3, 3, **options, scale=0.3), theirs, random(2, 4, 6, 5))


@pytest.mark.parametrize("max_out", [1, 2])
@pytest.mark.parametrize("b", EXPONENTS)
def test_fully_connected_layers_agree_with_the_official_ones(official, b, max_out):
    options = dict(b=b, max_out=max_out, dtype=torch.float64)
    assert_same_layer(BcosLinear(5, 3, **options), official.BcosLinear(5, 3, **options), random(2, 4, 5))


def test_input_and_weights_are_left_as_they_were():
    layer, x = BcosConv2d(2, 2, 1, b=2, scale=2.0), torch.randn(1, 2, 3, 3)
    before = x.clone(), layer.linear.weight.detach().clone()
    every_way(layer, x)
    assert torch.equal(x, before[0]) and torch.equal(layer.linear.weight, before[1])
    assert layer.linear.weight.grad is None


@pytest.mark.parametrize("make", [lambda **o: BcosConv2d(4, 4, 3, **o), lambda **o: BcosLinear(4, 4, **o)])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(b=0.5), "b=0.5: a B-cos layer needs b >= 1"),
        (dict(b=float("nan")), "b=nan: a B-cos layer needs b >= 1"),
        (dict(max_out=0), "max_out=0: allowed are 1"),
        (dict(scale=0), "scale=0: the output is divided by it, so it must be positive"),
    ],
    ids=str,
)
def test_settings_without_a_meaning_are_refused(make, options, message):
    with pytest.raises(InputError, match=message) as e:
        make(**options)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("groups", [0, 2])
def test_groups_that_would_tear_a_unit_apart_are_refused(groups):
    with pytest.raises(InputError, match=f"out_channels=3 do not split into groups={groups}; use a divisor"):
        BcosConv2d(4, 3, 3, groups=groups, max_out=2)


def test_the_printed_layer_tells_its_settings():
    assert "b=2.5, max_out=2, scale=1.0, normalize=False" in repr(
        BcosConv2d(2, 2, 3, b=2.5, max_out=2, normalize=False)
    )
    assert "b=2.0, max_out=1, scale=3, normalize=True" in repr(BcosLinear(2, 2, scale=3))
