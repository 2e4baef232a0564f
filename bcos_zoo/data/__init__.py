"""Sets of labelled images: found, split, checked, ordered, augmented and loaded."""

from . import groups, seeds
from .augment import Augment, make_mixup, train_transform
from .batches import Batch
from .folders import list_folder
from .loader import Augmented, train_loader, val_loader
from .sampler import SeededBatchSampler
from .samples import Samples, of_files
from .scan import UnreadableError
from .seeds import seeded
from .stream import Stream
from .tables import from_csv
from .task import Task, open_task

__all__ = [
    "Augment",
    "Augmented",
    "Batch",
    "SeededBatchSampler",
    "Samples",
    "Stream",
    "Task",
    "UnreadableError",
    "from_csv",
    "groups",
    "list_folder",
    "make_mixup",
    "of_files",
    "open_task",
    "seeds",
    "seeded",
    "train_loader",
    "train_transform",
    "val_loader",
]
