"""torch.hub entry points. Made from the registry by tools/generate.py: do not edit.

torch.hub.load("bcos-zoo/bcos_zoo", "bcos_resnet50", pretrained=True, trust_repo=True)
torch.hub.load("bcos-zoo/bcos_zoo", "classifier", "bcos_resnet20.cifar10", trust_repo=True)
"""

dependencies = ["torch", "torchvision", "timm", "huggingface_hub", "safetensors", "filelock", "numpy", "PIL"]


def _package():
    """bcos_zoo of the version beside this file, from wherever it was imported first.

    torch.hub has put this folder first on sys.path, so that the copy here is found before an installed one.
    One that is imported already stays, for every version registers the same names with timm.
    Raises RuntimeError if that is another version.
    """
    import os
    import re

    import bcos_zoo  # not at the top: torch.hub checks the dependencies only after reading this file

    here = os.path.join(os.path.dirname(os.path.realpath(__file__)), "bcos_zoo")
    with open(os.path.join(here, "_version.py"), encoding="utf-8") as file:
        version = re.search('^__version__ = "(.+)"', file.read(), re.MULTILINE)[1]
    used = getattr(bcos_zoo, "__version__", "without a version")
    if used != version:
        raise RuntimeError(
            f"bcos_zoo {used} is imported already, from {next(iter(bcos_zoo.__path__))}, but this copy for "
            f"torch.hub, {here}, is {version}, and a process holds one version: call torch.hub.load in a new "
            "process, before any import of bcos_zoo, or timm.create_model for the network of the imported one"
        )
    return bcos_zoo


def _create(name, pretrained, tag, kwargs):
    bcos_zoo = _package()
    if isinstance(pretrained, str):  # it would count as True, and the default's weights be loaded
        raise bcos_zoo.InputError(
            f"pretrained={pretrained!r}: allowed are True and False; "
            f"to name a checkpoint give pretrained=True, tag={pretrained!r}"
        )
    return bcos_zoo.create_model(f"{name}.{tag}" if tag else name, pretrained=pretrained, **kwargs)


def classifier(name):
    """A checkpoint ready for use: network, preprocessing, class names and explanation head in one object.

    name: "architecture.tag", as the entry of the architecture lists them, an architecture (its default
    checkpoint), or timm's "hf-hub:org/name" and "local-dir:PATH". The weights are always loaded.

    clf = torch.hub.load("bcos-zoo/bcos_zoo", "classifier", "bcos_resnet20.cifar10", trust_repo=True)
    clf.predict("cat.jpg", top_k=5)  # [Prediction(label, index, probability, logit), ...]
    clf.explain("cat.jpg", targets=["cat", "dog"])  # Explanation: contributions, weights, rgba(), save()
    clf.model  # the network itself
    """
    return _package().load(name)


def bcos_converted(pretrained=False, tag=None, **kwargs):
    """Any network of timm as a B-cos network, by rule: `original` names it; ResNet-18 unless given.

    Options of the conversion are those of `bcos_zoo.bcosify`; all other arguments are the original's. With
    `pretrained` it begins with the original's weights. `conversion`, that of a network which was converted
    before, makes the same layers again, whatever the rules are now.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_converted", pretrained, tag, kwargs)


def bcos_convnext_atto(pretrained=False, tag=None, **kwargs):
    """ConvNeXt-A with position norm.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_convnext_atto", pretrained, tag, kwargs)


def bcos_convnext_atto_bnu(pretrained=False, tag=None, **kwargs):
    """ConvNeXt-A with uncentred batch norm.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_convnext_atto_bnu", pretrained, tag, kwargs)


def bcos_convnext_base(pretrained=False, tag=None, **kwargs):
    """ConvNeXt-B with position norm.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_convnext_base", pretrained, tag, kwargs)


def bcos_convnext_base_bnu(pretrained=False, tag=None, **kwargs):
    """ConvNeXt-B with uncentred batch norm.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_convnext_base_bnu", pretrained, tag, kwargs)


def bcos_convnext_large(pretrained=False, tag=None, **kwargs):
    """ConvNeXt-L with position norm.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_convnext_large", pretrained, tag, kwargs)


def bcos_convnext_large_bnu(pretrained=False, tag=None, **kwargs):
    """ConvNeXt-L with uncentred batch norm.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_convnext_large_bnu", pretrained, tag, kwargs)


def bcos_convnext_small(pretrained=False, tag=None, **kwargs):
    """ConvNeXt-S with position norm.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_convnext_small", pretrained, tag, kwargs)


def bcos_convnext_small_bnu(pretrained=False, tag=None, **kwargs):
    """ConvNeXt-S with uncentred batch norm.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_convnext_small_bnu", pretrained, tag, kwargs)


def bcos_convnext_tiny(pretrained=False, tag=None, **kwargs):
    """ConvNeXt-T with position norm.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_convnext_tiny", pretrained, tag, kwargs)


def bcos_convnext_tiny_bnu(pretrained=False, tag=None, **kwargs):
    """ConvNeXt-T with uncentred batch norm.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_convnext_tiny_bnu", pretrained, tag, kwargs)


def bcos_densenet52(pretrained=False, tag=None, **kwargs):
    """DenseNet-BC-52 for 32x32 images, growth 12.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_densenet52", pretrained, tag, kwargs)


def bcos_densenet100(pretrained=False, tag=None, **kwargs):
    """DenseNet-BC-100 for 32x32 images (Huang et al. 2017, table 2), growth 12.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_densenet100", pretrained, tag, kwargs)


def bcos_densenet121(pretrained=False, tag=None, **kwargs):
    """DenseNet-121 (Huang et al. 2017, table 1).

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k", "v2_long_in1k"; from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "v1_in1k", "v1_cossched_in1k", "bcosified_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_densenet121", pretrained, tag, kwargs)


def bcos_densenet161(pretrained=False, tag=None, **kwargs):
    """DenseNet-161 (Huang et al. 2017): growth 48.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_densenet161", pretrained, tag, kwargs)


def bcos_densenet169(pretrained=False, tag=None, **kwargs):
    """DenseNet-169 (Huang et al. 2017, table 1).

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_densenet169", pretrained, tag, kwargs)


def bcos_densenet190(pretrained=False, tag=None, **kwargs):
    """DenseNet-BC-190 for 32x32 images (Huang et al. 2017, table 2), growth 40.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_densenet190", pretrained, tag, kwargs)


def bcos_densenet201(pretrained=False, tag=None, **kwargs):
    """DenseNet-201 (Huang et al. 2017, table 1).

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_densenet201", pretrained, tag, kwargs)


def bcos_densenet250(pretrained=False, tag=None, **kwargs):
    """DenseNet-BC-250 for 32x32 images (Huang et al. 2017, table 2), growth 24.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_densenet250", pretrained, tag, kwargs)


def bcos_efficientnet_lite0(pretrained=False, tag=None, **kwargs):
    """timm's tf_efficientnet_lite0, converted: B = 1.5, weights as they are, no biases, strides blurred.

    Norms are uncentred, and depthwise convolutions stay linear. `pretrained`, `num_classes`, `in_chans` and
    the like as in timm; other arguments are those of timm's network.

    pretrained: load the weights, without a tag those of "imagenette".
    tag: which checkpoint, and so which form of the network: "imagenette", "imagenette_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_efficientnet_lite0", pretrained, tag, kwargs)


def bcos_inception_v3(pretrained=False, tag=None, **kwargs):
    """Inception v3 (Szegedy et al. 2015) for 299x299 images, in the manner of the v2 networks.

    pretrained: load the weights; this takes a tag.
    tag: which checkpoint, and so which form of the network: from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "v1_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_inception_v3", pretrained, tag, kwargs)


def bcos_plain9(pretrained=False, tag=None, **kwargs):
    """Nine convolutions for 32x32 images, with B = 2 by default (Boehle et al. 2022, section 4).

    pretrained: load the weights; this takes a tag.
    tag: which checkpoint, and so which form of the network: from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "v1_b1_cifar10", "v1_b1p25_cifar10", "v1_b1p5_cifar10",
    "v1_b1p75_cifar10", "v1_b2_cifar10", "v1_b2p25_cifar10", "v1_b2p5_cifar10".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_plain9", pretrained, tag, kwargs)


def bcos_resnet18(pretrained=False, tag=None, **kwargs):
    """ResNet-18 (He et al. 2015, table 1).

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k", "imagenette"; from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "bcosified_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet18", pretrained, tag, kwargs)


def bcos_resnet18_w32(pretrained=False, tag=None, **kwargs):
    """ResNet-18 of half the width, with 32 channels in the first stage.

    pretrained: load the weights, without a tag those of "imagenette".
    tag: which checkpoint, and so which form of the network: "imagenette".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet18_w32", pretrained, tag, kwargs)


def bcos_resnet20(pretrained=False, tag=None, **kwargs):
    """ResNet-20 for 32x32 images (He et al. 2015, section 4.2, n = 3).

    pretrained: load the weights, without a tag those of "cifar10".
    tag: which checkpoint, and so which form of the network: "cifar10".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet20", pretrained, tag, kwargs)


def bcos_resnet32(pretrained=False, tag=None, **kwargs):
    """ResNet-32 for 32x32 images (He et al. 2015, section 4.2, n = 5).

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet32", pretrained, tag, kwargs)


def bcos_resnet34(pretrained=False, tag=None, **kwargs):
    """ResNet-34 (He et al. 2015, table 1).

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k"; from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "v1_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet34", pretrained, tag, kwargs)


def bcos_resnet44(pretrained=False, tag=None, **kwargs):
    """ResNet-44 for 32x32 images (He et al. 2015, section 4.2, n = 7).

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet44", pretrained, tag, kwargs)


def bcos_resnet50(pretrained=False, tag=None, **kwargs):
    """ResNet-50 (He et al. 2015, table 1), the stride on the 3x3 convolution.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k", "v2_long_in1k"; from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "bcosified_in1k", "bcosified_tv1_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet50", pretrained, tag, kwargs)


def bcos_resnet50_clip(pretrained=False, tag=None, **kwargs):
    """CLIP's ResNet-50 (Radford et al. 2021), B-cosified: image to embedding.

    pretrained: load the weights, without a tag those of "bcosified_in1k".
    tag: which checkpoint, and so which form of the network: from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "bcosified_in1k", "bcosified_cc3m".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet50_clip", pretrained, tag, kwargs)


def bcos_resnet56(pretrained=False, tag=None, **kwargs):
    """ResNet-56 for 32x32 images (He et al. 2015, section 4.2, n = 9).

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet56", pretrained, tag, kwargs)


def bcos_resnet101(pretrained=False, tag=None, **kwargs):
    """ResNet-101 (He et al. 2015, table 1), the stride on the 3x3 convolution.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet101", pretrained, tag, kwargs)


def bcos_resnet110(pretrained=False, tag=None, **kwargs):
    """ResNet-110 for 32x32 images (He et al. 2015, section 4.2, n = 18).

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet110", pretrained, tag, kwargs)


def bcos_resnet152(pretrained=False, tag=None, **kwargs):
    """ResNet-152 (He et al. 2015, table 1), the stride on the 3x3 convolution.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k", "v2_long_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet152", pretrained, tag, kwargs)


def bcos_resnext50_32x4d(pretrained=False, tag=None, **kwargs):
    """ResNeXt-50 (32x4d) (Xie et al. 2017, table 1).

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnext50_32x4d", pretrained, tag, kwargs)


def bcos_resnext101_32x8d(pretrained=False, tag=None, **kwargs):
    """ResNeXt-101 (32x8d) (Xie et al. 2017; the width of Mahajan et al. 2018).

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnext101_32x8d", pretrained, tag, kwargs)


def bcos_simple_vit_b_patch16_224(pretrained=False, tag=None, **kwargs):
    """Simple ViT-B with patches of 16 pixels.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k"; from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "bcosified_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_simple_vit_b_patch16_224", pretrained, tag, kwargs)


def bcos_simple_vit_l_patch16_224(pretrained=False, tag=None, **kwargs):
    """Simple ViT-L with patches of 16 pixels.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k"; from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "bcosified_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_simple_vit_l_patch16_224", pretrained, tag, kwargs)


def bcos_simple_vit_s_patch16_224(pretrained=False, tag=None, **kwargs):
    """Simple ViT-S with patches of 16 pixels.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k"; from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "bcosified_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_simple_vit_s_patch16_224", pretrained, tag, kwargs)


def bcos_simple_vit_ti_patch16_224(pretrained=False, tag=None, **kwargs):
    """Simple ViT-Ti with patches of 16 pixels.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k"; from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "bcosified_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_simple_vit_ti_patch16_224", pretrained, tag, kwargs)


def bcos_std_simple_vit_b_patch16_224(pretrained=False, tag=None, **kwargs):
    """Simple ViT-B with patches of 16 pixels; conventional: it has no exact explanation.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_std_simple_vit_b_patch16_224", pretrained, tag, kwargs)


def bcos_std_simple_vit_l_patch16_224(pretrained=False, tag=None, **kwargs):
    """Simple ViT-L with patches of 16 pixels; conventional: it has no exact explanation.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_std_simple_vit_l_patch16_224", pretrained, tag, kwargs)


def bcos_std_simple_vit_s_patch16_224(pretrained=False, tag=None, **kwargs):
    """Simple ViT-S with patches of 16 pixels; conventional: it has no exact explanation.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_std_simple_vit_s_patch16_224", pretrained, tag, kwargs)


def bcos_std_simple_vit_ti_patch16_224(pretrained=False, tag=None, **kwargs):
    """Simple ViT-Ti with patches of 16 pixels; conventional: it has no exact explanation.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_std_simple_vit_ti_patch16_224", pretrained, tag, kwargs)


def bcos_std_vitc_b_patch1_14(pretrained=False, tag=None, **kwargs):
    """Simple ViT-B with a convolutional stem; conventional: it has no exact explanation.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_std_vitc_b_patch1_14", pretrained, tag, kwargs)


def bcos_std_vitc_l_patch1_14(pretrained=False, tag=None, **kwargs):
    """Simple ViT-L with a convolutional stem; conventional: it has no exact explanation.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_std_vitc_l_patch1_14", pretrained, tag, kwargs)


def bcos_std_vitc_s_patch1_14(pretrained=False, tag=None, **kwargs):
    """Simple ViT-S with a convolutional stem; conventional: it has no exact explanation.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_std_vitc_s_patch1_14", pretrained, tag, kwargs)


def bcos_std_vitc_ti_patch1_14(pretrained=False, tag=None, **kwargs):
    """Simple ViT-Ti with a convolutional stem; conventional: it has no exact explanation.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_std_vitc_ti_patch1_14", pretrained, tag, kwargs)


def bcos_vgg11(pretrained=False, tag=None, **kwargs):
    """VGG-11 (Simonyan & Zisserman 2014, table 1, column A) without norms.

    pretrained: load the weights; this takes a tag.
    tag: which checkpoint, and so which form of the network: from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "v1_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_vgg11", pretrained, tag, kwargs)


def bcos_vgg11_bnu(pretrained=False, tag=None, **kwargs):
    """VGG-11 with uncentred batch norm.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_vgg11_bnu", pretrained, tag, kwargs)


def bcos_vgg13(pretrained=False, tag=None, **kwargs):
    """VGG-13 (Simonyan & Zisserman 2014, table 1, column B) without norms.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_vgg13", pretrained, tag, kwargs)


def bcos_vgg13_bnu(pretrained=False, tag=None, **kwargs):
    """VGG-13 with uncentred batch norm.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_vgg13_bnu", pretrained, tag, kwargs)


def bcos_vgg16(pretrained=False, tag=None, **kwargs):
    """VGG-16 (Simonyan & Zisserman 2014, table 1, column D) without norms.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_vgg16", pretrained, tag, kwargs)


def bcos_vgg16_bnu(pretrained=False, tag=None, **kwargs):
    """VGG-16 with uncentred batch norm.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_vgg16_bnu", pretrained, tag, kwargs)


def bcos_vgg19(pretrained=False, tag=None, **kwargs):
    """VGG-19 (Simonyan & Zisserman 2014, table 1, column E) without norms.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_vgg19", pretrained, tag, kwargs)


def bcos_vgg19_bnu(pretrained=False, tag=None, **kwargs):
    """VGG-19 with uncentred batch norm.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_vgg19_bnu", pretrained, tag, kwargs)


def bcos_vitc_b_patch1_14(pretrained=False, tag=None, **kwargs):
    """Simple ViT-B with a convolutional stem.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k"; from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "bcosified_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_vitc_b_patch1_14", pretrained, tag, kwargs)


def bcos_vitc_l_patch1_14(pretrained=False, tag=None, **kwargs):
    """Simple ViT-L with a convolutional stem.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k"; from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "bcosified_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_vitc_l_patch1_14", pretrained, tag, kwargs)


def bcos_vitc_s_patch1_14(pretrained=False, tag=None, **kwargs):
    """Simple ViT-S with a convolutional stem.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k"; from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "bcosified_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_vitc_s_patch1_14", pretrained, tag, kwargs)


def bcos_vitc_ti_patch1_14(pretrained=False, tag=None, **kwargs):
    """Simple ViT-Ti with a convolutional stem.

    pretrained: load the weights, without a tag those of "v2_in1k".
    tag: which checkpoint, and so which form of the network: "v2_in1k"; from a file at hand,
    pretrained_cfg_overlay=dict(file=PATH): "bcosified_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_vitc_ti_patch1_14", pretrained, tag, kwargs)


def bcos_wide_resnet50_2(pretrained=False, tag=None, **kwargs):
    """Wide ResNet-50-2 (Zagoruyko & Komodakis 2016, table 8): 3x3 convolutions of twice the width.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_wide_resnet50_2", pretrained, tag, kwargs)


def bcos_wide_resnet101_2(pretrained=False, tag=None, **kwargs):
    """Wide ResNet-101-2: as Wide ResNet-50-2, at the depths of ResNet-101.

    pretrained, tag: there are no weights yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_wide_resnet101_2", pretrained, tag, kwargs)
