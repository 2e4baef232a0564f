"""Inherently interpretable vision backbones: B-cos networks, checkpoints and exact explanations.

The import registers every architecture with timm, at the latest when timm is imported. Everything else is
imported when it is first used, so that `bcos-zoo --help` need not wait for torch.
"""

import sys
import threading
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import _startup as _startup  # now, not at first use: it records the environment
from ._version import __version__

if TYPE_CHECKING:
    from . import models
    from .classifier import Classifier, Prediction, load
    from .conversion.bcosify import bcosify
    from .errors import BcosZooError, InputError, UnknownModelError, WeightsError
    from .explanations import Explanation, ExplanationHead, explain, explain_unit
    from .hub.export import export, push_to_hub
    from .layers import linear_mode
    from .zoo import create_model, list_models

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
    "bcosify",
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

_FILES = {  # public name -> the module it is in
    **dict.fromkeys(("Classifier", "Prediction", "load"), "classifier"),
    **dict.fromkeys(("BcosZooError", "InputError", "UnknownModelError", "WeightsError"), "errors"),
    **dict.fromkeys(("Explanation", "ExplanationHead", "explain", "explain_unit"), "explanations"),
    **dict.fromkeys(("export", "push_to_hub"), "hub.export"),
    "bcosify": "conversion",
    "linear_mode": "layers",
    **dict.fromkeys(("create_model", "list_models"), "zoo"),
}


def __getattr__(name: str) -> Any:
    """A public name or a submodule, imported at its first use."""
    if name in _FILES:
        value = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    elif name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    else:
        try:
            value = import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Registering:  # a MetaPathFinder, without the base class, which is slow to import
    """Registers our architectures with timm as soon as anyone imports timm.

    It finds timm and our own modules as the other finders do, and waits for the end of the outermost import:
    timm may be imported by a module of ours, which is then only half executed.
    """

    def __init__(self) -> None:
        self.importing = threading.local()

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "timm" and not fullname.startswith(f"{__name__}."):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: self.execute(execute, module)  # type: ignore[method-assign]
        return spec

    def execute(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        depth = getattr(self.importing, "depth", 0)
        self.importing.depth = depth + 1
        try:
            execute(module)
        finally:
            self.importing.depth = depth
        if depth == 0 and self in sys.meta_path and "timm" in sys.modules:
            sys.meta_path.remove(self)
            register()


def register() -> None:
    """Register every architecture with timm."""
    for room in ("models", "conversion"):
        import_module(f"{__name__}.{room}")


if "timm" in sys.modules:
    register()
else:
    sys.meta_path.insert(0, _Registering())
