"""Packages that come with an extra of bcos-zoo, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import InputError


def required(module: str, package: str, extra: str = "eval") -> Any:
    """Import a module of another package. If it is missing, raises InputError, which says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{package} cannot be imported ({error}); install it with `pip install {package}`, or, in a "
            f"checkout of bcos_zoo, with all else that goes with it: `pip install '.[{extra}]'`"
        ) from error
