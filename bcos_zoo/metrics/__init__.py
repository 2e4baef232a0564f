"""What explanations and predictions are measured by: pure functions on tensors, of any network or method.

    grids         the grid pointing game's images, and explanations of them through windows of one size
    localisation  share of the positive contributions in a grid's cell, a box or a mask
    deletion      the prediction as pixels go or come by importance
    quality       completeness, sparseness and stability of explanations
    calibration   whether probabilities are what they say
    discrimination  AUROC, and sensitivity at a specificity
    intervals     how far a score would differ on other images: bootstrap over groups

Attributions and contributions are maps (..., H, W): one number a pixel, the higher the more it supports the
target. Results are in float64 (float32 on devices without it), whatever the input, so
that nothing underflows.
"""

from .calibration import brier_score, expected_calibration_error
from .deletion import Curve, deletion_curve, insertion_curve
from .discrimination import auroc, ranks, sensitivity_at_specificity
from .grids import make_grids, slide, tile
from .intervals import Interval, bootstrap
from .localisation import energy_in_boxes, energy_in_mask, localisation_score
from .quality import Gap, Stability, completeness_gap, sparseness, stability

__all__ = [
    "Curve",
    "Gap",
    "Interval",
    "Stability",
    "auroc",
    "bootstrap",
    "brier_score",
    "completeness_gap",
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
