"""How good a network is: its accuracy, and where its explanations point compared with other methods."""

from .accuracy import Accuracy, accuracy_of, evaluate
from .answers import Answers, Measured, answer, measure
from .comparison import compare, rows
from .discrimination import RANKED, RESAMPLES, SPECIFICITY, Asked, Score, discriminate
from .geometry import centres
from .objects import Boxes, Masks, read_boxes, read_masks
from .run import run
from .settings import CURVES, METRICS, Settings, parse_counts
from .summary import box_plot, curve_plot, for_json, summarise, write_tables

__all__ = [
    "CURVES",
    "METRICS",
    "RANKED",
    "RESAMPLES",
    "SPECIFICITY",
    "Accuracy",
    "Answers",
    "Asked",
    "Boxes",
    "Masks",
    "Measured",
    "Score",
    "Settings",
    "accuracy_of",
    "answer",
    "box_plot",
    "centres",
    "compare",
    "curve_plot",
    "discriminate",
    "evaluate",
    "for_json",
    "measure",
    "parse_counts",
    "read_boxes",
    "read_masks",
    "rows",
    "run",
    "summarise",
    "write_tables",
]
