"""DenseNet's shortcuts change nothing: the folded first norms, and the recomputed bottlenecks."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from conftest import assert_close, gap, images, network, random_state

import bcos_zoo
from bcos_zoo.layers import LayerSpec
from bcos_zoo.models.bcos_densenet import BcosDenseNet, DenseLayer


@pytest.fixture(scope="module")
def model():
    net = BcosDenseNet(4, (3, 2), stem_width=8, bn_size=2, num_classes=5)
    return random_state(net).double()


def unfolded(model):
    """The same network, in which somebody looks at every first norm, so that each runs by itself."""
    model = copy.deepcopy(model)
    seen = []
    for module in model.modules():
        if isinstance(module, DenseLayer):
            module.norm1.register_forward_hook(lambda *_: seen.append(1))
    return model, seen


def test_folding_the_first_norm_of_each_layer_changes_nothing(model):
    x = images(2, like=model).double()
    plain, seen = unfolded(model)
    with torch.no_grad():
        assert_close(model(x), plain(x), 1e-12)
    assert len(seen) == 5
    explanations = [bcos_zoo.explain(one, x, [0, 3]) for one in (model, plain)]
    assert len(seen) == 10
    assert_close(explanations[0].weights, explanations[1].weights, 1e-12)
    assert gap(explanations[0]) < 1e-9


@pytest.mark.parametrize("options", [{"b": 1.5}, {"max_out": 2}, {"norm": "bn"}, {"act": "relu"}])
def test_what_cannot_be_folded_is_as_exact(options):
    net = BcosDenseNet(4, (3, 2), stem_width=8, num_classes=5, spec=LayerSpec(**options))
    model = random_state(net).double()
    x = images(2, like=model).double()
    with torch.no_grad():
        assert_close(model(x), unfolded(model)[0](x), 1e-12)
    assert gap(bcos_zoo.explain(model, x, [0, 1])) < 1e-9


def test_a_gradient_reaches_the_weights_and_the_first_norms_in_eval_mode(model):
    model = copy.deepcopy(model)
    model(images(1, like=model).double()).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_half_precision_does_not_overflow_the_shared_sums_of_squares(model):
    model, x, scale = copy.deepcopy(model).float(), images(2, like=model), 100.0
    expected = model(x)
    model.features.norm0.weight.data.mul_(scale)  # squares of what comes out are beyond float16
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        got = model(x)
    bias = model.logits.bias
    assert_close((got.float() - bias) / scale, expected.detach() - bias, 0.1)


@pytest.mark.parametrize("switch", ["argument", "method"])
def test_memory_efficient_training_gives_the_same_gradients(switch):
    torch.manual_seed(0)
    plain = timm.create_model("bcos_densenet52").train()
    saving = timm.create_model("bcos_densenet52", memory_efficient=switch == "argument").train()
    if switch == "method":
        saving.set_grad_checkpointing()
    saving.load_state_dict(plain.state_dict())
    x = images(2, like=plain)
    for model in (plain, saving):
        model(x).square().sum().backward()
    for ours, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, 1e-4)


def test_memory_efficient_training_keeps_less():
    kept = []
    for efficient in (False, True):
        model = timm.create_model("bcos_densenet52", memory_efficient=efficient).train()
        sizes = {}  # storages that the backward pass needs, by address

        def pack(x, sizes=sizes):
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = model(images(2, like=model))
        kept.append(sum(sizes.values()))
        del out
    assert kept[1] < 0.75 * kept[0]


def test_dropout_acts_in_training_only():
    model = network("bcos_densenet52", drop_rate=0.5)
    x = images(2, like=model)
    torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)
    model.train()
    assert not torch.equal(model(x), model(x))
