"""Figures as SVG and PDF: the text stays text, the pictures keep their pixels. Needs matplotlib."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from ..extras import required
from . import plots
from .panels import Panel

FORMATS = ("svg", "pdf")
INCHES = 2.2  # the width of a panel; three make the width of a page
FONT = 7.0  # points
_settings = threading.Lock()  # matplotlib's are global: two threads at once could leave them changed


def check(format_: str) -> None:
    """Raise InputError for any other format, or if matplotlib is missing."""
    if format_ not in FORMATS:
        raise InputError(f"format {format_!r}: allowed are {', '.join(FORMATS)}")
    required("matplotlib", "matplotlib", "plots")


def draw(rows: Sequence[Sequence[Panel]], format_: str) -> bytes:
    """The bytes of a file with rows of panels and captions. The same panels give the same bytes.

    Raises InputError as `check` does, and for a row without panels.
    """
    check(format_)
    if not rows or not all(rows):
        raise InputError("there is no panel to draw, or a row of none; give at least one for each row")
    import matplotlib

    width, height = rows[0][0].picture.size
    columns = max(len(row) for row in rows)
    tall = INCHES * height / width + 4 * FONT / 72  # the caption below has two lines
    figure = plots.figure(columns * INCHES, len(rows) * tall)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, places in zip(rows, axes, strict=True):
        for place in places:
            place.set_axis_off()
        for panel, place in zip(row, places[: len(row)], strict=True):
            sharp = panel.sharp or min(panel.picture.size) >= 224
            place.imshow(_pixels(panel.picture), interpolation="none" if sharp else "bicubic")
            below: Any = {"xy": (0.5, 0), "xycoords": "axes fraction", "textcoords": "offset points"}
            text: Any = {"ha": "center", "va": "top", "fontsize": FONT, "parse_math": False}
            place.annotate(panel.caption, xytext=(0, -3), **below, **text)
    buffer = io.BytesIO()
    fixed: Any = {"svg.hashsalt": "bcos_zoo", "svg.fonttype": "none", "pdf.fonttype": 42}
    with _settings, matplotlib.rc_context(fixed):
        date = {"Date": None} if format_ == "svg" else {"CreationDate": None}
        figure.savefig(buffer, format=format_, metadata=date, transparent=True, dpi=200)
    return buffer.getvalue()


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture if picture.mode == "RGBA" else picture.convert("RGB"))
