"""What timm's users expect of every family, held for the smallest network of each."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from conftest import EXPLAINED, assert_close, gap, images, network, random_state, smallest_of_each_family

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.weights import state_dicts

SMALLEST = [*smallest_of_each_family(), "bcos_simple_vit_ti_patch16_224", "bcos_std_vitc_ti_patch1_14"]


@pytest.fixture(scope="module", params=SMALLEST)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> Any:
    return network(name)


@pytest.fixture
def own(model: Any) -> Any:
    """A copy, for tests that change it."""
    return copy.deepcopy(model)


@pytest.fixture
def x(model: Any) -> torch.Tensor:
    return images(2, 64, 96, like=model)


def test_forward_is_features_then_head(model, x):
    features = model.forward_features(x)
    torch.testing.assert_close(model.forward_head(features), model(x))
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)


def test_without_classifier_the_network_gives_what_the_classifier_saw(own, x):
    pooled = own.forward_head(own.forward_features(x), pre_logits=True)
    own.reset_classifier(0)
    assert own.num_classes == 0 and isinstance(own.get_classifier(), torch.nn.Identity)
    if not getattr(own, "pool_last", False):
        torch.testing.assert_close(own(x), pooled)
    own.reset_classifier(4)
    assert own(x).shape == (2, 4)


def test_unpooled_logits_come_from_every_position(own, x):
    own.reset_classifier(5, "")
    out, features = own(x), own.forward_features(x)
    assert out.ndim == features.ndim and 5 in out.shape
    assert own.num_classes == 5 and own.global_pool is not None


def test_feature_info_says_what_the_features_are(model, x):
    final, maps = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    assert len(maps) == len(model.feature_info) >= 3
    for feature, info in zip(maps, model.feature_info, strict=True):
        assert feature.shape[:2] == (2, info["num_chs"])
        for got, side in zip(feature.shape[2:], x.shape[2:], strict=True):
            assert side // info["reduction"] // 2 <= got <= 2 * side / info["reduction"]


@pytest.mark.parametrize("index", [0, 1, -1])
def test_a_pruned_network_gives_the_same_features(own, x, index):
    expected = own.forward_intermediates(x, [index], intermediates_only=True)
    before = sum(p.numel() for p in own.parameters())
    own.prune_intermediate_layers([index])
    assert sum(p.numel() for p in own.parameters()) < before
    (got,) = own.forward_intermediates(x, [-1], intermediates_only=True)
    torch.testing.assert_close(got, expected[0])
    assert own(x).shape[1 if got.ndim == own(x).ndim else -1] == own.num_features


def test_features_only_gives_every_level(name, x):
    backbone = timm.create_model(name, features_only=True)
    maps = backbone.eval()(x)
    assert [feature.shape[1] for feature in maps] == backbone.feature_info.channels()
    assert len(maps) == len(timm.create_model(name, device="meta").feature_info)


def test_recomputing_in_the_backward_pass_gives_the_same_gradients(own, x):
    gradients = []
    for enable in (False, True):
        one = copy.deepcopy(own).train()
        one.set_grad_checkpointing(enable)
        one(x).square().sum().backward()
        gradients.append([p.grad for p in one.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert_close(recomputed, plain, 1e-3)


def test_dropout_acts_in_training_only(name, model, x):
    dropping = timm.create_model(name, drop_rate=0.5)
    dropping.load_state_dict(model.state_dict())
    dropping.logits = model.logits
    torch.testing.assert_close(dropping.eval()(x), model(x))
    dropping.train()
    assert not torch.equal(dropping(x), dropping(x))


@pytest.mark.parametrize("kind", ["bcos_convnext_atto", "bcos_vitc_ti_patch1_14"])
def test_stochastic_depth_rises_with_depth_and_acts_in_training_only(kind):
    model = random_state(timm.create_model(kind, drop_path_rate=0.3))
    rates = [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]
    assert rates == sorted(rates) and rates[-1] == pytest.approx(0.3)
    x = images(2, like=model)
    torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_channels_are_encoded_and_explained(name, in_chans):
    model = random_state(timm.create_model(name, in_chans=in_chans, num_classes=7)).double()
    x = images(1, channels=in_chans, like=model).double()
    assert model(x).shape == (1, 7)
    if name in EXPLAINED:
        explanation = bcos_zoo.explain(model, x)
        assert explanation.weights.shape == (1, 1, 2 * in_chans, *x.shape[2:])
        assert gap(explanation) < 1e-9


@pytest.fixture(scope="module")
def file(model: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("file") / "model.safetensors"
    state_dicts.save(model.state_dict(), path)
    return str(path)


def load(name: str, file: str, **options: Any) -> Any:
    overlay = {"file": file}
    return bcos_zoo.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)


def test_a_file_of_its_own_makes_the_same_network(name, model, file, x):
    again = load(name, file)
    again.logits = model.logits
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


def test_another_number_of_classes_keeps_the_features(name, model, file, x):
    torch.testing.assert_close(load(name, file, num_classes=3).forward_features(x), model.forward_features(x))
    with pytest.raises(InputError, match="num_classes=-1"):
        timm.create_model(name, num_classes=-1)


def test_a_pretrained_stem_is_adapted_half_by_half(name, model, file):
    """For grey images each half of the encoding sums what it saw of red, green and blue."""
    stem = next(iter(model.state_dict()))
    ours, theirs = load(name, file, in_chans=1).state_dict()[stem], model.state_dict()[stem]
    halves = 2 if name in EXPLAINED else 1
    if ours.ndim == 2:  # of patches, flattened with the channels last
        ours, theirs = ours.view(len(ours), -1, halves).mT, theirs.view(len(ours), -1, 3 * halves).mT
    torch.testing.assert_close(ours, theirs.unflatten(1, (halves, 3)).sum(2))


def test_images_of_other_sizes_go_in_and_what_does_not_divide_is_refused():
    model = network("bcos_simple_vit_ti_patch16_224", num_classes=5)
    for side in (32, 48, 224):
        explanation = bcos_zoo.explain(model, images(1, side, 64), list(range(5)))
        assert explanation.completeness().abs().max() < 1e-4 * explanation.contributions.abs().sum()
    with pytest.raises(InputError, match="images of 33x64 pixels do not divide into patches of 16; resize"):
        model(images(1, 33, 64))
    with pytest.raises(InputError, match="images of 100x100 pixels do not divide into patches of 16"):
        timm.create_model("bcos_simple_vit_ti_patch16_224", img_size=100)
    fine = timm.create_model("bcos_simple_vit_ti_patch16_224", patch_size=8, img_size=72)
    assert fine.forward_features(torch.rand(1, 3, 72, 72)).shape == (1, 81, 192)


def test_the_auxiliary_head_speaks_in_training_only():
    model = timm.create_model("bcos_inception_v3", aux_logits=True, num_classes=6)
    x = torch.rand(2, 3, 299, 299)
    own, auxiliary = model.train()(x)
    assert own.shape == auxiliary.shape == (2, 6)
    (own.sum() + auxiliary.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.eval()(x).shape == (2, 6)


def test_a_network_of_the_vgg_kind_pools_last_and_explains():
    model = random_state(timm.create_model("bcos_vgg11_bnu", hidden=24, num_classes=5))
    x = images(1, 64, 96)
    features = model.forward_features(x)
    assert features.shape == (1, 512, 2, 3)
    assert model.forward_head(features, pre_logits=True).shape == (1, 24)
    assert gap(bcos_zoo.explain(model, x, list(range(5)))) < 1e-4
    model.reset_classifier(5, "")
    assert model(x).shape == (1, 5, 2, 3)
