"""Sets of labelled images: found, split, checked, ordered, augmented and loaded."""

from . import seeds
from .augment import Augment, make_mixup, train_transform
from .batches import Batch
from .folders import list_folder
from .loader import Augmented, train_loader, val_loader
from .order import Order
from .samples import Samples
from .scan import UnreadableError
from .seeds import seeded
from .stream import Stream
from .task import Task, open_task

__all__ = [
    "Augment",
    "Augmented",
    "Batch",
    "Order",
    "Samples",
    "Stream",
    "Task",
    "UnreadableError",
    "list_folder",
    "make_mixup",
    "open_task",
    "seeds",
    "seeded",
    "train_loader",
    "train_transform",
    "val_loader",
]
