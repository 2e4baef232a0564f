"""Exact explanations: the linear map that a network is for each image, and what can be read from it."""

from .engine import ExplanationHead, explain
from .explanation import Explanation
from .units import explain_unit

__all__ = ["Explanation", "ExplanationHead", "explain", "explain_unit"]
