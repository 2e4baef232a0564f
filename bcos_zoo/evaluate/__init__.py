"""What a network is worth: its accuracy, and where its explanations point beside those of other methods."""

from .accuracy import Accuracy, evaluate
from .comparison import compare, rows
from .geometry import centres
from .objects import Boxes, Masks, read_boxes, read_masks
from .run import run
from .settings import CURVES, METRICS, Settings, parse_counts
from .summary import box_plot, curve_plot, for_json, summarise, write_tables

__all__ = [
    "CURVES",
    "METRICS",
    "Accuracy",
    "Boxes",
    "Masks",
    "Settings",
    "box_plot",
    "centres",
    "compare",
    "curve_plot",
    "evaluate",
    "for_json",
    "parse_counts",
    "read_boxes",
    "read_masks",
    "rows",
    "run",
    "summarise",
    "write_tables",
]
