"""The ResNets behave as timm expects of a network, and keep their linear map whatever is changed."""

from __future__ import annotations

import copy
import io
import math

import pytest
import timm
import torch
from conftest import assert_close, gap, images, random_state
from timm.models import create_feature_extractor
from timm.optim import create_optimizer_v2

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.layers import LayerSpec
from bcos_zoo.models.bcos_resnet import BasicBlock, BcosResNet, Bottleneck


@pytest.fixture(scope="module")
def grouped():
    """A network of bottlenecks in groups with the large stem, small enough for tests."""
    model = BcosResNet(Bottleneck, (1, 2), widths=(16, 32), cardinality=4, base_width=16, num_classes=7)
    return random_state(model)


def test_forward_is_features_then_head(shared):
    x = images()
    features = shared.forward_features(x)
    assert features.shape == (2, shared.num_features, 9, 8)
    torch.testing.assert_close(shared.forward_head(features), shared(x))
    pooled = shared.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, shared.head_hidden_size)
    torch.testing.assert_close(pooled, features.mean((2, 3)))


def test_without_classifier_the_network_gives_pooled_features(small):
    x = images()
    pooled = small.forward_head(small.forward_features(x), pre_logits=True)
    small.reset_classifier(0)
    assert isinstance(small.get_classifier(), torch.nn.Identity) and small.num_classes == 0
    torch.testing.assert_close(small(x), pooled)
    small.reset_classifier(0, "")
    torch.testing.assert_close(small(x), small.forward_features(x))


def test_the_classifier_is_a_convolution_ahead_of_the_pooling(small):
    assert small.get_classifier().linear.weight.shape == (10, 64, 1, 1)
    small.reset_classifier(5, "")
    maps = small(images())
    assert maps.shape == (2, 5, 9, 8)
    small.global_pool = torch.nn.AdaptiveAvgPool2d(1)
    torch.testing.assert_close(small(images())[..., 0, 0], maps.mean((2, 3)))


@pytest.mark.parametrize("training", [True, False])
def test_a_new_classifier_is_like_the_rest_of_the_network(training):
    model = timm.create_model("bcos_resnet20", dtype=torch.float64, global_pool="max").train(training)
    at_construction = model.fc.linear.weight.std().item()
    model.reset_classifier(10)
    new = model.get_classifier()
    assert new.linear.weight.dtype == torch.float64
    assert all(module.training == training for module in model.modules())
    assert new.linear.weight.std().item() == pytest.approx(at_construction, rel=0.2)
    assert model.global_pool.pool_type == "max"


@pytest.mark.parametrize(
    ("options", "bias"),
    [({}, -math.log(4)), ({"logit_bias": 0.0}, 0.0), ({"logit_bias": -3.5}, -3.5)],
)
def test_the_logit_bias_follows_the_classes_unless_given(options, bias):
    model = timm.create_model("bcos_resnet20", num_classes=5, **options)
    assert model.logits.bias == pytest.approx(bias)
    model.reset_classifier(2)
    assert model.logits.bias == (0.0 if not options else bias)


@pytest.mark.parametrize("num_classes", [1, 2])
def test_one_and_two_classes_work(num_classes):
    model = random_state(timm.create_model("bcos_resnet20", num_classes=max(num_classes, 2)))
    model.reset_classifier(num_classes)
    explanation = bcos_zoo.explain(model, images())
    assert explanation.logits.shape == (2, num_classes)
    assert gap(explanation) < 1e-4


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax"])
def test_every_pooling_and_temperature_explains_exactly(grouped, pool):
    model = copy.deepcopy(grouped)
    model.reset_classifier(7, pool)
    model.logits.temperature = 0.5
    assert gap(bcos_zoo.explain(model, images())) < 1e-4


@pytest.mark.parametrize("options", [{"b": 1.0}, {"b": 1.5, "norm": "bn"}, {"max_out": 2}, {"norm": "pn"}])
def test_other_exponents_norms_and_max_out_explain_exactly(options):
    torch.manual_seed(0)
    spec = LayerSpec(logit_temperature=0.01, **options)
    model = BcosResNet(BasicBlock, (1, 1), widths=(8, 16), num_classes=4, stem="cifar", spec=spec)
    with torch.no_grad():
        for _ in range(20):
            model(images(8))  # fills the buffers
    assert gap(bcos_zoo.explain(model.eval(), images(), list(range(4)), dtype=torch.float64)) < 1e-9


@pytest.mark.parametrize("in_chans", [1, 2, 4])
def test_other_channels_are_encoded_to_twice_as_many(in_chans):
    model = random_state(timm.create_model("bcos_resnet20", in_chans=in_chans))
    assert model.conv1.linear.weight.shape[1] == 2 * in_chans
    explanation = bcos_zoo.explain(model, images(channels=in_chans))
    assert explanation.weights.shape == (2, 1, 2 * in_chans, 33, 31)
    assert gap(explanation) < 1e-4


def test_feature_info_says_what_the_features_are(grouped, shared):
    x = images(1, 64, 96)
    for model in (grouped, shared):
        final, maps = model.forward_intermediates(x)
        assert len(maps) == len(model.feature_info)
        for feature, info in zip(maps, model.feature_info, strict=True):
            stride = info["reduction"]
            assert feature.shape == (1, info["num_chs"], 64 // stride, 96 // stride)
        torch.testing.assert_close(final, model.forward_features(x))
        torch.testing.assert_close(final, maps[-1])


def test_intermediates_can_be_chosen_and_the_rest_left_out(shared):
    x = images()
    _, maps = shared.forward_intermediates(x)
    last, (only,) = shared.forward_intermediates(x, [1], stop_early=True)
    torch.testing.assert_close(only, maps[1])
    torch.testing.assert_close(last, maps[1])
    first, fourth = shared.forward_intermediates(x, [0, -1], intermediates_only=True)
    torch.testing.assert_close(first, maps[0])
    torch.testing.assert_close(fourth, maps[3])
    assert len(shared.forward_intermediates(x, 2, intermediates_only=True)) == 2
    with pytest.raises(InputError, match="output_fmt='NLC': this network gives 'NCHW' only"):
        shared.forward_intermediates(x, output_fmt="NLC")


@pytest.mark.parametrize(("indices", "channels"), [([0], 16), ([1], 16), ([0, 2], 32)])
def test_a_pruned_network_gives_the_same_features_and_explains(small, indices, channels):
    x = images()
    expected = small.forward_intermediates(x, indices, intermediates_only=True)
    before = sum(p.numel() for p in small.parameters())
    assert small.prune_intermediate_layers(indices) == indices
    assert sum(p.numel() for p in small.parameters()) < before
    small.set_grad_checkpointing()
    for got, want in zip(
        small.forward_intermediates(x, indices, intermediates_only=True), expected, strict=True
    ):
        torch.testing.assert_close(got, want)
    assert small(x).shape[1] == small.num_features == channels
    small.reset_classifier(3, "avg")
    assert gap(bcos_zoo.explain(small, x)) < 1e-4


@pytest.mark.parametrize(("name", "levels"), [("bcos_resnet20", 4), ("bcos_resnet18", 5)])
@pytest.mark.parametrize("feature_cls", ["getter", "fx"])
def test_features_only_gives_every_level_by_default(name, levels, feature_cls):
    model = timm.create_model(name, features_only=True, feature_cls=feature_cls, in_chans=1).eval()
    x = images(1, 64, 64, channels=1)
    maps = model(x)
    assert len(maps) == levels
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    assert [64 // m.shape[2] for m in maps] == model.feature_info.reduction()


OTHER_SIZES = {  # name -> what makes it another network, and the sides of its levels for 64 pixels, by hand
    "bcos_densenet121": ({"layers": (2, 2), "growth": 4}, [32, 16, 8]),
    "bcos_densenet100": ({"layers": (2, 2, 2, 2), "growth": 4}, [64, 32, 16, 8]),
    "bcos_convnext_tiny": ({"layers": (1, 1, 1), "widths": (8, 8, 8)}, [16, 8, 4]),
    "bcos_convnext_tiny_bnu": ({"layers": (1, 1), "widths": (8, 8)}, [16, 8]),
    "bcos_vgg11": ({"depths": (1, 1), "widths": (4, 8), "hidden": 8}, [64, 32, 16]),
    "bcos_resnet50_clip": ({"layers": (1, 1), "width": 8, "heads": 4}, [32, 16, 8]),
    "bcos_resnet18": ({"layers": (1, 1)}, [32, 16, 8]),
    "bcos_simple_vit_ti_patch16_224": ({"depth": 2}, [4, 4]),
}


@pytest.mark.parametrize("feature_cls", [None, "getter"])
@pytest.mark.parametrize("name", OTHER_SIZES)
def test_features_only_gives_every_level_of_networks_of_other_sizes(name, feature_cls):
    options, sides = OTHER_SIZES[name]
    if feature_cls is not None:
        options = options | {"feature_cls": feature_cls}
    model = timm.create_model(name, features_only=True, **options).eval()
    maps = model(images(1, 64, 64))
    assert [m.shape[2] for m in maps] == sides
    assert [m.shape[1] for m in maps] == model.feature_info.channels()


def test_features_only_gives_the_levels_asked_for(shared):
    model = timm.create_model("bcos_resnet20", features_only=True, out_indices=(1, 2)).eval()
    model.model.load_state_dict(shared.state_dict(), strict=False)
    expected = shared.forward_intermediates(images(), [1, 2], intermediates_only=True)
    for got, want in zip(model(images()), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_gradient_checkpointing_changes_no_gradient_and_no_explanation(small):
    x = images()
    results = []
    for enable in (False, True):
        small.zero_grad()
        small.set_grad_checkpointing(enable)
        small(x).square().sum().backward()
        results.append([p.grad.clone() for p in small.parameters()])
        results[-1].append(bcos_zoo.explain(small, x).weights)
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_layer_decay_falls_from_the_classifier_to_the_stem(small):
    optimizer = create_optimizer_v2(small, opt="adamw", lr=1.0, weight_decay=0.1, layer_decay=0.75)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert len(scale) == len(list(small.parameters()))
    blocks = [small.layer1[0], small.layer1[2], small.layer3[1]]
    ordered = [small.conv1, small.bn1, *(block.conv1 for block in blocks), small.fc]
    values = [scale[id(next(module.parameters()))] for module in ordered]
    assert values[0] == values[1] == pytest.approx(0.75**10)  # stem, 9 blocks, classifier
    assert values[1:] == sorted(set(values))
    assert values[-1] == 1
    assert len(set(scale.values())) == 11


def test_dropout_and_stochastic_depth_act_in_training_only(shared):
    model = timm.create_model("bcos_resnet20", drop_rate=0.5, drop_path_rate=0.4)
    model.load_state_dict(shared.state_dict())
    rates = [
        getattr(block.drop_path, "drop_prob", 0.0)
        for block in model.modules()
        if isinstance(block, BasicBlock)
    ]
    assert rates == pytest.approx([0.4 * i / 8 for i in range(9)])
    torch.testing.assert_close(model.eval()(images()), shared(images()))
    model.train()
    assert not torch.equal(model(images()), model(images()))


def test_channels_last_and_odd_sizes_give_the_same(shared):
    x = images(2, 37, 29)
    assert_close(shared(x.contiguous(memory_format=torch.channels_last)), shared(x), 1e-5)


def test_half_precision_gives_its_own_dtype_and_nearly_the_same(small):
    expected = small(images())
    got = small.bfloat16()(images().bfloat16())
    assert got.dtype == torch.bfloat16
    assert_close(got.float(), expected, 0.05)


def test_fx_tracing_gives_the_same_features(shared):
    x = images()
    traced = create_feature_extractor(shared, {"layer2": "mid", "logits": "out"})(x)
    torch.testing.assert_close(traced["mid"], shared.forward_intermediates(x, [2])[1][0])
    torch.testing.assert_close(traced["out"], shared(x))


def test_the_forward_compiles_to_one_graph(grouped):
    compiled = torch.compile(grouped, backend="eager", fullgraph=True)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images()), grouped(images()))


def test_a_network_can_be_copied_and_saved_whole(shared):
    file = io.BytesIO()
    torch.save(shared, file)
    file.seek(0)
    for again in (copy.deepcopy(shared), torch.load(file, weights_only=False)):
        torch.testing.assert_close(again(images()), shared(images()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_pool": "fast"}, "global_pool='fast': allowed are 'avg', 'max', 'avgmax', ''"),
        ({"num_classes": -1}, "num_classes=-1: 0 removes the classifier, 1 and more make one"),
        ({"stem": "tiny"}, "stem='tiny': allowed are 'imagenet' and 'cifar'"),
        ({"layers": (1, 1, 1, 1)}, "4 stages and 3 widths; give one width for each stage"),
        ({"cardinality": 32}, "cardinality=32, base_width=64: only Bottleneck takes these; leave them"),
        ({"in_chans": 0}, "in_chans=0: an image has at least one channel"),
        ({"norm": "batch"}, "no norm named 'batch'; known: an, bn"),
        ({"b": 0.5}, "b=0.5: a B-cos layer needs b >= 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        timm.create_model("bcos_resnet20", **options)


def test_unknown_keywords_are_refused():
    with pytest.raises(TypeError, match="scale_fact"):
        timm.create_model("bcos_resnet20", scale_fact=1000)
