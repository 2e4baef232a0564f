"""Linear mode: the map it shows is exact, is the frozen one, and belongs to the caller's thread alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from bcos_zoo.layers import (
    NORM_NAMES,
    BatchNorm2d,
    BcosConv2d,
    BcosLinear,
    Encode,
    LayerNorm,
    LogitLayer,
    add_constant,
    hold,
    is_linear,
    linear_mode,
    make_norm2d,
)

F64 = torch.float64
EXACT = dict(rtol=1e-11, atol=1e-12)

LAYERS: dict[str, Callable[[], nn.Module]] = {
    **{f"conv, b={b}": lambda b=b: BcosConv2d(4, 2, 3, padding=1, b=b, dtype=F64) for b in (1, 1.5, 2, 3)},
    "conv, MaxOut": lambda: BcosConv2d(4, 2, 3, stride=2, b=2.5, max_out=2, scale=0.3, dtype=F64),
    "conv, groups": lambda: BcosConv2d(4, 4, 1, groups=2, normalize=False, dtype=F64),
    "conv, reflect": lambda: BcosConv2d(4, 2, 3, padding="same", padding_mode="reflect", dtype=F64),
    "conv, dilated": lambda: BcosConv2d(4, 2, 2, dilation=2, max_out=2, dtype=F64),
    "linear": lambda: BcosLinear(3, 2, dtype=F64),
    "linear, MaxOut": lambda: BcosLinear(3, 2, b=1.25, max_out=3, scale=2.0, dtype=F64),
    "tokens": lambda: LayerNorm(3, dtype=F64),
    **{name: lambda name=name: make_norm2d(name, 4, dtype=F64) for name in NORM_NAMES},
    "logits": lambda: LogitLayer(4, temperature=0.5),
}
X = torch.randn(2, 4, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(3)) + 0.5


def prepared(name: str, training: bool = False) -> nn.Module:
    """The layer with weights and running statistics of its own."""
    layer, generator = LAYERS[name](), torch.Generator().manual_seed(0)
    for value in (*layer.parameters(), *layer.buffers()):
        if value.is_floating_point():
            value.data.copy_(torch.rand(value.shape, dtype=F64, generator=generator) + 0.2)
    for p in layer.parameters():
        p.data.sub_(0.7)
    return layer.train(training)


def parts(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output (P,), linear map (P, *x.shape) and constants' share (P,), for the P numbers put out."""
    x = x.clone().requires_grad_()
    with linear_mode() as tape:
        y = layer(x).flatten()
    maps, shares = [], torch.zeros_like(y.detach())
    for i, value in enumerate(y):
        gradient, *constants = torch.autograd.grad(value, [x, *tape.constants], retain_graph=True)
        maps.append(gradient)
        shares[i] += sum((g * c).sum().detach() for g, c in zip(constants, tape.constants, strict=True))
    return y.detach(), torch.stack(maps), shares


GEOMETRY = ("stride", "padding", "dilation", "groups", "padding_mode")
MODES = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


@MODES
@pytest.mark.parametrize("name", LAYERS)
def test_the_map_times_the_input_is_the_output(name, training):
    layer = prepared(name, training)
    y, maps, shares = parts(layer, X)
    torch.testing.assert_close((maps * X).flatten(1).sum(1) + shares, y, **EXACT)


@pytest.mark.parametrize("name", LAYERS)
def test_the_output_is_the_same_in_and_out_of_linear_mode(name):
    layer = prepared(name)
    inside = parts(layer, X)[0]
    with torch.no_grad():
        torch.testing.assert_close(layer(X).flatten(), inside, **EXACT)
    torch.testing.assert_close(layer(X.clone().requires_grad_()).flatten().detach(), inside, **EXACT)


def linear_part(name: str, layer: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a layer does to x apart from its dynamic factor, spelt out: a linear map, up to a constant."""
    if isinstance(layer, BcosConv2d):
        inner = layer.linear
        geometry = {key: getattr(inner, key) for key in GEOMETRY}
        options = dict(max_out=layer.max_out, normalize=layer.normalize, b=1)
        plain = BcosConv2d(layer.in_channels, layer.out_channels, inner.kernel_size, **geometry, **options)
        plain.linear.weight = inner.weight
        return plain
    if isinstance(layer, BcosLinear):
        plain = BcosLinear(layer.in_features, layer.out_features, max_out=layer.max_out, b=1)
        plain.linear.weight = layer.linear.weight
        return plain
    if name == "logits" or name.endswith("u"):
        return lambda z: z
    if name in ("an", "bn") and not layer.training:
        return lambda z: z - layer.running_mean[:, None, None]
    if name == "gn":
        return lambda z: torch.cat([half - half.mean((1, 2, 3), keepdim=True) for half in z.chunk(2, 1)], 1)
    dims = {"an": (0, 1, 2, 3), "bn": (0, 2, 3), "in": (2, 3), "ln": (1, 2, 3), "pn": (1,), "tokens": (3,)}[
        name
    ]
    return lambda z: z - z.mean(dims, keepdim=True)


@MODES
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "logits"])
def test_the_map_is_the_numerical_jacobian_of_the_layer_with_its_factors_frozen(name, training):
    layer = prepared(name, training)
    part = linear_part(name, layer)
    maps = parts(layer, X)[1]
    step = 1e-4  # any small one: between two changes of MaxOut's winner the frozen layer has no curvature
    with torch.no_grad():
        factors = layer(X) / part(X)
        for column, direction in enumerate(torch.eye(X.numel(), dtype=F64).reshape(-1, *X.shape)):
            change = factors * (part(X + step * direction) - part(X - step * direction)) / (2 * step)
            torch.testing.assert_close(maps.flatten(1)[:, column], change.flatten(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "conv, b=1"])
def test_outside_of_linear_mode_the_gradient_is_the_ordinary_one(name):
    layer = prepared(name, training=True)
    assert torch.autograd.gradcheck(layer, X.clone().requires_grad_(), fast_mode=True)


class Net(nn.Module):
    """A small B-cos network with a layer of each sort, constants among them."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.encode = Encode()
        self.stem = BcosConv2d(6, 8, 3, padding=1, max_out=2)
        self.norm = BatchNorm2d(8)
        self.middle = BcosConv2d(8, 8, 3, padding=1, groups=2, b=1.5)
        self.centred = BatchNorm2d(8, centered=True)
        self.position = nn.Parameter(torch.randn(8, 1, 1))
        self.token_norm = LayerNorm(8)
        self.head = BcosLinear(8, classes)
        self.logits = LogitLayer(classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(self.encode(x)))
        x = add_constant(self.centred(self.middle(x)) + x, self.position)
        return self.logits(self.head(self.token_norm(x.flatten(2).mean(2))))


def small_net(dtype: torch.dtype = torch.float32) -> Net:
    torch.manual_seed(0)
    net = Net().to(dtype)
    for _ in range(3):
        net(torch.rand(4, 3, 6, 6, dtype=dtype))  # running statistics that are not 0 and 1
    return net.eval()


def explain(net: Net, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Largest logit (N,), W(x) (N, 6, H, W), share of the constants (N,)."""
    with linear_mode(freeze_parameters=True) as tape:
        logit = net(x).max(1).values
    weights, *shares = torch.autograd.grad(logit.sum(), [tape.encodings[-1].encoded, *tape.constants])
    bias = sum((g * c.detach()).flatten(1).sum(1) for g, c in zip(shares, tape.constants, strict=True))
    return logit.detach(), weights, bias


def test_a_network_is_exactly_its_linear_map_plus_its_constants():
    net, x = small_net(F64), torch.rand(3, 3, 6, 6, dtype=F64)
    logit, weights, bias = explain(net, x)
    contributions = (weights * torch.cat([x, 1 - x], 1)).flatten(1).sum(1)
    torch.testing.assert_close(contributions + bias, logit, **EXACT)
    torch.testing.assert_close(logit, net(x).max(1).values.detach(), **EXACT)


def test_the_tape_holds_each_constant_in_the_order_added():
    net = small_net()
    with linear_mode() as tape:
        y = net(torch.rand(2, 3, 6, 6))
    assert [tuple(c.shape) for c in tape.constants] == [(2, 8, 6, 6), (2, 8, 6, 6), (2, 5)]
    assert all(c.requires_grad for c in tape.constants)
    assert tape.encodings[-1].encoded is not None and tape.encodings[-1].encoded.shape == (2, 6, 6, 6)
    assert y.requires_grad


def test_a_constant_keeps_the_dtype_of_what_it_is_added_to():
    constant = torch.ones(4)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, F64):
        x = torch.zeros(2, 4, dtype=dtype)
        with linear_mode() as tape:
            assert add_constant(x, constant).dtype == add_constant(x, 1.0).dtype == dtype
        assert add_constant(x, constant).dtype == add_constant(x, 1.0).dtype == dtype
        assert [c.dtype for c in tape.constants] == [dtype, dtype]
    assert not constant.requires_grad


def test_frozen_parameters_get_no_gradient_and_the_rest_the_same():
    net, x = small_net(), torch.rand(2, 3, 6, 6)
    maps = []
    for freeze in (False, True):
        with linear_mode(freeze_parameters=freeze) as tape:
            value = net(x).sum()
        maps.append(torch.autograd.grad(value, tape.encodings[-1].encoded, retain_graph=True)[0])
        gradients = torch.autograd.grad(value, list(net.parameters()), allow_unused=True)
        reached = {
            name for (name, _), g in zip(net.named_parameters(), gradients, strict=True) if g is not None
        }
        # `position` is added by the network itself; whether a constant is cut is that of its maker to say.
        assert reached == ({"position"} if freeze else {name for name, _ in net.named_parameters()})
    assert torch.equal(*maps)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_weights_within_a_constant_get_their_gradient_in_linear_mode_too():
    norm = BatchNorm2d(2, centered=True, dtype=F64).eval()
    norm.running_mean.fill_(3)
    x = torch.rand(1, 2, 2, 2, dtype=F64)
    (expected,) = torch.autograd.grad(norm(x).sum(), norm.weight)
    with linear_mode():
        (got,) = torch.autograd.grad(norm(x).sum(), norm.weight)
    torch.testing.assert_close(got, expected)


def test_blocks_nest_and_each_has_its_own_tape():
    x = torch.ones(1, 2)
    assert not is_linear()
    with linear_mode(freeze_parameters=True) as outer:
        add_constant(x, 1)
        with linear_mode() as inner:
            add_constant(x, 2)
            add_constant(x, 3)
        assert is_linear()
        add_constant(x, 4)
        assert not hold(lambda: x.requires_grad_() * 2).requires_grad
    assert not is_linear() and hold(lambda: x) is x
    assert [c[0, 0].item() for c in outer.constants] == [1, 4]
    assert [c[0, 0].item() for c in inner.constants] == [2, 3]
    assert outer.freeze_parameters and not inner.freeze_parameters


@pytest.mark.parametrize("depth", [1, 2])
def test_an_exception_ends_the_mode_of_its_block_only(depth):
    with pytest.raises(ZeroDivisionError), linear_mode():
        if depth == 2:
            with pytest.raises(KeyError), linear_mode():
                raise KeyError
            assert is_linear()
        raise ZeroDivisionError
    assert not is_linear()


def test_a_layer_put_in_later_is_seen():
    net, x = small_net(F64), torch.rand(1, 3, 6, 6, dtype=F64)
    explain(net, x)
    net.head, net.logits = BcosLinear(8, 7, b=2.5, dtype=F64), LogitLayer(7)
    logit, weights, bias = explain(net, x)
    torch.testing.assert_close((weights * torch.cat([x, 1 - x], 1)).sum() + bias[0], logit[0], **EXACT)
    with linear_mode() as tape:
        net.head = BcosLinear(8, 2, b=3, dtype=F64)
        y = net(x)[0, 0]
    weights, *shares = torch.autograd.grad(y, [tape.encodings[-1].encoded, *tape.constants])
    total = (weights * tape.encodings[-1].encoded).sum() + sum(
        (g * c).sum() for g, c in zip(shares, tape.constants, strict=True)
    )
    torch.testing.assert_close(total, y, **EXACT)


def test_no_module_hook_or_attribute_is_left_behind():
    net = small_net()
    before = {name: dict(module.__dict__) for name, module in net.named_modules()}
    explain(net, torch.rand(1, 3, 6, 6))
    for name, module in net.named_modules():
        assert module.__dict__.keys() == before[name].keys()
        assert not module._forward_hooks and not module._backward_hooks and not module._forward_pre_hooks


def test_eight_threads_that_predict_and_explain_get_what_one_thread_gets():
    net = small_net()
    images = [torch.rand(2, 3, 6, 6) for _ in range(4)]

    def predict(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return (net(x),)

    def saliency(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(net(x).max(1).values.sum(), x)

    jobs = [(work, x) for x in images for work in (predict, lambda x: explain(net, x), saliency)]
    expected = [work(x) for work, x in jobs]
    start = threading.Barrier(8)

    def worker(offset: int) -> bool:
        start.wait()
        order = [(i * 5 + offset) % len(jobs) for i in range(2 * len(jobs))]
        return all(
            torch.equal(a, b) for i in order for a, b in zip(jobs[i][0](jobs[i][1]), expected[i], strict=True)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(worker, range(8)))


def test_the_mode_of_one_thread_is_not_that_of_another():
    with ThreadPoolExecutor(1) as pool, linear_mode():
        assert not pool.submit(is_linear).result()
        assert is_linear()


def test_the_mode_of_one_task_is_not_that_of_another():
    async def inside(entered: asyncio.Event, leave: asyncio.Event) -> bool:
        with linear_mode():
            entered.set()
            await leave.wait()
            return is_linear()

    async def both() -> tuple[bool, bool]:
        entered, leave = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(inside(entered, leave))
        await entered.wait()
        outside = is_linear()
        leave.set()
        return await task, outside

    assert asyncio.run(both()) == (True, False)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_linear_mode_without_gradients_only_computes(guard):
    net, x = small_net(), torch.rand(2, 3, 6, 6)
    with guard(), linear_mode():
        y = net(x)
    torch.testing.assert_close(y, net(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_explains_black_images_finitely(dtype):
    net = small_net().to(dtype)
    logit, weights, bias = explain(net, torch.zeros(2, 3, 6, 6, dtype=dtype))
    assert logit.dtype == weights.dtype == bias.dtype == dtype
    assert all(value.isfinite().all() for value in (logit, weights, bias))


def test_a_network_under_autocast_explains_finitely():
    net = small_net()
    with torch.autocast("cpu", torch.bfloat16):
        logit, weights, bias = explain(net, torch.rand(2, 3, 6, 6))
    assert all(value.isfinite().all() for value in (logit, weights, bias))


def test_a_compiled_network_knows_the_mode_it_is_called_in():
    torch._dynamo.reset()
    torch.manual_seed(0)
    net = nn.Sequential(BcosConv2d(3, 4, 3, padding=1, max_out=2), BatchNorm2d(4)).eval()
    net[1].running_var.fill_(0.5)
    compiled, x = (
        torch.compile(net, fullgraph=True, backend="eager"),
        torch.rand(1, 3, 5, 5, requires_grad=True),
    )

    def gradient(model: nn.Module) -> torch.Tensor:
        return torch.autograd.grad(model(x).sum(), x)[0]

    ordinary = gradient(net)
    with linear_mode():
        linear = gradient(net)
    assert not torch.allclose(ordinary, linear)
    for _ in range(2):  # compiled for each mode once, then reused
        torch.testing.assert_close(gradient(compiled), ordinary)
        with linear_mode():
            torch.testing.assert_close(gradient(compiled), linear)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), net(x))


@pytest.mark.parametrize("name", ["conv, MaxOut", "linear", "bnu", "tokens", "gn"])
def test_function_transforms_see_the_same_map(name):
    layer = prepared(name)
    with linear_mode():
        jacobian = torch.func.jacrev(layer)(X)
    torch.testing.assert_close(jacobian.reshape(-1, *X.shape), parts(layer, X)[1], **EXACT)
