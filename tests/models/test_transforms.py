"""Networks under torch.func, on tensor subclasses, traced and with adapters give what they give plainly."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from conftest import assert_close, images, network, random_state, smallest_of_each_family
from test_nobody_notices import FAMILIES
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, stack_module_state, vmap

import bcos_zoo
from bcos_zoo.layers import LayerSpec, linear_mode

# Said by torch of its own jvp.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
NAMES = [pytest.param(name, marks=pytest.mark.slow) for name in smallest_of_each_family()]
TINY = list(FAMILIES)


def made(name: str, seed: int = 0, **spec: Any) -> Any:
    """A tiny network of that family, or the registered one, in float64."""
    if name not in FAMILIES:
        return network(name, seed=seed, mean=0.1).double()
    norm = {"vit": "ln", "convnext": "pn"}.get(name, "bnu")
    return random_state(FAMILIES[name](LayerSpec(**{"norm": norm, **spec})), seed, mean=0.1).double()


def given(model: Any, n: int = 2) -> Tensor:
    return images(n, like=model).double()


@pytest.mark.parametrize("name", [*TINY, *NAMES])
def test_vmap_over_images_gives_the_batch(name: str) -> None:
    model = made(name)
    x = given(model)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            assert_close(vmap(lambda z: model(z[None])[0])(x).detach(), model(x).detach(), 1e-9)


@pytest.mark.parametrize("name", [*TINY, *NAMES])
def test_the_jacobian_in_linear_mode_is_the_explanation(name: str) -> None:
    model = made(name)
    x, classes = given(model, 1), 3
    weights = bcos_zoo.explain(model, x, list(range(classes))).weights[0]
    plain, inverted = weights.chunk(2, 1)  # of an image c and its inverse 1 - c
    with linear_mode():
        backward = jacrev(lambda z: model(z)[0, :classes])(x)[:, 0]
        tangent = torch.rand(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
        y, forward = jvp(lambda z: model(z)[0, :classes], (x,), (tangent,))
        linear = vmap(lambda z: model(z[None])[0])(x)
    assert_close(backward, plain - inverted, 1e-9)
    assert_close(forward, ((plain - inverted) * tangent).flatten(1).sum(1), 1e-9)
    assert_close(y.detach(), model(x)[0, :classes].detach(), 1e-9)
    assert_close(linear.detach(), model(x).detach(), 1e-9)


@pytest.mark.parametrize("name", [*TINY, *NAMES])
def test_out_of_linear_mode_forward_and_backward_derivatives_agree(name: str) -> None:
    model = made(name)
    x = given(model, 1)
    tangent = torch.rand(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    _, forward = jvp(lambda z: model(z)[0], (x,), (tangent,))
    leaf = x.clone().requires_grad_()
    for c, expected in enumerate(forward[:2].tolist()):
        (gradient,) = torch.autograd.grad(model(leaf)[0, c], leaf)
        assert float((gradient * tangent).sum()) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("name", [*TINY, *NAMES])
def test_an_ensemble_of_stacked_networks_gives_what_each_does(name: str) -> None:
    models = [made(name, seed) for seed in (0, 1)]
    x = given(models[0])
    for one in models[1:]:  # constants that are no state
        for mine, first in zip(one.modules(), models[0].modules(), strict=True):
            if hasattr(mine, "temperature"):
                mine.temperature = first.temperature
    expected = torch.stack([model(x) for model in models])
    state = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    assert_close(vmap(lambda p, b: functional_call(base, (p, b), (x,)))(*state), expected, 1e-9)


class Picture(torch.Tensor):
    """As fastai's: a subclass that stays one through every function, with constructors of its own."""

    def new_ones(self, data: Any, dtype: Any = None, device: Any = None) -> Any:  # type: ignore[override]
        return super().new_tensor(data, dtype=dtype, device=device)

    new_zeros = new_full = new_empty = new_ones  # type: ignore[assignment]


@pytest.mark.parametrize("name", [*TINY, *NAMES])
def test_a_subclass_of_tensor_goes_through_and_stays_one(name: str) -> None:
    model = made(name)
    x = given(model)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            y = model(x.as_subclass(Picture))
        assert type(y) is Picture
        assert_close(y.detach().as_subclass(Tensor), model(x).detach(), 1e-9)
    plain = bcos_zoo.explain(model, x)
    assert_close(
        bcos_zoo.explain(model, x.as_subclass(Picture)).weights.as_subclass(Tensor), plain.weights, 1e-9
    )


@pytest.mark.parametrize("name", [*TINY, *NAMES])
@pytest.mark.filterwarnings("ignore")  # of jit as such
def test_a_trace_made_with_gradients_on_passes_its_own_check(name: str) -> None:
    model = made(name)
    x = given(model)
    traced = torch.jit.trace(model, x)  # it checks without gradients
    with torch.no_grad():
        assert_close(traced(x), model(x), 1e-9)


@pytest.mark.parametrize("name", [*TINY, *NAMES])
def test_torchvisions_feature_extractor_takes_layers(name: str) -> None:
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    model = made(name)
    x, seen = given(model), {}
    nodes = get_graph_node_names(model)[1]
    calls = dict(model.named_modules())
    wanted = [node for node in nodes if node in calls and type(calls[node]).__name__.startswith("Bcos")][-2:]
    for node in wanted:
        calls[node].register_forward_hook(lambda m, args, y, node=node: seen.update({node: y.clone()}))
    expected = model(x)
    extractor = create_feature_extractor(model, {**{node: node for node in wanted}, nodes[-1]: "logits"})
    got = extractor(x)
    assert len(wanted) == 2
    for node in wanted:
        assert_close(got[node].detach(), seen[node].detach(), 1e-9)
    assert_close(got["logits"].detach(), expected.detach(), 1e-9)


@pytest.mark.parametrize("name", TINY)
def test_the_layout_of_maps_does_not_follow_the_gradient_mode(name: str) -> None:
    model, strides = made(name), []
    x = given(model)
    inside: list[Any] = []
    layer = next(m for m in model.modules() if type(m).__name__ == "BcosConv2d" or hasattr(m, "to_qkv"))
    layer.register_forward_hook(lambda m, args, y: inside.append((y.shape, y.stride())))
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            maps = [model.forward_features(x), *model.forward_intermediates(x, intermediates_only=True)]
        strides.append([one.stride() for one in maps])
        assert name == "vit" or all(one.is_contiguous() for one in maps)
    assert strides[0] == strides[1] and len({s for _, s in inside}) == 1


@pytest.mark.parametrize("name", [*TINY, *NAMES])
def test_what_a_layer_gave_stays_as_it_was(name: str) -> None:
    model = made(name)
    x = given(model)
    for grad in (False, True):
        kept: list[Any] = []
        looks = [
            m.register_forward_hook(lambda m, args, y, kept=kept: kept.append((m, y, y.clone())))
            for m in model.modules()
            if type(m) is not nn.Identity
        ]
        with torch.set_grad_enabled(grad):
            model(x)
        assert len(kept) >= 5
        assert not [type(m).__name__ for m, y, copied in kept if not torch.equal(y, copied)]
        for look in looks:
            look.remove()


def test_timm_knows_the_smallest() -> None:
    assert all(timm.is_model(param.values[0]) for param in NAMES)
