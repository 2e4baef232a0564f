"""Lists of classes that a record of the manifest names in place of the names themselves."""

from __future__ import annotations

import functools

from timm.data import ImageNetInfo

from ..errors import InputError


@functools.cache
def class_list(name: str) -> tuple[str, ...]:
    """The names in a list of classes, the first synonym of each. Raises InputError for an unknown list."""
    if name != "imagenet-1k":
        raise InputError(f"no list of classes named {name!r}; allowed: imagenet-1k, or the names themselves")
    return tuple(description.split(", ")[0] for description in ImageNetInfo(name).label_descriptions())


@functools.cache
def wordnet_numbers() -> tuple[str, ...]:
    """The names of ImageNet-1k's folders, such as n01440764, in the order of its classes."""
    return tuple(ImageNetInfo("imagenet-1k").label_names())
