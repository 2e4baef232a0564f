"""What the plots of a run share: writing the file, colours, and names that their font can draw."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..extras import required
from ..files import SOFTWARE, replacing

# Distinct for readers who see no red or no green, and in print: Okabe and Ito 2008, darkest first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREY = "#666666"
LONGEST = 24  # characters of a class name
OTHER_SCRIPTS = (  # system fonts, where installed, for letters that matplotlib's own font lacks
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "WenQuanYi Zen Hei"),
    *("PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans"),
)


def figure(width: float, height: float) -> Any:
    """A matplotlib figure of this size in inches, independent of pyplot and its global state.

    Raises InputError if matplotlib, of the extra `plots`, is not installed.
    """
    made = required("matplotlib.figure", "matplotlib", "plots").Figure((width, height), layout="constrained")
    required("matplotlib.backends.backend_agg", "matplotlib", "plots").FigureCanvasAgg(made)
    return made


def save(drawn: Any, path: Path, *, dpi: int) -> Path:
    """Write a figure, whole or not at all, in the format of its ending. Raises OSError if this fails.

    PNG files say that we made them, so that they are not taken for photographs later.
    """
    origin = {"metadata": {"Software": SOFTWARE}} if path.suffix == ".png" else {}
    with replacing(path) as temporary:
        drawn.savefig(temporary, format=path.suffix[1:], dpi=dpi, **origin)
    return path


def picture(drawn: Any, *, dpi: int) -> Image.Image:
    """A figure as pixels."""
    drawn.set_dpi(dpi)
    drawn.canvas.draw()
    return Image.fromarray(np.asarray(drawn.canvas.buffer_rgba())).convert("RGB")


def shown(name: str, index: int) -> str:
    """A class name as a plot shows it: one line, not too long; its number if no font here has its letters."""
    line = " ".join(name.split())
    if not line or any(not _has(character) for character in line):
        return f"class {index}"
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1].rstrip()}…"


@functools.cache
def families() -> tuple[str, ...]:
    """Names of the fonts to draw with: where one lacks a letter, the next one is tried."""
    fonts = required("matplotlib.font_manager", "matplotlib", "plots").fontManager
    return ("DejaVu Sans", *(name for name in OTHER_SCRIPTS if name in set(fonts.get_font_names())))


@functools.cache
def _has(character: str) -> bool:
    manager = required("matplotlib.font_manager", "matplotlib", "plots")
    files = [manager.findfont(manager.FontProperties(family=name)) for name in families()]
    return any(manager.get_font(file).get_char_index(ord(character)) for file in files)
