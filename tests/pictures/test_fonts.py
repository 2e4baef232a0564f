"""Captions in any script: names that differ look different."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bcos_zoo.pictures import fonts, panels


def drawn(text: str) -> bytes:
    picture = Image.new("RGB", (200, 24), "white")
    panels.write_line(ImageDraw.Draw(picture), (2, 2), text, 196, (0, 0, 0))
    assert (np.asarray(picture) < 128).any()
    return picture.tobytes()


NAMES = ("é", "è", "ß", "ł", "α", "β", "к", "п", "猫", "犬", "ก", "\U0001f600", "e", "plain ±3 …")


@pytest.mark.parametrize("files", [fonts.FILES, ()], ids=["fonts of this machine", "Pillow's own alone"])
def test_names_that_differ_look_different(monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...]) -> None:
    monkeypatch.setattr(fonts, "FILES", files)
    for a, b in itertools.combinations(NAMES, 2):
        assert drawn(a) != drawn(b), (a, b)


def test_what_no_font_has_is_written_by_its_code_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "FILES", ())
    assert fonts.for_text("cat 猫") == ("cat \\u732b", fonts.OWN)
    assert fonts.for_text("cat ±1 …") == ("cat ±1 …", fonts.OWN)


def test_a_font_that_is_not_here_is_passed_over() -> None:
    assert fonts.font("no such font.ttf", 16) is None
