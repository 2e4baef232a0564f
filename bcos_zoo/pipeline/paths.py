"""Where pictures are written, whole or not at all."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from ..errors import InputError, reason
from ..files import LONGEST, replacing, shortened, writing
from ..images import own_info
from ..pictures import figures, panels
from . import clips

RESERVED = re.compile(r'[<>:"|?*\\\x00-\x1f\x7f]')  # reserved on Windows, or breaking lines
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
ADVICE = "give another folder with -o"  # for a file that cannot be written
T = TypeVar("T")


def save_picture(picture: Image.Image, path: Path) -> Path:
    """Write a PNG, whole or not at all. Raises InputError if it cannot be written."""
    with writing(path, ADVICE), replacing(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=own_info())
    return path


def save_bytes(data: bytes, path: Path) -> Path:
    with writing(path, ADVICE), replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


def save_sheet(rows: Sequence[list[panels.Panel]], path: Path) -> Path:
    """Write a contact sheet: PNG, SVG or PDF, by its ending. Raises InputError as `save_picture` does."""
    rows, format_ = panels.in_columns(rows), path.suffix[1:]
    if format_ in figures.FORMATS:
        return save_bytes(figures.draw(rows, format_), path)
    return save_picture(panels.lay_out(rows, side=panels.SMALL), path)


def picture_paths(sources: Sequence[Path], folder: Path, ending: str = "png") -> list[Path]:
    """`folder/NAME.explained.png` for each source, numbered where two sources share a name.

    Names that differ only in case, or in how an accent is stored, count as equal: some disks cannot tell them
    apart. Characters that some system forbids become `_`, and names too long for a disk are cut.
    ending: of the files, except for clips, which stay clips: `NAME.explained.mp4`.
    """
    used: set[str] = set()
    paths = []
    for source in sources:
        end = "mp4" if clips.is_clip(source) else ending
        name, n = file_name(source.stem, f".explained.{end}"), 2
        while _same(name) in used:
            name, n = file_name(source.stem, f".{n}.explained.{end}"), n + 1
        used.add(_same(name))
        paths.append(folder / name)
    return paths


def file_name(stem: str, ending: str) -> str:
    """A file's name that every common file system takes: the start of the stem, and all of the ending."""
    stem = RESERVED.sub("_", stem)
    if stem.partition(".")[0].upper() in DEVICES:
        stem = f"_{stem}"
    return shortened(stem, LONGEST - len(ending.encode())) + ending


def _same(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def attempt(source: object, do: Callable[[], T]) -> T | InputError:
    """What `do` returns for one file, or why it failed: whatever happens to one, the others go on."""
    try:
        return do()
    except InputError as error:
        return error
    except MemoryError:
        return InputError(f"{str(source)!r} needs more memory than there is; give a smaller picture")
    except OSError as error:
        return InputError(f"{str(source)!r}: {reason(error)}; check the file, the disk and the folder of -o")


def check_spared(path: Path, given: set[Path]) -> None:
    if path.resolve() in given:
        raise InputError(
            f"{path} is one of the images to explain, and would be overwritten; give another folder with -o"
        )
