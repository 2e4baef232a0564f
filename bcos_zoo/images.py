"""From a file or a PIL image to plain RGB. Only opens and lists: the card's transform resizes and crops."""

from __future__ import annotations

import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

from .errors import InputError

# Pillow recognises these, but has no decoder for them or would start another program (Ghostscript for EPS).
NOT_PIXELS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
WIDE_GREY = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
CAN_BE_TRANSPARENT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"})
UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright; any other value leaves them alone
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ADVICE = "give a whole picture, such as a JPEG or PNG"
_warning_filters = threading.Lock()


def load_rgb(source: str | os.PathLike[str] | Image.Image) -> Image.Image:
    """The picture as a viewer shows it: a new 8-bit RGB image, upright, first frame, without metadata.

    source: path of a file, or a PIL image, which is left as it was (if animated: its current frame).
    EXIF orientation is applied, transparency is put on white, 16-bit grey is scaled to 8 bits. The
    orientation is not kept, so loading the result once more changes nothing.
    Raises InputError for what cannot be opened or decoded, for 32-bit grey, and for more than
    PIL.Image.MAX_IMAGE_PIXELS pixels (None: no limit), of which none is decoded.
    """
    if isinstance(source, Image.Image):
        filename = getattr(source, "filename", "")
        return _to_rgb(source, repr(os.fsdecode(filename)) if filename else "the given image")
    path = _as_path(source)
    name = repr(str(path))
    status = _stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name} is a folder; an image file is needed: name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name} is a device or a pipe; an image file is needed: save it as a file first")
    if status.st_size == 0:
        raise InputError(f"{name} is empty (0 bytes); {ADVICE}: copy or download it again")
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    with file, _open(file, name) as image:
        return _to_rgb(image, name)


def decode_rgb(data: bytes, name: str) -> Image.Image:
    """As `load_rgb`, of an image file's content. name: what to call it in errors. Raises InputError."""
    name = repr(name)
    if not data:
        raise InputError(f"{name} is empty (0 bytes); {ADVICE}: copy or download it again")
    with _open(io.BytesIO(data), name) as image:
        return _to_rgb(image, name)


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The image files that `paths` name, in the order given.

    A file is kept as it is, whatever its suffix: opening it decides. A folder stands for the files below it
    whose suffix Pillow can open, in sorted order; links are followed, hidden files and folders skipped.
    Raises InputError for a path that does not exist and for a folder that cannot be listed or holds no image.
    """
    if isinstance(paths, (str, os.PathLike)):
        raise InputError(f"one path came, {os.fspath(paths)!r}; a list of paths is needed: put it in [ ]")
    found: list[Path] = []
    for path in map(_as_path, paths):
        inside = sorted(_walk(path)) if stat.S_ISDIR(_stat(path).st_mode) else [path]
        if not inside:
            raise InputError(
                f"{str(path)!r} holds no image; a folder with files such as .jpg or .png is needed "
                "(hidden ones do not count): name another folder, or the files themselves"
            )
        found += inside
    return found


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes, lower case with the dot, of the formats that this Pillow decodes."""
    formats = Image.registered_extensions()  # loads all plugins
    return frozenset(s.lower() for s, f in formats.items() if f in Image.OPEN and f not in NOT_PIXELS)


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise _unreadable(Path(error.filename or folder), error) from error

    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        if real in seen:  # a link to a folder above would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in files:
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in image_suffixes():
                yield Path(here, file)


def _as_path(source: str | os.PathLike[str]) -> Path:
    try:
        return Path(source)
    except TypeError as error:
        came = type(source).__name__
        raise InputError(f"a {came} came; a path or a PIL image is needed: open it with Pillow") from error


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    name = repr(str(path))
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return InputError(f"{name} does not exist; an existing file or folder is needed: check the spelling")
    if isinstance(error, PermissionError):
        return InputError(f"{name}: permission denied; a readable path is needed: change its permissions")
    reason = getattr(error, "strerror", None) or error
    return InputError(f"{name} cannot be read ({reason}); a readable path is needed: check it and the disk")


@contextmanager
def _quiet() -> Iterator[None]:
    # Python keeps one list of warning filters for all threads: two at once could leave it changed for good.
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _refusing(name: str, fault: str) -> Iterator[None]:
    """Turn what Pillow raises on damaged data, which may be nearly anything, into an InputError."""
    try:
        yield
    except MemoryError:  # not the picture's fault
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"\d+", str(error))
        raise _too_large(name, pixels[0] if pixels else "too many") from error
    except Exception as error:
        said = "" if isinstance(error, UnidentifiedImageError) else f" ({' '.join(str(error).split())})"
        raise InputError(f"{name} {fault}{said}; {ADVICE}") from error


def _open(file: BinaryIO, name: str) -> Image.Image:
    # Pillow only warns between one and two times its pixel limit: silenced, for _check_size refuses those.
    with _refusing(name, "is not an image, or is cut off or damaged in its header"), _quiet():
        image: Image.Image = Image.open(file)
    if image.format in NOT_PIXELS:
        raise InputError(f"{name} is {image.format}, which is not decoded here; {ADVICE}: convert it")
    return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    _check_size(image, name)
    with _refusing(name, "is cut off or damaged"):
        image.load()
    if image.mode == "F" or (image.mode == "I" and not _fits_16_bits(image)):
        raise InputError(
            f"{name} has 32-bit grey values (mode {image.mode}), whose white is not known; "
            "8 or 16 bits are allowed: scale it to 8 bits first"
        )
    with _refusing(name, f"of mode {image.mode} does not turn into RGB"):
        rgb = _convert(image)
    turn = UPRIGHT.get(_orientation(image))
    rgb = rgb if turn is None else rgb.transpose(turn)
    rgb.info = {}
    return rgb


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width == 0 or height == 0:
        raise InputError(f"{name} has no pixels ({width} x {height}); at least 1 x 1 is needed: {ADVICE}")
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise _too_large(name, str(width * height))


def _too_large(name: str, pixels: str) -> InputError:
    return InputError(
        f"{name} has {pixels} pixels; at most {Image.MAX_IMAGE_PIXELS} are allowed: "
        "shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )


def _fits_16_bits(image: Image.Image) -> bool:
    bounds = image.getextrema()
    return all(isinstance(bound, int) and 0 <= bound <= 65535 for bound in bounds)


def _orientation(image: Image.Image) -> int:
    try:
        with _quiet():
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # viewers show a picture with damaged EXIF data as it is stored
        return 1


def _convert(image: Image.Image) -> Image.Image:
    key = image.info.get("transparency")
    if image.mode in WIDE_GREY:
        table = [round(value / 257) for value in range(65536)]  # 65535 / 257 = 255
        if isinstance(key, int):
            table[key] = 255  # the transparent grey: white, as below
        return image.convert("I").point(table, "L").convert("RGB")
    if image.mode not in CAN_BE_TRANSPARENT or not image.has_transparency_data:
        return image.convert("RGB")
    # A viewer shows a transparent picture on its white page. The colours stored under the transparent pixels
    # are leftovers, mostly black, that nobody has seen: the network must not see them either.
    image = image.copy()  # convert() writes the alpha of a palette into its source
    if isinstance(key, tuple) and max(key) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in key)  # of 16 bits Pillow keeps the upper 8
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
