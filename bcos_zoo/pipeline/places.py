"""Where pictures are written, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .. import render, vector, video
from ..errors import InputError
from ..files import replacing


def save_picture(picture: Image.Image, path: Path) -> Path:
    """Write a PNG, whole or not at all. Raises InputError if the place cannot be written."""
    try:
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG")
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def save_bytes(data: bytes, path: Path) -> Path:
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def save_sheet(rows: Sequence[list[render.Panel]], path: Path) -> Path:
    """Write a contact sheet, PNG, SVG or PDF by its ending. Raises InputError as `save_picture` does."""
    rows, format_ = render.in_columns(rows), path.suffix[1:]
    if format_ in vector.FORMATS:
        return save_bytes(vector.draw(rows, format_), path)
    return save_picture(render.lay_out(rows, side=render.SMALL), path)


def unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written: {error.strerror or error}; give another folder with -o")


def picture_paths(sources: Sequence[Path], folder: Path, ending: str = "png") -> list[Path]:
    """`folder/NAME.explained.png` for each source, numbered where two sources share a name.

    ending: of the files, but for clips, which stay clips: `NAME.explained.mp4`.
    """
    used: set[Path] = set()
    paths = []
    for source in sources:
        end = "mp4" if video.is_clip(source) else ending
        path, n = folder / f"{source.stem}.explained.{end}", 2
        while path in used:
            path, n = folder / f"{source.stem}.{n}.explained.{end}", n + 1
        used.add(path)
        paths.append(path)
    return paths


def check_spared(path: Path, given: set[Path]) -> None:
    if path.resolve() in given:
        raise InputError(
            f"{path} is one of the images to explain, and would be overwritten; give another folder with -o"
        )


def as_text(name: str) -> str:
    """A file's name for people: it may hold bytes that are no text, which neither page nor font can show."""
    return "".join(character if character.isprintable() else "?" for character in name)
