"""From a file or a PIL image to plain RGB. Only opens and lists; the card's transform resizes and crops."""

from .folders import Passed, find_images, gather, is_own_result, own_info
from .formats import NOT_PIXELS, image_suffixes
from .opening import decode_rgb, load_rgb

__all__ = [
    "NOT_PIXELS",
    "Passed",
    "decode_rgb",
    "find_images",
    "gather",
    "image_suffixes",
    "is_own_result",
    "load_rgb",
    "own_info",
]
