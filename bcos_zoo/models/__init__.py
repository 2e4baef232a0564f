"""The families. Importing this package registers every architecture with timm."""

from . import bcos_resnet

__all__ = ["bcos_resnet"]
