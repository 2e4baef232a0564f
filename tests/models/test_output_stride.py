"""`output_stride`: dilation in the place of strides, with weights and values of the strided network."""

from __future__ import annotations

import pytest
import timm
import torch
from conftest import images, random_state, smallest_of_each_family
from torch import nn

from bcos_zoo import InputError, explain

SMALL = {  # a name, and what makes it smaller
    "bcos_resnet18": dict(widths=(8, 16, 24, 32), layers=(1, 2, 2, 2)),
    "bcos_resnet50": dict(widths=(8, 8, 16, 16), layers=(1, 2, 2, 2)),
    "bcos_resnext50_32x4d": dict(layers=(1, 1, 2, 2), cardinality=2),
    "bcos_convnext_atto": dict(widths=(8, 16, 24, 32), layers=(1, 1, 2, 2)),
    "bcos_convnext_atto_bnu": dict(widths=(8, 16, 24, 32), layers=(1, 1, 2, 2)),
}
CASES = [
    (name, stride, sides)
    for name in SMALL
    for stride in (4, 8, 16)
    for sides in [(64, 96), *([] if "convnext" in name else [(71, 83)])]  # it leaves out rows that are odd
]


def pair(name: str, output_stride: int, **more) -> tuple[nn.Module, nn.Module]:
    """The strided network, and the dilated one with its weights."""
    options = SMALL.get(name, {}) | dict(num_classes=5) | more
    strided = random_state(timm.create_model(name, **options).double(), mean=0.1).eval()
    dilated = timm.create_model(name, output_stride=output_stride, **options).double().eval()
    dilated.load_state_dict(strided.state_dict())
    return strided, dilated


@pytest.mark.parametrize("name, stride, sides", CASES)
def test_at_the_positions_of_the_strided_map_the_dilated_one_is_equal(name, stride, sides):
    strided, dilated = pair(name, stride)
    x = images(2, *sides, like=strided).double()
    with torch.no_grad():
        theirs, mine = strided.forward_intermediates(x)[1], dilated.forward_intermediates(x)[1]
    for level, (few, many) in enumerate(zip(theirs, mine, strict=True)):
        own, new = (m.feature_info[level]["reduction"] for m in (strided, dilated))
        assert new == min(own, stride) or (level == 0 and new == own)
        step = own // new
        sampled = many[:, :, ::step, ::step][:, :, : few.shape[2], : few.shape[3]]
        assert float(few.abs().max()) > 0
        torch.testing.assert_close(sampled, few, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_atto"])
def test_strides_dilations_and_feature_info_are_those_of_timm(name, stride):
    theirs = timm.create_model(name, output_stride=stride, features_only=True)
    mine = timm.create_model(f"bcos_{name}", output_stride=stride, features_only=True)
    assert mine.feature_info.reduction() == theirs.feature_info.reduction()
    assert mine.feature_info.channels() == theirs.feature_info.channels()
    layouts = []
    for model in (theirs, mine):
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
        layouts.append([(m.kernel_size, m.stride, m.dilation) for m in convolutions])
    assert layouts[0] == layouts[1]


@pytest.mark.parametrize("name", SMALL)
def test_features_only_gives_maps_of_the_stride_asked_for(name):
    model = timm.create_model(name, output_stride=8, features_only=True, **SMALL[name]).eval()
    with torch.no_grad():
        maps = model(images(1, 64, 96, like=model))
    for map_, reduction, channels in zip(
        maps, model.feature_info.reduction(), model.feature_info.channels(), strict=True
    ):
        assert map_.shape == (1, channels, 64 // reduction, 96 // reduction)
    assert model.feature_info.reduction()[-1] == 8


@pytest.mark.parametrize("name", ["bcos_resnet18", "bcos_convnext_atto"])
def test_a_dilated_network_is_explained_completely_and_remembers_its_stride(name):
    _, model = pair(name, 8)
    e = explain(model, images(1, 64, 64, like=model), 2)
    torch.testing.assert_close(e.contributions.sum() + e.bias.sum(), e.logits[0, 2], rtol=1e-9, atol=1e-9)
    assert model.build_arguments["output_stride"] == 8


def test_published_weights_load_into_the_dilated_network():
    strided = timm.create_model("bcos_resnet18_w32.imagenette", pretrained=True).eval()
    dilated = timm.create_model("bcos_resnet18_w32.imagenette", pretrained=True, output_stride=8).eval()
    x = images(1, 64, 64, like=strided)
    with torch.no_grad():
        few, many = strided.forward_features(x), dilated.forward_features(x)
    torch.testing.assert_close(many[:, :, ::4, ::4], few, rtol=1e-3, atol=1e-4 * float(few.abs().max()))


@pytest.mark.parametrize("stride", [0, 2, 12, 64, True, "8"])
def test_another_stride_is_one_line(stride):
    for name in ("bcos_resnet18", "bcos_convnext_atto"):
        with pytest.raises(InputError, match=r"output_stride=.* allow 4, 8, 16, 32$"):
            timm.create_model(name, output_stride=stride)


def test_networks_for_small_images_count_from_their_own_stem():
    assert timm.create_model("bcos_resnet20", output_stride=1).feature_info[-1]["reduction"] == 1
    with pytest.raises(InputError, match="allow 1, 2, 4$"):
        timm.create_model("bcos_resnet20", output_stride=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bcos_resnet18", "bcos_convnext_atto"])
def test_deeplabv3_of_segmentation_models_pytorch_stands_on_it(name):
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.DeepLabV3(f"tu-{name}", encoder_weights=None, encoder_output_stride=8, classes=3).eval()
    with torch.no_grad():
        assert model.encoder(torch.rand(1, 3, 64, 64))[-1].shape[2:] == (8, 8)
        assert model(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    "name", [n for n in smallest_of_each_family() if not n.startswith(("bcos_resnet20", "bcos_convnext"))]
)
def test_families_without_a_dilated_form_say_so_in_one_line(name):
    with pytest.raises(InputError, match=rf"^output_stride=16: {name} has no dilated form; .*$"):
        timm.create_model(name, output_stride=16)
