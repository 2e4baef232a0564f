"""What is frozen stays as it is, to the bit; what learns has the rate and the decay it should have."""

import copy
import itertools
from dataclasses import replace
from functools import cache

import pytest
import timm
import torch
from conftest import by_size, smallest_of_each_family
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.layers import BcosConv2d, BcosLinear
from bcos_zoo.training import parameters
from bcos_zoo.training.optimization import make_optimizer, make_schedule
from bcos_zoo.training.parameters import clip_adaptively, freeze, groups, layer_names, set_training
from bcos_zoo.training.recipe import Optimizer

FAMILIES = {  # arguments that make it small, pixels of a small image, and a layer in the middle
    "bcos_resnet20": ({}, 16, "layer2.1"),
    "bcos_densenet52": ({}, 16, "features.denseblock2"),
    "bcos_simple_vit_ti_patch16_224": (dict(depth=6), 32, "transformer.encoder_3"),
    "bcos_convnext_atto": ({}, 32, "features.5"),
    "resnet18": ({}, 32, "layer3"),
    "vit_tiny_patch16_224": (dict(depth=6, img_size=32), 32, "blocks.3"),
}
LARGE = {
    "bcos_vgg11_bnu": ({}, 32, "features.8"),
    "bcos_inception_v3": ({}, 96, "Mixed_6c"),
}
EVERY = [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
PLAIN = dict(lr=0.1, weight_decay=0.05, layer_decay=None, head_lr=None)


def settings(name):
    return (FAMILIES | LARGE)[name]


@cache
def original(name):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=3, **settings(name)[0])


def make(name):
    return copy.deepcopy(original(name))


def head_names(model):
    head = {id(p) for p in model.get_classifier().parameters()}
    return {name for name, p in model.named_parameters() if id(p) in head}


def changed_by_a_step(model, size):
    """Names of the parameters and buffers that a training step changes."""
    optimizer = create_optimizer_v2(groups(model, **PLAIN), opt="sgd", lr=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    set_training(model)
    model(torch.rand(2, 3, size, size)).square().sum().backward()
    optimizer.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("name", EVERY)
def test_a_linear_probe_changes_the_classifier_alone(name):
    model = make(name)
    freeze(model, "head")
    assert changed_by_a_step(model, settings(name)[1]) == head_names(model)


@pytest.mark.parametrize("name", EVERY)
def test_a_layer_and_what_comes_after_it_learn_and_what_is_before_does_not(name):
    _, size, layer = settings(name)
    model = make(name)
    known = [n for n in layer_names(model) if not any(m.startswith(f"{n}.") for m in layer_names(model))]
    first = next(i for i, n in enumerate(known) if n == layer or n.startswith(f"{layer}."))
    freeze(model, f"from:{layer}")
    changed = changed_by_a_step(model, size)
    for index, part in enumerate(known):
        state = {n for n in model.state_dict() if n.startswith(f"{part}.")}
        weights = {n for n, _ in model.named_parameters() if n in state}
        assert changed.isdisjoint(state) if index < first else changed & weights


@pytest.mark.parametrize("name", EVERY)
def test_everything_learns_unless_told_otherwise(name):
    model = make(name)
    freeze(model, "full")
    assert all(p.requires_grad for p in model.parameters())
    set_training(model)
    assert all(module.training for module in model.modules())


def test_what_an_architecture_keeps_fixed_is_not_thawed():
    model = make("bcos_resnet20")
    model.conv1.requires_grad_(False)
    for train in ("full", "from:conv1"):
        freeze(model, train)
        assert not any(p.requires_grad for p in model.conv1.parameters())


def test_a_layer_inside_a_block_of_a_densenet_learns_from_there():
    model = make("bcos_densenet52")
    freeze(model, "from:features.denseblock2.denselayer3")
    learns = {name.rsplit(".", 3)[0] for name, p in model.named_parameters() if p.requires_grad}
    assert "features.denseblock2.denselayer3" in learns and "features.denseblock3.denselayer1" in learns
    assert "features.denseblock2.denselayer2" not in learns


@pytest.mark.parametrize("name", EVERY)
def test_layers_are_named_in_the_order_in_which_the_network_runs_through_them(name):
    model, called = make(name).eval(), []
    names = layer_names(model)
    for part in names:
        model.get_submodule(part).register_forward_hook(lambda *_, part=part: called.append(part))
    size = settings(name)[1]
    with torch.no_grad():
        model(torch.rand(1, 3, size, size))
    ends = [n for n in names if not any(m.startswith(f"{n}.") for m in names)]
    assert [n for n in called if n in ends] == ends


def test_frozen_blocks_drop_nothing_out_and_the_others_do():
    model = timm.create_model("bcos_resnet20", num_classes=3, drop_path_rate=0.5)
    freeze(model, "from:layer3")
    set_training(model)
    assert model.training and not model.layer2[2].drop_path.training and model.layer3[2].drop_path.training
    model.eval()
    set_training(model)
    assert model.layer3.training and not model.layer2.training


def test_the_auxiliary_head_of_an_inception_learns_where_its_features_do():
    for layer, learns in (("Mixed_6d", True), ("Mixed_7a", False)):
        model = timm.create_model("bcos_inception_v3", num_classes=3, aux_logits=True)
        freeze(model, f"from:{layer}")
        assert all(p.requires_grad == learns for p in model.AuxLogits.parameters())


def weights_of_layers(model):
    """By role, not by shape: what multiplies a patch or a token."""
    layers = (torch.nn.Conv2d, torch.nn.Linear)
    return {id(m.weight) for m in model.modules() if isinstance(m, layers)}


@pytest.mark.parametrize("name", by_size([*smallest_of_each_family(), "bcos_vitc_ti_patch1_14"]))
def test_weight_decay_takes_the_weights_of_layers_alone_whoever_makes_the_groups(name):
    model = timm.create_model(name)
    by_timm = create_optimizer_v2(model, opt="adamw", weight_decay=0.05, filter_bias_and_bn=True).param_groups
    with_decay = create_optimizer_v2(model, opt="adamw", weight_decay=0.05, layer_decay=0.7).param_groups
    for made in (by_timm, with_decay, groups(model, **PLAIN), groups(model, **PLAIN | dict(layer_decay=0.7))):
        decayed = {id(p) for group in made if group["weight_decay"] for p in group["params"]}
        assert decayed == weights_of_layers(model)


@pytest.mark.parametrize("shape", [(8,), (8, 1, 1), (1, 8, 1, 1), (1, 1, 8)])
def test_adaptive_clipping_takes_a_gain_of_any_shape_as_one_row(shape):
    model = torch.nn.Module()
    model.gain = torch.nn.Parameter(torch.linspace(1, 2, 8).reshape(shape))
    model.layer = torch.nn.Linear(3, 2)
    gradient = torch.linspace(-3, 5, 8)
    model.gain.grad = gradient.reshape(shape).clone()
    model.layer.weight.grad = torch.tensor([[1e-4, 0, 0], [3.0, 4.0, 0]])
    clip_adaptively(model, 0.01)
    limit = 0.01 * torch.linspace(1, 2, 8).square().sum().sqrt()  # of the whole, as Brock et al. 2021
    expected = gradient * limit / gradient.square().sum().sqrt()
    torch.testing.assert_close(model.gain.grad, expected.reshape(shape))
    rows = 0.01 * model.layer.weight.detach().square().sum(1).sqrt()
    torch.testing.assert_close(model.layer.weight.grad[1], torch.tensor([0.6, 0.8, 0]) * rows[1])
    assert model.layer.weight.grad[0].tolist() == pytest.approx([1e-4, 0, 0])


@pytest.mark.parametrize("train", ["full", "head", "from"])
@pytest.mark.parametrize("name", EVERY)
def test_every_weight_that_learns_is_in_one_group_and_only_those(name, train):
    model = make(name)
    freeze(model, f"from:{settings(name)[2]}" if train == "from" else train)
    spared = getattr(model, "no_weight_decay", set)()
    for head_lr, layer_decay in itertools.product((None, 1.0), (None, 0.7)):
        made = groups(model, **PLAIN | dict(head_lr=head_lr, layer_decay=layer_decay))
        grouped = [id(p) for group in made for p in group["params"]]
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}
        decay = {id(p): group["weight_decay"] for group in made for p in group["params"]}
        for key, p in model.named_parameters():
            if p.requires_grad:
                assert decay[id(p)] == (0 if p.ndim <= 1 or key in spared else 0.05), key


@pytest.mark.parametrize("schedule", ["none", "constant"])
def test_rates_by_layer_hold_without_a_schedule_too(schedule):
    part = Optimizer(lr=0.1, head_lr=0.5, relative=True, layer_decay=0.5, schedule=schedule)
    model = make("bcos_resnet20")
    optimizer = make_optimizer(model, part)
    set_rates = make_schedule(optimizer, part, epochs=2, steps=3)
    set_rates(0)
    set_rates(4)
    of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: of[id(p)] for name, p in model.named_parameters()}
    assert found == pytest.approx(rates(model, head_lr=0.5, relative=True, layer_decay=0.5))


def rates(model, **options):
    """Rate of each parameter after the schedule is set up, as timm's scheduler multiplies it."""
    optimizer = create_optimizer_v2(groups(model, **PLAIN | options), opt="adam", lr=0.1)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=10, updates_per_epoch=1)
    scheduler.step(0)
    of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters() if id(p) in of}


@pytest.mark.parametrize("name", EVERY)
def test_the_rate_decays_from_the_classifier_to_the_first_layer(name):
    model = make(name)
    found = rates(model, layer_decay=0.5)
    ends = [n for n in layer_names(model) if not any(m.startswith(f"{n}.") for m in layer_names(model))]
    by_layer = [{rate for key, rate in found.items() if key.startswith(f"{part}.")} for part in ends]
    assert all(max(a) <= min(b) for a, b in zip(by_layer, by_layer[1:], strict=False))
    assert by_layer[-1] == {0.1}
    exponents = torch.tensor([rate / 0.1 for rate in found.values()], dtype=torch.float64).log2()
    levels = exponents.round().unique()
    torch.testing.assert_close(exponents, exponents.round())
    assert torch.equal(levels, torch.arange(levels[0], 1, dtype=torch.float64))  # no level is skipped
    assert len(levels) > 5


@pytest.mark.parametrize("name", ["bcos_resnet20", "bcos_convnext_atto", "resnet18"])
def test_relative_rates_turn_all_rows_alike_and_leave_nothing_behind(name):
    """A first step of Adam moves each element by its rate, so a weight of size s by rate * s if relative."""
    model = make(name)
    torch.nn.init.zeros_(next(p for p in model.parameters() if p.ndim == 1))  # it must be able to leave zero
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = create_optimizer_v2(
        groups(model, **PLAIN | dict(relative=True, weight_decay=0)), opt="adam", lr=0.1
    )
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=10, updates_per_epoch=1)
    scheduler.step(0)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for key, p in model.named_parameters():
        size = max(before[key].square().mean().sqrt().item(), 0.01)
        moved = (before[key] - p.detach()).square().mean().sqrt().item()
        assert moved == pytest.approx(0.1 * size, rel=0.06), key  # sizes have two digits
    head = next(iter(head_names(model)))
    faster = rates(model, relative=True, head_lr=0.5)[head] / rates(model, relative=True)[head]
    assert faster == pytest.approx(5)


@pytest.mark.parametrize(
    "name, decay, args, fits",
    [
        ("adam", 0.0, {}, True),
        ("adamw", 0.05, {}, True),
        ("lion", 0.05, {}, True),
        ("sgd", 0.05, {"momentum": 0.9}, True),
        ("adopt", 0.0, {}, True),  # whose first step is none
        ("lamb", 0.0, {}, True),  # timm's has a trust ratio only with weight decay
        ("lamb", 0.05, {}, False),
        ("lamb", 0.0, {"always_adapt": True}, False),
        ("lars", 0.05, {}, False),
        ("muon", 0.0, {}, True),  # timm's steps are as long as Adam's, whatever the shape
        ("muon", 0.0, {"adjust_lr_fn": "original"}, False),
    ],
)
def test_relative_rates_are_refused_where_steps_depend_on_the_weight_already(name, decay, args, fits):
    """Seen in what a step does to two layers of one gradient, one of weights 16 times as large or as wide."""
    part = Optimizer(name=name, weight_decay=decay, args=args, lr=0.01, relative=True)
    model = torch.nn.ModuleList([torch.nn.Linear(n, 8, bias=False) for n in (8, 8, 256)])
    for layer, size in zip(model, (1.0, 16.0, 1.0), strict=True):
        torch.nn.init.orthogonal_(layer.weight)
        layer.weight.grad = layer.weight.detach() / layer.weight.detach().square().mean().sqrt()
        layer.weight.data = size * layer.weight.grad
    before = [layer.weight.detach().clone() for layer in model]
    make_optimizer(model, replace(part, relative=False)).step()
    turned = [
        float(
            (layer.weight.detach() - old).square().mean().sqrt() - 0.01 * decay * old.square().mean().sqrt()
        )
        for layer, old in zip(model, before, strict=True)
    ]
    alike = max(turned) <= 3 * min(turned) + 1e-9
    assert alike == fits
    if fits:
        make_optimizer(model, part)
        return
    with pytest.raises(InputError, match=rf"optimizer.name='{name}', whose steps depend on a weight's size"):
        make_optimizer(model, part)


@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize("name", EVERY)
def test_the_head_has_a_rate_of_its_own_and_the_rest_does_not_feel_it(name, layer_decay):
    model = make(name)
    plain, other = rates(model, layer_decay=layer_decay), rates(model, layer_decay=layer_decay, head_lr=0.7)
    head = head_names(model)
    assert all(other[key] == pytest.approx(0.7) for key in head)
    assert all(other[key] == plain[key] for key in plain if key not in head)


def test_frozen_layers_do_not_shift_the_rates_of_the_others():
    model = make("bcos_resnet20")
    before = rates(model, layer_decay=0.5)
    freeze(model, "from:layer2")
    after = rates(model, layer_decay=0.5)
    assert after and all(before[key] == rate for key, rate in after.items())


@pytest.mark.parametrize(
    ("name", "train", "message"),
    [
        ("bcos_resnet20", "half", r"model.train='half': allowed are 'full', 'head' and 'from:LAYER'"),
        ("bcos_resnet20", "from:", r"model.train='from:': no such layer; known: conv1, bn1, layer1, la"),
        ("bcos_resnet20", "from:layer9", r"known: .*layer3, layer3\.0 … layer3\.2, fc$"),
        ("resnet18", "from:layer1.0.conv1", r"known: .*layer1, layer1\.0, layer1\.1, layer2"),
        ("bcos_simple_vit_ti_patch16_224", "from:blocks.1", r"transformer\.encoder_0 … transformer\.enc"),
    ],
)
def test_what_cannot_be_frozen_is_refused_and_nothing_is_changed(name, train, message):
    model = make(name)
    with pytest.raises(InputError, match=message) as error:
        freeze(model, train)
    assert "\n" not in str(error.value)
    assert all(p.requires_grad for p in model.parameters())


def test_a_probe_of_a_network_without_a_classifier_is_refused():
    with pytest.raises(InputError, match=r"model.train='head': the network has no classifier; give it"):
        freeze(timm.create_model("bcos_resnet20", num_classes=0), "head")


@pytest.mark.parametrize("decay", [0, -0.5, 1.5, float("nan")])
def test_a_layer_decay_that_makes_no_sense_is_refused(decay):
    with pytest.raises(InputError, match=r"optimizer.layer_decay=.*: allowed are numbers above 0, up to 1"):
        groups(make("bcos_resnet20"), **PLAIN | dict(layer_decay=decay))


def test_a_network_that_learns_nothing_is_refused():
    with pytest.raises(InputError, match="no weight of the network learns; change model.train"):
        groups(make("bcos_resnet20").requires_grad_(False), **PLAIN)


@pytest.mark.parametrize("name", ["bcos_resnet20.cifar10", "bcos_simple_vit_ti_patch16_224", "bcos_plain9"])
def test_rows_of_unit_norm_compute_the_same(name):
    own = {} if "." in name else {"num_classes": 10}
    model = bcos_zoo.create_model(name, pretrained="." in name, **own)
    x = torch.rand(2, 3, *model.pretrained_cfg["input_size"][1:])
    with torch.no_grad():
        before = model(x)
        parameters.to_unit_rows(model)
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-4)
    layers = [m for m in model.modules() if isinstance(m, (BcosConv2d, BcosLinear))]
    for layer in layers:
        lengths = layer.linear.weight.flatten(1).norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_frozen_rows_and_those_that_are_used_as_they_are_keep_their_norm():
    frozen = bcos_zoo.create_model("bcos_resnet20.cifar10", pretrained=True)
    parameters.freeze(frozen, "head")
    as_is = bcos_zoo.create_model("bcos_resnet20", normalize=False)
    for model, changed in ((frozen, {"fc.linear.weight"}), (as_is, set())):
        before = {key: value.clone() for key, value in model.state_dict().items()}
        parameters.to_unit_rows(model)
        after = model.state_dict()
        assert {key for key in before if not torch.equal(before[key], after[key])} == changed
