"""What a network is worth: its accuracy, and where its explanations point beside those of other methods."""

from .accuracy import Accuracy, evaluate
from .comparison import METRICS, Settings, compare, parse_counts, rows
from .run import run
from .summary import box_plot, curve_plot, summarise, write_tables

__all__ = [
    "METRICS",
    "Accuracy",
    "Settings",
    "box_plot",
    "compare",
    "curve_plot",
    "evaluate",
    "parse_counts",
    "rows",
    "run",
    "summarise",
    "write_tables",
]
