"""Adapters and parametrisations in the place of a layer's weights give what the merged network gives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import assert_close, images, network
from torch import Tensor, nn
from torch.nn.utils import prune

import bcos_zoo
from bcos_zoo.errors import InputError
from bcos_zoo.layers import BcosConv2d, BcosLinear, fast_ways

EXACT = dict(rtol=1e-11, atol=1e-13)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Lora(nn.Module):
    """An adapter written by hand: what the layer gives, and a low-rank path beside it."""

    def __init__(self, base: nn.Module, down: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.base, self.down, self.up, self.drop = base, down, up, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(self.drop(x)))


def lora(base: Any) -> tuple[Lora, Tensor]:
    """The adapter around a layer, and the weight of the layer that does the same."""
    if isinstance(base, nn.Linear):
        down, up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)
    else:
        down = nn.Conv2d(
            base.in_channels, 2, base.kernel_size, base.stride, base.padding, base.dilation,
            bias=False, padding_mode=base.padding_mode,
        )  # fmt: skip
        up = nn.Conv2d(2, base.out_channels, 1, bias=False)
    for i, inner in enumerate((down.double(), up.double())):
        inner.weight.data.copy_(random(*inner.weight.shape, seed=i + 5))
    merged = base.weight + (up.weight.flatten(1) @ down.weight.flatten(1)).view_as(base.weight)
    return Lora(base, down, up).double(), merged.detach()


CONVS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded and strided": dict(padding=1, stride=2),
    "widely padded": dict(padding=(4, 3), stride=(3, 2)),
    "dilated": dict(dilation=(2, 1), padding=1),
    "reflect": dict(padding=(1, 2), padding_mode="reflect"),
    "circular": dict(padding=2, padding_mode="circular", stride=2),
    "same": dict(padding="same", dilation=(1, 2)),
    "MaxOut": dict(max_out=2, padding=1),
    "as they are": dict(normalize=False, padding=1),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", [*CONVS, "tokens", "many tokens"])
def test_an_adapted_layer_gives_what_the_merged_layer_gives(case: str, training: bool) -> None:
    if case in CONVS:
        layer, x = BcosConv2d(3, 4, (3, 2), **CONVS[case]), random(2, 3, 8, 9)
    else:
        width = 5 if case == "tokens" else 1500  # more than unit patches shown at once
        layer, x = BcosLinear(width, 4), random(2, 7, width)
    layer = layer.double()
    adapted, merged = copy.deepcopy(layer), copy.deepcopy(layer)
    adapted.linear, merged.linear.weight.data = lora(adapted.linear)
    adapted.train(training).linear.drop.eval()
    for on in (True, False):
        with fast_ways(on):
            torch.testing.assert_close(adapted(x), merged(x), **EXACT)


def test_its_weights_learn_as_the_numerical_gradient_says_and_dropout_leaves_the_rows_alone() -> None:
    layer, x = BcosConv2d(2, 3, 2).double(), random(1, 2, 4, 4)
    layer.linear, merged = lora(layer.linear)
    layer.linear.drop.p = 0.0
    names = [name for name, _ in layer.named_parameters()]

    def forward(*weights: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), x)

    weights = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(forward, weights, fast_mode=True)
    layer.linear.drop.p, layer.b = 0.999, 1.0
    nothing = layer.train()(x)  # the path beside drops nearly all, but the rows keep their norms
    base = nn.functional.conv2d(x, layer.linear.base.weight)
    expected = base / merged.flatten(1).norm(dim=1)[:, None, None]
    dropped = (nothing - expected).abs() < 1e-9
    assert dropped.float().mean() > 0.5


def test_whoever_looks_into_an_adapter_sees_the_images_alone() -> None:
    layer, seen = BcosConv2d(2, 3, 3, padding=1).double(), []
    layer.linear = lora(layer.linear)[0]
    for module in layer.linear.modules():
        module.register_forward_hook(lambda m, args, y: seen.append(args[0].shape[0]))
    layer(random(2, 2, 5, 5))
    assert seen == [2] * 5


def test_what_adapts_no_convolution_is_refused_in_one_line() -> None:
    layer = BcosConv2d(2, 3, 3)
    layer.linear = nn.Flatten(2)
    with pytest.raises(InputError, match="Flatten stands in the place of a Conv2d and holds none"):
        layer(torch.rand(1, 2, 5, 5))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_parametrised_weight_counts_as_what_it_gives(legacy: bool) -> None:
    norm = nn.utils.weight_norm if legacy else nn.utils.parametrizations.weight_norm
    for layer, x in ((BcosConv2d(3, 4, 3), random(2, 3, 5, 5)), (BcosLinear(3, 4), random(2, 3))):
        plain = layer.double()
        layer = copy.deepcopy(plain)
        with pytest.warns(FutureWarning) if legacy else fast_ways(True):
            norm(layer.linear)
        for name, p in layer.named_parameters():
            if name.endswith(("original0", "weight_g")):
                p.data.mul_(torch.arange(1, 5).view(-1, *[1] * (p.ndim - 1)))  # lengths alone
        torch.testing.assert_close(layer(x), plain(x), **EXACT)
        layer(x).sum().backward()
        assert all(p.grad is not None for p in layer.parameters())


def test_a_pruned_weight_counts_as_what_is_left() -> None:
    plain, x = BcosConv2d(3, 4, 3).double(), random(2, 3, 5, 5)
    layer = copy.deepcopy(plain)
    prune.l1_unstructured(layer.linear, "weight", amount=0.5)
    plain.linear.weight.data.mul_(layer.linear.weight_mask)
    torch.testing.assert_close(layer(x), plain(x), **EXACT)


@pytest.mark.parametrize(
    "name", [pytest.param("bcos_resnet20", marks=pytest.mark.slow), "bcos_vitc_ti_patch1_14"]
)
def test_adapters_of_peft_give_what_the_merged_network_gives_and_stay_explained(name: str) -> None:
    peft = pytest.importorskip("peft")
    model = network(name, mean=0.1).double()
    x = images(2, like=model).double()
    before = model(x)
    targets = ["to_qkv", "to_out.linear"] if "vit" in name else ["conv1.linear", "conv2.linear"]
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, lora_dropout=0.1))
    generator = torch.Generator().manual_seed(0)
    for key, p in adapted.named_parameters():
        if "lora_" in key:
            p.data.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.1)
    adapted = adapted.eval()
    got, explanation = adapted(x).detach(), bcos_zoo.explain(adapted, x, [3, 5])
    assert (got - before).abs().max() > 1e-3
    merged = adapted.merge_and_unload()
    assert_close(got, merged(x).detach(), 1e-9)
    assert_close(explanation.weights, bcos_zoo.explain(merged, x, [3, 5]).weights, 1e-9)
    explained = explanation.logits.gather(1, explanation.targets) - explanation.bias
    assert_close(explanation.contributions.sum((-1, -2)), explained, 1e-6)
