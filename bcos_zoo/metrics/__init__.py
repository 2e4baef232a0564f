"""Measures of explanations and predictions: pure functions on tensors, for any network or method.

    grids           images of the grid pointing game, and their explanations through windows of one size
    localisation    share of the positive contributions in a grid's cell, a box or a mask
    deletion        the prediction as pixels are removed or added by importance
    quality         completeness, constants, sparseness and stability of explanations
    checkerboard    patterns of the network's strides in a map
    calibration     whether probabilities match how often predictions are right
    discrimination  AUROC, and sensitivity at a specificity
    intervals       how far a score would differ on other images: bootstrap over groups

Attributions and contributions are maps (..., H, W): one number per pixel, higher the more it supports the
target. Results are in float64 (float32 on devices without it) whatever the input, so that nothing underflows.
"""

from .calibration import brier_score, expected_calibration_error
from .checkerboard import checkerboard
from .deletion import Curve, deletion_curve, insertion_curve
from .discrimination import auroc, ranks, sensitivity_at_specificity
from .grids import make_grids, slide, tile
from .intervals import Interval, bootstrap
from .localisation import energy_in_boxes, energy_in_mask, localisation_score
from .quality import Gap, Stability, completeness_gap, constant_share, sparseness, stability

__all__ = [
    "Curve",
    "Gap",
    "Interval",
    "Stability",
    "auroc",
    "bootstrap",
    "brier_score",
    "checkerboard",
    "completeness_gap",
    "constant_share",
    "deletion_curve",
    "energy_in_boxes",
    "energy_in_mask",
    "expected_calibration_error",
    "insertion_curve",
    "localisation_score",
    "make_grids",
    "ranks",
    "sensitivity_at_specificity",
    "slide",
    "sparseness",
    "stability",
    "tile",
]
