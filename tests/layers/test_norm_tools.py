"""What the tools of torch and timm that look for batch norms do with ours."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import convert_splitbn_model, convert_sync_batchnorm
from timm.utils import ModelEmaV3
from timm.utils import model as timm_model
from torch import nn
from torch.nn.utils import fusion
from torch.optim.swa_utils import AveragedModel, update_bn

import bcos_zoo
from bcos_zoo.layers import BatchNorm2d, freeze_norms, linear_mode, synchronise_norms

NORMS = ["bnu", "bn", "anu", "an"]
KEYS = ["weight", "running_mean", "running_var", "num_batches_tracked"]


def small(norm: str = "bnu") -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("bcos_resnet20", num_classes=3, layers=(1, 1), norm=norm)


def buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


@pytest.mark.parametrize("norm", NORMS)
def test_ours_is_a_batch_norm_of_torch_with_the_published_keys(norm):
    model = small(norm)
    for module in (model.bn1, copy.deepcopy(model.bn1)):
        assert isinstance(module, nn.BatchNorm2d) and list(module.state_dict()) == KEYS
        assert (module.affine, module.track_running_stats) == (True, True)
        assert module.num_features == len(module.weight) == len(module.running_var)
        assert getattr(module, "bias", None) is None


@pytest.mark.parametrize("norm", NORMS)
def test_update_bn_measures_the_statistics_anew(norm):
    model, twin = small(norm), small(norm)
    batches = [torch.rand(4, 3, 16, 16) for _ in range(3)]
    for module in model.modules():
        if isinstance(module, BatchNorm2d):
            module.running_var.fill_(1e3)
            module.running_mean.fill_(0 if not module.centered else 5)
    update_bn(batches, model)
    seen: list[torch.Tensor] = []  # of the first norm, by a second way: a hook and torch's variance
    twin.bn1.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    twin.train()
    for x in batches:
        twin(x)
    dims = (0, 1, 2, 3) if norm.startswith("an") else (0, 2, 3)
    correction = 0 if norm.endswith("u") else 1
    expected = torch.stack([x.var(dims, correction=correction) for x in seen]).mean(0).reshape(-1)
    torch.testing.assert_close(model.bn1.running_var, expected)
    assert model.bn1.num_batches_tracked == 3 and model.bn1.momentum == 0.1


@pytest.mark.slow
def test_update_bn_gives_the_embedded_network_its_accuracy_back():
    """Scrambled statistics take it down to chance; one pass over training images gives all of it back."""
    from bcos_zoo.images import load_rgb

    folder = Path("data/cifar10/train")
    if not folder.is_dir():
        pytest.skip("no data/cifar10")
    files = sorted(path for kind in sorted(folder.iterdir()) for path in sorted(kind.iterdir())[:40])
    classifier = bcos_zoo.load("bcos_resnet20.cifar10")
    model, names = classifier.model, list(classifier.class_names)
    x = torch.cat([classifier.preprocess(load_rgb(path)) for path in files])
    labels = torch.tensor([names.index(path.parent.name) for path in files])

    @torch.no_grad()
    def accuracy() -> float:
        return float((model.eval()(x).argmax(1) == labels).float().mean())

    at_first = accuracy()
    for module in model.modules():
        if isinstance(module, BatchNorm2d):
            module.running_var.copy_(
                module.running_var[torch.randperm(len(module.running_var))].square() * 30
            )
    scrambled = accuracy()
    update_bn(x.split(100), model)
    assert at_first > 0.8 and scrambled < 0.5 * at_first and accuracy() > at_first - 0.05


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "tool",
    [
        nn.SyncBatchNorm.convert_sync_batchnorm,
        convert_sync_batchnorm,
        convert_splitbn_model,
        timm_model.freeze_batch_norm_2d,
        lambda model: timm_model.freeze(model, ["layer1"]),
        lambda model: fusion.fuse_conv_bn_eval(model.conv1.linear.eval(), model.bn1.eval()),
    ],
    ids=["sync", "timm's sync", "timm's split", "timm's frozen norms", "timm's freeze", "fuse"],
)
def test_a_tool_that_would_put_another_norm_in_the_place_of_ours_says_what_to_do(tool, norm):
    model = small(norm)
    with pytest.raises(AttributeError, match="no bias.*synchronise_norms.*freeze_norms") as error:
        tool(model)
    assert "\n" not in str(error.value)
    assert sum(isinstance(module, BatchNorm2d) for module in model.modules()) == 6


def test_timms_freeze_leaves_the_statistics_to_freeze_norms_and_unfreeze_gives_them_back():
    model = small()
    parts = ["conv1", "bn1", "layer1"]
    timm_model.freeze(model, parts, include_bn_running_stats=False)
    for part in parts:
        freeze_norms(model.get_submodule(part))
    before = copy.deepcopy(model.state_dict())
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.rand(4, 3, 16, 16)).square().sum().backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and not any(key.startswith(tuple(f"{part}." for part in parts)) for key in changed)
    timm_model.unfreeze(model, parts)
    for part in parts:
        freeze_norms(model.get_submodule(part), on=False)
    model(torch.rand(4, 3, 16, 16)).square().sum().backward()
    assert model.bn1.num_batches_tracked == 1 and model.bn1.weight.grad is not None


@pytest.mark.parametrize("norm", NORMS)
def test_a_frozen_norm_gives_in_training_what_it_gives_in_eval_mode(norm):
    norm = small(norm).bn1
    norm.running_var.uniform_(0.5, 2), norm.running_mean.uniform_(-1, 1)
    freeze_norms(norm)
    x = torch.randn(2, 16, 3, 3)
    expected = norm.eval()(x)
    assert torch.equal(norm.train()(x), expected)
    with linear_mode():
        assert torch.equal(norm.train()(x), expected)


@pytest.mark.parametrize("norm", NORMS)
def test_track_running_stats_turned_off_later_means_what_it_means_for_torchs(norm):
    """As Lightning's fine-tuning callback does to a frozen norm: statistics of the batch, none tracked."""
    ours = small(norm).bn1
    ours.track_running_stats = False
    before, x = buffers(ours), torch.randn(2, 16, 3, 3)
    y = ours.train()(x)
    assert all(torch.equal(value, before[name]) for name, value in ours.named_buffers())
    fresh = small(norm).bn1.train()
    assert torch.equal(y, fresh(x))


@pytest.mark.parametrize("norm", NORMS)
def test_functorchs_norms_without_running_statistics_use_those_of_the_batch(norm):
    model, x = small(norm).eval(), torch.rand(4, 3, 16, 16)
    expected = small(norm).train()(x)
    torch.func.replace_all_batch_norm_modules_(model)
    torch.testing.assert_close(model(x), expected)
    assert "running_var" not in model.bn1.state_dict()


@pytest.mark.parametrize("average", [lambda m: ModelEmaV3(m, decay=0.5), AveragedModel], ids=["ema", "swa"])
def test_averages_of_weights_follow_and_their_statistics_can_be_measured(average):
    model = small()
    averaged = average(model)
    for _ in range(2):
        model.train()(torch.rand(4, 3, 16, 16))
        averaged.update(model) if isinstance(averaged, ModelEmaV3) else averaged.update_parameters(model)
    inner = averaged.module
    assert inner.state_dict().keys() == model.state_dict().keys()
    update_bn([torch.rand(4, 3, 16, 16)], averaged)
    assert inner.bn1.num_batches_tracked == 1 and (inner.bn1.running_var != 1).all()


def test_torchs_module_fuser_refuses_what_it_does_not_know():
    model = small().eval()
    with pytest.raises(AssertionError, match="did not find fuser method for.*BcosConv2d"):
        torch.ao.quantization.fuse_modules(model, [["conv1", "bn1"]])


def test_synchronise_norms_counts_ours_among_its_own():
    model = nn.Sequential(small(), nn.BatchNorm2d(3))
    assert synchronise_norms(model) == ["1"]


@pytest.mark.parametrize("norm", NORMS)
def test_reset_parameters_begins_anew(norm):
    module = small(norm).bn1.train()
    module(torch.randn(2, 16, 3, 3))
    nn.init.normal_(module.weight)
    module.reset_parameters()
    fresh = small(norm).bn1.state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in module.state_dict().items())
