"""Exact explanations: a network's own linear map for each image, and what is read off it."""

from .engine import ExplanationHead, explain
from .explanation import Explanation
from .units import explain_unit

__all__ = ["Explanation", "ExplanationHead", "explain", "explain_unit"]
