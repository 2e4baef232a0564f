"""Inherently interpretable vision backbones: B-cos networks, checkpoints and exact explanations."""

from . import models  # registers every architecture with timm
from .activations import explain_unit
from .classifier import Classifier, Prediction, load
from .errors import BcosZooError, InputError, UnknownModelError, WeightsError
from .explain import ExplanationHead, explain
from .explanation import Explanation
from .hub import export, push_to_hub
from .layers import linear_mode
from .zoo import create_model, list_models

__version__ = "0.1.0.dev0"

__all__ = [
    "BcosZooError",
    "Classifier",
    "Explanation",
    "ExplanationHead",
    "InputError",
    "Prediction",
    "UnknownModelError",
    "WeightsError",
    "__version__",
    "create_model",
    "explain",
    "explain_unit",
    "export",
    "linear_mode",
    "list_models",
    "load",
    "models",
    "push_to_hub",
]
