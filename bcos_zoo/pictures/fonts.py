"""Fonts for the captions of pictures: one that has the letters, wherever it is found on this machine."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
OWN = ""  # Pillow's own font, which has little more than ASCII
NOBODYS = "\U0010ffff"  # a character that no font has: it is drawn as what stands for a missing one
FILES = (  # matplotlib's, then fonts of systems, by scripts
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "NotoSansCJK-Regular.ttc"),
    *("NotoSansSC-Regular.otf", "NotoSansJP-Regular.otf", "wqy-zenhei.ttc", "PingFang.ttc", "msyh.ttc"),
    *("Hiragino Sans GB.ttc", "malgun.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf"),
)


def for_text(text: str) -> tuple[str, str]:
    """The text, and the name of a font that has all its letters, for `font`.

    If no font here has them, those that Pillow's own lacks are written by their code points, as `\\u732b`:
    names that differ then still look different.
    """
    for name in (OWN, *FILES):
        if all(_has(name, character) for character in set(text)):
            return text, name
    written = (c if _has(OWN, c) else c.encode("ascii", "backslashreplace").decode() for c in text)
    return "".join(written), OWN


@functools.cache
def font(name: str, size: int) -> Font | None:
    """A font by the name of its file, in pixels; None if it is not on this machine."""
    if name == OWN:
        return ImageFont.load_default(size)
    for place in (_matplotlibs() / name, name):  # Pillow looks a bare name up where the system has its fonts
        try:
            return ImageFont.truetype(str(place), size)
        except OSError:
            continue
    return None


@functools.cache
def _has(name: str, character: str) -> bool:
    if (own := font(name, 16)) is None:
        return False
    return character.isspace() or _drawn(own, character) != _drawn(own, NOBODYS)


def _drawn(own: Font, character: str) -> tuple[object, ...]:
    mask = own.getmask(character)
    return (mask.size, *mask)


def _matplotlibs() -> Path:
    """The folder of the fonts that come with matplotlib, if it is installed."""
    found = importlib.util.find_spec("matplotlib")
    places = found.submodule_search_locations if found else None
    return Path(next(iter(places), "") if places else "", "mpl-data", "fonts", "ttf")
