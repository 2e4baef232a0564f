"""The families. Importing this package registers every architecture with timm."""

from . import bcos_convnext, bcos_densenet, bcos_inception, bcos_resnet, bcos_resnet_clip, bcos_vgg, bcos_vit

__all__ = [
    "bcos_convnext",
    "bcos_densenet",
    "bcos_inception",
    "bcos_resnet",
    "bcos_resnet_clip",
    "bcos_vgg",
    "bcos_vit",
]
