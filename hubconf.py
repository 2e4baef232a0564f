"""torch.hub entry points. Made from the registry by tools/generate.py: do not edit.

torch.hub.load("bcos-zoo/bcos_zoo", "bcos_resnet50", pretrained=True, trust_repo=True)
"""

dependencies = ["torch", "torchvision", "timm", "huggingface_hub", "safetensors", "numpy", "PIL"]


def _create(name, pretrained, tag, kwargs):
    import os
    import warnings

    import bcos_zoo  # not at the top: torch.hub checks the dependencies only after reading this file

    here, used = (os.path.dirname(os.path.realpath(file)) for file in (__file__, bcos_zoo.__file__))
    if os.path.dirname(used) != here:
        message = f"using bcos_zoo {bcos_zoo.__version__} from {used}, not the one in {here}"
        warnings.warn(message, stacklevel=3)
    return bcos_zoo.create_model(f"{name}.{tag}" if tag else name, pretrained=pretrained, **kwargs)


def bcos_resnet18(pretrained=False, tag=None, **kwargs):
    """ResNet-18 (He et al. 2015, table 1).

    pretrained: load the weights. tag: which checkpoint: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet18", pretrained, tag, kwargs)


def bcos_resnet20(pretrained=False, tag=None, **kwargs):
    """ResNet-20 for 32x32 images (He et al. 2015, section 4.2, n = 3).

    pretrained: load the weights. tag: which checkpoint: "cifar10".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet20", pretrained, tag, kwargs)


def bcos_resnet32(pretrained=False, tag=None, **kwargs):
    """ResNet-32 for 32x32 images (He et al. 2015, section 4.2, n = 5).

    pretrained: load the weights. tag: which checkpoint: there is none yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet32", pretrained, tag, kwargs)


def bcos_resnet34(pretrained=False, tag=None, **kwargs):
    """ResNet-34 (He et al. 2015, table 1).

    pretrained: load the weights. tag: which checkpoint: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet34", pretrained, tag, kwargs)


def bcos_resnet44(pretrained=False, tag=None, **kwargs):
    """ResNet-44 for 32x32 images (He et al. 2015, section 4.2, n = 7).

    pretrained: load the weights. tag: which checkpoint: there is none yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet44", pretrained, tag, kwargs)


def bcos_resnet50(pretrained=False, tag=None, **kwargs):
    """ResNet-50 (He et al. 2015, table 1), the stride on the 3x3 convolution.

    pretrained: load the weights. tag: which checkpoint: "v2_in1k", "v2_long_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet50", pretrained, tag, kwargs)


def bcos_resnet56(pretrained=False, tag=None, **kwargs):
    """ResNet-56 for 32x32 images (He et al. 2015, section 4.2, n = 9).

    pretrained: load the weights. tag: which checkpoint: there is none yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet56", pretrained, tag, kwargs)


def bcos_resnet101(pretrained=False, tag=None, **kwargs):
    """ResNet-101 (He et al. 2015, table 1), the stride on the 3x3 convolution.

    pretrained: load the weights. tag: which checkpoint: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet101", pretrained, tag, kwargs)


def bcos_resnet110(pretrained=False, tag=None, **kwargs):
    """ResNet-110 for 32x32 images (He et al. 2015, section 4.2, n = 18).

    pretrained: load the weights. tag: which checkpoint: there is none yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet110", pretrained, tag, kwargs)


def bcos_resnet152(pretrained=False, tag=None, **kwargs):
    """ResNet-152 (He et al. 2015, table 1), the stride on the 3x3 convolution.

    pretrained: load the weights. tag: which checkpoint: "v2_in1k", "v2_long_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnet152", pretrained, tag, kwargs)


def bcos_resnext50_32x4d(pretrained=False, tag=None, **kwargs):
    """ResNeXt-50 (32x4d) (Xie et al. 2017, table 1).

    pretrained: load the weights. tag: which checkpoint: "v2_in1k".
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnext50_32x4d", pretrained, tag, kwargs)


def bcos_resnext101_32x8d(pretrained=False, tag=None, **kwargs):
    """ResNeXt-101 (32x8d) (Xie et al. 2017; the width of Mahajan et al. 2018).

    pretrained: load the weights. tag: which checkpoint: there is none yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_resnext101_32x8d", pretrained, tag, kwargs)


def bcos_wide_resnet50_2(pretrained=False, tag=None, **kwargs):
    """Wide ResNet-50-2 (Zagoruyko & Komodakis 2016, table 8): 3x3 convolutions of twice the width.

    pretrained: load the weights. tag: which checkpoint: there is none yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_wide_resnet50_2", pretrained, tag, kwargs)


def bcos_wide_resnet101_2(pretrained=False, tag=None, **kwargs):
    """Wide ResNet-101-2: as Wide ResNet-50-2, at the depths of ResNet-101.

    pretrained: load the weights. tag: which checkpoint: there is none yet.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("bcos_wide_resnet101_2", pretrained, tag, kwargs)
