"""Units inside a network, other outputs than logits, bounded memory, and explanations to train with."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from conftest import assert_close, images, network
from torch import nn

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.explanations.units import activations
from bcos_zoo.layers import BcosConv2d, BcosLinear, Encode, LogitLayer

LAYERS = [  # one of each kind of layer
    ("bcos_resnet20", "conv1"),
    ("bcos_resnet20", "layer3.1.conv2"),
    ("bcos_resnet20", "layer2.0.bn1"),
    ("bcos_resnet20", "layer1"),
    ("bcos_resnet20", "fc"),
    ("bcos_resnet20", "logits"),
    ("bcos_densenet52", "features.denseblock1.denselayer2.conv1"),
    ("bcos_convnext_atto", "features.2.0.block.1"),
    ("bcos_plain9", "4"),
    ("bcos_inception_v3", "Mixed_5c"),
    ("bcos_resnet50_clip", "attnpool"),
    ("bcos_simple_vit_ti_patch16_224", "to_patch_embedding.linear"),
    ("bcos_simple_vit_ti_patch16_224", "transformer.encoder_2.attn"),
    ("bcos_simple_vit_ti_patch16_224", "transformer.encoder_1.ff.net.norm"),
    ("bcos_simple_vit_ti_patch16_224", "linear_head.norm"),
    ("bcos_vitc_ti_patch1_14", "to_patch_embedding.conv_stem.1"),
]


@pytest.mark.parametrize("name, layer", LAYERS)
def test_the_map_to_a_unit_gives_its_activation_less_its_bias(name: str, layer: str) -> None:
    model = network(name).double()
    x = images(2, like=model).double()
    seen: list[Any] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        model(x)
    handle.remove()
    units_last = seen[0].ndim == 3 or "embedding.linear" in layer
    expected = seen[0][..., 1] if units_last else seen[0][:, 1]
    explanation = bcos_zoo.explain_unit(model, x, layer, 1)
    expected = expected.reshape(2, -1).mean(1)
    assert_close(explanation.logits[:, 0], expected, 1e-9)
    assert_close(activations(model, x, layer, 1), expected, 1e-12)
    explained = explanation.contributions.sum((-1, -2)) + explanation.bias
    assert_close(explained, explanation.logits, 1e-9)
    assert not [m for m in model.modules() if m._forward_hooks]


def test_a_position_is_one_place_of_the_map_and_the_mean_is_over_all(small: Any) -> None:
    model, x = small.double(), images(1, 32, 32).double()
    each = [
        bcos_zoo.explain_unit(model, x, "layer3", 5, position=(row, column)).weights
        for row in range(8)
        for column in range(8)
    ]
    mean = bcos_zoo.explain_unit(model, x, "layer3", 5)
    assert_close(torch.stack(each).mean(0), mean.weights, 1e-9)
    assert mean.labels == (("layer3[5]",),)
    corner = each[0]
    assert corner[..., :4, :4].abs().sum() > corner[..., -4:, -4:].abs().sum()


def test_a_unit_sees_no_further_than_its_receptive_field(small: Any) -> None:
    weights = bcos_zoo.explain_unit(small, images(1, 32, 32), "conv1", 0, position=(10, 20)).weights[0, 0]
    seen = weights.abs().sum(0).nonzero()
    assert seen.amin(0).tolist() == [9, 19] and seen.amax(0).tolist() == [11, 21]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("layer3.1.conv9", 0), "no layer named 'layer3.1.conv9'; closest: layer3.1.conv2"),
        (("layer3.1.conv2", 64), "unit 64 is not in layer3.1.conv2; allowed are 0 to 63"),
    ],
)
def test_a_unit_that_is_not_there_is_refused(small: Any, arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bcos_zoo.explain_unit(small, images(), *arguments)


@pytest.mark.parametrize("position", [(8, 0), (0,), 3, (-1, 0)])
def test_a_position_that_is_not_there_is_refused(small: Any, position: Any) -> None:
    with pytest.raises(InputError, match="is not in layer3, a map of .8, 8.; None averages"):
        bcos_zoo.explain_unit(small, images(1, 32, 32), "layer3", 0, position=position)


def test_activations_are_asked_for_as_explanations_are(small: Any) -> None:
    with pytest.raises(InputError, match="no layer named 'layer9'; closest: layer"):
        activations(small, images(), "layer9", 0)
    with pytest.raises(InputError, match="in training mode"):
        activations(small.train(), images(), "layer1", 0)
    small.eval()
    with pytest.raises(InputError, match="leave out mean/std normalisation"):
        activations(small, images() - 2, "layer1", 0)
    expected = activations(small, images(), "layer1", 0)
    assert_close(activations(small.double(), images(), "layer1", 0).float(), expected, 1e-4)


def test_four_threads_ask_about_a_unit_of_one_model_at_once(shared: Any) -> None:
    batches = [images(1, 17, 15, seed=seed) for seed in range(4)]
    alone = [bcos_zoo.explain_unit(shared, x, "layer2.0.conv1", 3) for x in batches]
    start = threading.Barrier(4)

    def work(n: int) -> list[Any]:
        start.wait()
        return [bcos_zoo.explain_unit(shared, batches[n], "layer2.0.conv1", 3) for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        for together, expected in zip(pool.map(work, range(4)), alone, strict=True):
            assert all(torch.equal(one.weights, expected.weights) for one in together)


@pytest.mark.parametrize("output", ["relative", "sigmoid"])
def test_other_outputs_are_explained_as_exactly(shared: Any, output: str) -> None:
    x = images()
    logits = shared(x).detach()
    expected = logits.sigmoid() if output == "sigmoid" else logits - logits.mean(1, keepdim=True)
    explanation = bcos_zoo.explain(shared, x, [0, 3], output=output)
    assert_close(explanation.logits, expected, 1e-5)
    assert explanation.completeness().abs().max() < 1e-5


def test_the_probability_of_a_logit_of_zero_is_explained_by_a_quarter_of_it(small: Any) -> None:
    x = images(1)
    whole = bcos_zoo.explain(small, x, 0)
    small.logits.bias -= float(whole.logits[0, 0])
    assert_close(bcos_zoo.explain(small, x, 0, output="sigmoid").weights, whole.weights / 4, 1e-3)


def test_an_unknown_output_is_refused(shared: Any) -> None:
    with pytest.raises(InputError, match="output='argmax': allowed are logit, relative, sigmoid"):
        bcos_zoo.explain(shared, images(), output="argmax")


@pytest.mark.parametrize("targets", [None, 3, [1, 2], torch.tensor([4, 5, 6, 7, 8])])
def test_images_explained_a_few_at_a_time_are_the_same(shared: Any, targets: Any) -> None:
    x, seen = images(5), []
    handle = shared.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    expected = bcos_zoo.explain(shared, x, targets)
    got = bcos_zoo.explain(shared, x, targets, max_batch=2)
    handle.remove()
    assert seen == [5, 2, 2, 1]
    for field in ("logits", "targets", "weights", "contributions", "bias"):
        assert_close(getattr(got, field).float(), getattr(expected, field).float(), 1e-5)
    assert got.labels == expected.labels


def test_a_batch_of_no_images_is_refused(shared: Any) -> None:
    with pytest.raises(InputError, match="max_batch=0: allowed are integers, 1 and more"):
        bcos_zoo.explain(shared, images(), max_batch=0)


@pytest.mark.parametrize("max_batch", [None, 2])
@pytest.mark.parametrize("targets", [torch.tensor([1, 2]), torch.tensor([[1, 2, 3]] * 2)])
def test_targets_of_fewer_images_are_refused_even_where_they_fit_a_part(
    shared: Any, targets: torch.Tensor, max_batch: int | None
) -> None:
    with pytest.raises(InputError, match=r"; for 4 images allowed are \(4,\) and \(4, T\)"):
        bcos_zoo.explain(shared, images(4), targets, max_batch=max_batch)


def test_the_contributions_of_patches_are_those_of_their_pixels(shared: Any) -> None:
    explanation = bcos_zoo.explain(shared, images(2, 32, 48), [0, 1])
    patches = explanation.patches((8, 16))
    assert patches.shape == (2, 2, 4, 3)
    assert_close(patches[0, 1, 3, 2], explanation.contributions[0, 1, 24:, 32:].sum(), 1e-5)
    assert_close(patches.sum((-1, -2)), explanation.contributions.sum((-1, -2)), 1e-5)
    with pytest.raises(InputError, match="32x48 pixels do not divide into patches of 5x5"):
        explanation.patches(5)


class Tiny(nn.Module):
    """A network of one's own, of our layers. b of 1.5 and 2, convolution and fully connected."""

    def __init__(self, inside: nn.Module | None = None) -> None:
        super().__init__()
        self.encode = Encode()
        self.conv = BcosConv2d(6, 4, 3, stride=2, b=2)
        self.inside = inside or nn.Identity()
        self.linear = BcosLinear(4, 3, b=1.5)
        self.logits = LogitLayer(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits(self.linear(self.inside(self.conv(self.encode(x))).mean((2, 3))))


def tiny(inside: nn.Module | None = None) -> Any:
    torch.manual_seed(0)
    return Tiny(inside).double().eval()


def test_explanations_have_correct_gradients_of_their_own() -> None:
    model = tiny()
    x = images(1, 5, 5).double().mul(0.8).add(0.1).requires_grad_()

    def contributions(x: torch.Tensor, conv: torch.Tensor, linear: torch.Tensor) -> torch.Tensor:
        state = {"conv.linear.weight": conv, "linear.linear.weight": linear}
        return torch.func.functional_call(Explained(model), {f"model.{k}": v for k, v in state.items()}, (x,))

    class Explained(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model
            self.eval()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            explanation = bcos_zoo.explain(self.model, x, [0, 2], create_graph=True)
            return torch.cat([explanation.contributions.flatten(), explanation.weights.flatten()])

    weights = [model.conv.linear.weight.detach(), model.linear.linear.weight.detach()]
    inputs = (x, *(weight.clone().requires_grad_() for weight in weights))
    assert torch.autograd.gradcheck(contributions, inputs)


@pytest.mark.parametrize("name", ["bcos_resnet20", "bcos_densenet52", "bcos_simple_vit_ti_patch16_224"])
def test_an_explanation_with_a_graph_is_the_same_and_reaches_the_weights(name: str) -> None:
    model = network(name).double()
    x = images(2, like=model).double()
    plain = bcos_zoo.explain(model, x, [0, 1])
    explanation = bcos_zoo.explain(model, x, [0, 1], create_graph=True)
    for field in ("logits", "weights", "contributions", "bias"):
        assert_close(getattr(explanation, field), getattr(plain, field), 1e-9)
    explanation.contributions.square().sum().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_the_gradient_of_an_explanation_is_that_of_a_finite_difference() -> None:
    """Through a whole ResNet: one direction in the space of its weights."""
    model = network("bcos_resnet20").double()
    x = images(1, 16, 16).double()

    def score(network: Any, create_graph: bool = False) -> torch.Tensor:
        explanation = bcos_zoo.explain(network, x, 0, create_graph=create_graph)
        return explanation.contributions[..., :8, :].square().sum()

    score(model, create_graph=True).backward()
    moved, step, expected = copy.deepcopy(model), 1e-7, 0.0  # |cos| has a kink: a larger step meets it
    generator = torch.Generator().manual_seed(0)
    sides = []
    directions = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.detach().abs().mean()
        for p in model.parameters()
    ]
    for sign in (1, -1):
        for p, own, direction in zip(moved.parameters(), model.parameters(), directions, strict=True):
            p.data = own.data + sign * step * direction
        sides.append(float(score(moved).detach()))
    for p, direction in zip(model.parameters(), directions, strict=True):
        expected += float((p.grad * direction).sum())
    assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(expected, rel=1e-3)


def test_a_graph_through_a_copy_of_another_dtype_is_refused(small: Any) -> None:
    with pytest.raises(InputError, match="the model is of torch.bfloat16 and would be explained in a copy"):
        bcos_zoo.explain(small.bfloat16(), images(), create_graph=True)
    with torch.inference_mode():
        made_there = network("bcos_resnet20")
    with pytest.raises(InputError, match="whose weights have no graph; .* made outside inference mode"):
        bcos_zoo.explain(made_there, images(), create_graph=True)


def test_what_is_not_linear_is_not_glossed_over() -> None:
    model = tiny(nn.Softplus())
    with pytest.warns(
        UserWarning, match="of an output is not explained: the model has parts that are not linear"
    ) as caught:
        explanation = bcos_zoo.explain(model, images(1).double(), 0)
    assert explanation.completeness().abs().max() > 1e-3
    assert caught[0].filename == __file__  # it points at who asked


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_not_glossed_over(small: Any, value: float) -> None:
    with torch.no_grad():
        small.layer1[0].conv1.linear.weight[0, 0] = value
    with pytest.warns(UserWarning, match="holds NaN or infinity, which explains nothing"):
        bcos_zoo.explain(small, images(1), 0)


def test_a_network_of_ones_own_is_explained() -> None:
    explanation = bcos_zoo.explain(tiny(), images().double())
    assert explanation.completeness().abs().max() < 1e-12 < explanation.contributions.abs().sum()


def test_a_wrapped_network_is_explained_as_the_one_inside(shared: Any) -> None:
    x = images()
    for wrapped in (torch.compile(shared), nn.DataParallel(shared)):
        assert_close(bcos_zoo.explain(wrapped, x).weights, bcos_zoo.explain(shared, x).weights, 1e-6)


@pytest.mark.parametrize("count", [250, pytest.param(1000, marks=pytest.mark.slow)])
def test_memory_stays_flat_over_many_explanations(count: int) -> None:
    """Resident memory, in a process of its own.

    Not `ru_maxrss`, which begins with that of the process that starts it.
    """
    code = (
        "import torch, timm, bcos_zoo\n"
        "model = timm.create_model('bcos_resnet20').eval()\n"
        "x = torch.rand(1, 3, 16, 16)\n"
        "def peak(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "for _ in range(50): bcos_zoo.explain(model, x, [0, 1])\n"
        "before = peak()\n"
        f"for _ in range({count - 50}): bcos_zoo.explain(model, x, [0, 1])\n"
        "print(peak() - before)\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert int(run.stdout) < 30_000  # KiB; one explanation's graph is about 2 MB
