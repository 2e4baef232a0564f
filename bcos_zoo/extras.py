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
            f"{package} cannot be imported ({error}); `pip install 'bcos-zoo[{extra}]'` brings it"
        ) from error
