"""Which kinds of files count as pictures."""

from __future__ import annotations

import importlib.util
from functools import cache

from PIL import Image

# Pillow recognises these, but has no decoder for them or would start another program (Ghostscript for EPS),
# or they hold measurements, whose sign, scale or white Pillow ignores.
NOT_PIXELS = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MCIDAS", "MPEG", "SPIDER", "WMF"})
HEIF = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
HEIF_ADVICE = "`pip install pillow-heif` brings its decoder"


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of the formats that are decoded here, in lower case and with the dot."""
    register_heif()
    formats = Image.registered_extensions()  # loads all plugins
    return frozenset(s.lower() for s, f in formats.items() if f in Image.OPEN and f not in NOT_PIXELS)


@cache
def register_heif() -> bool:
    """Let Pillow read HEIC photographs if pillow-heif is installed; returns whether it is."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    importlib.import_module("pillow_heif").register_heif_opener()
    return True
