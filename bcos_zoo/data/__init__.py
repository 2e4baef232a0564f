"""Sets of labelled images: found, split, checked, ordered, augmented and loaded."""

from .augment import Augment, make_mixup, train_transform
from .folders import list_folder
from .memory import ImageSet, load_in_memory, shift_and_flip
from .seeds import seeded

__all__ = [
    "Augment",
    "ImageSet",
    "list_folder",
    "load_in_memory",
    "make_mixup",
    "seeded",
    "shift_and_flip",
    "train_transform",
]
