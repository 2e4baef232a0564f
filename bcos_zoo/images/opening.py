"""From one file, or PIL image, to plain RGB."""

from __future__ import annotations

import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import InputError, redact
from . import tiff
from .colours import to_rgb
from .formats import HEIF_ADVICE, NOT_PIXELS, register_heif

UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright; other values change nothing
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
ADDRESS = re.compile(r"data:|[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # a Path keeps only one of the two slashes
# Their decoders hold several copies of the picture: at Pillow's limit they would take more than 2 GB.
SEVERAL_COPIES = frozenset({"AVIF", "WEBP"})
STEPS = {"L;2": 85, "L;4": 17}  # between grey values of 2 and 4 bits in a PNG, once widened to 8
ADVICE = "give a whole picture, such as a JPEG or PNG"
_warning_filters = threading.Lock()


def load_rgb(source: str | os.PathLike[str] | Image.Image) -> Image.Image:
    """The picture as a viewer shows it: a new 8-bit RGB image, upright, first frame, without metadata.

    source: path of a file, or a PIL image, which is not changed (if animated, its current frame counts).
    EXIF orientation is applied; colours are converted to sRGB by the picture's ICC profile or, in a PNG, by
    its gamma and primaries (a profile that is broken, or for other channels, is ignored, as in viewers);
    transparency is put on white; 16-bit grey is scaled to 8 bits. The result carries none of this, so loading
    it again changes nothing.
    Raises InputError for anything that cannot be opened or decoded, for values whose white is not known (32
    bits, signed, floating-point), for a TIFF that Pillow would misread, for an address, and, before decoding,
    for more than PIL.Image.MAX_IMAGE_PIXELS pixels (two thirds of that in WebP and AVIF, whose decoders take
    more memory; no limit if it is None).
    """
    if isinstance(source, Image.Image):
        filename = getattr(source, "filename", "")
        return _to_rgb(source, repr(os.fsdecode(filename)) if filename else "the given image")
    path = as_path(source)
    name = repr(str(path))
    status = status_of(path)
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name} is a folder; an image file is needed: name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name} is a device or a pipe; an image file is needed: save it as a file first")
    if status.st_size == 0:
        raise InputError(f"{name} is empty (0 bytes); {ADVICE}: copy or download it again")
    try:
        file = path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error
    with file, _open(file, name) as image:
        return _to_rgb(image, name)


def decode_rgb(data: bytes, name: str) -> Image.Image:
    """As `load_rgb`, for the content of an image file. name: for messages. Raises InputError."""
    name = repr(name)
    if not data:
        raise InputError(f"{name} is empty (0 bytes); {ADVICE}: copy or download it again")
    with _open(io.BytesIO(data), name) as image:
        return _to_rgb(image, name)


def as_path(source: str | os.PathLike[str]) -> Path:
    try:
        return Path(source)
    except TypeError as error:
        came = type(source).__name__
        raise InputError(f"got a {came}; a path or a PIL image is needed: open it with Pillow") from error


def status_of(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> InputError:
    name = repr(str(path))
    if ADDRESS.match(str(path)):
        said = redact(str(path).replace(":/", "://", 1).replace(":///", "://"))[:200]
        return InputError(
            f"{said!r} is an address; only files are read, and nothing is fetched: download it first, such "
            "as with `curl -LO`, and give the file"
        )
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return InputError(f"{name} does not exist; an existing file or folder is needed: check the spelling")
    if isinstance(error, PermissionError):
        return InputError(f"{name}: permission denied; a readable path is needed: change its permissions")
    reason = getattr(error, "strerror", None) or error
    return InputError(f"{name} cannot be read ({reason}); a readable path is needed: check it and the disk")


@contextmanager
def _quiet() -> Iterator[None]:
    # Python has one list of warning filters for all threads: two at once could leave it changed.
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _refusing(name: str, fault: str) -> Iterator[None]:
    """Turn whatever Pillow raises on damaged data, which may be nearly any error, into an InputError."""
    try:
        yield
    except MemoryError:  # not the picture's fault
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"\d+", str(error))
        raise _too_large(name, pixels[0] if pixels else "too many", Image.MAX_IMAGE_PIXELS) from error
    except Exception as error:
        said = "" if isinstance(error, UnidentifiedImageError) else f" ({' '.join(str(error).split())})"
        raise InputError(f"{name} {fault}{said}; {ADVICE}") from error


def _open(file: BinaryIO, name: str) -> Image.Image:
    # Between one and two times its pixel limit, Pillow only warns: silenced, as _check_size refuses those.
    start = file.read(12)
    file.seek(0)
    if start[4:8] == b"ftyp" and start[8:] in HEIF_BRANDS and not register_heif():
        raise InputError(f"{name} is a HEIC picture; {HEIF_ADVICE}, or save it as JPEG")
    with _refusing(name, "is not an image, or is cut off or damaged in its header"), _quiet():
        image: Image.Image = Image.open(file)
    if image.format in NOT_PIXELS:
        raise InputError(f"{name} is {image.format}, which is not decoded here; {ADVICE}: convert it")
    return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    _check_size(image, name)
    step = _step(image)
    # Only a TIFF may warn while it loads; other formats need not wait for the lock of all threads.
    quiet = _quiet() if image.format == "TIFF" else nullcontext()
    with _refusing(name, "is cut off or damaged"), tiff.listening() as wrong, quiet:
        image.load()
    if wrong:
        raise InputError(f"{name} is cut off or damaged ({wrong[0]}); {ADVICE}")
    if image.mode == "F" or (image.mode == "I" and not _fits_16_bits(image)):
        raise InputError(
            f"{name} has 32-bit grey values (mode {image.mode}), whose white is not known; "
            "8 or 16 bits are allowed: scale it to 8 bits first"
        )
    if fault := tiff.misread(image):
        raise InputError(f"{name} is a TIFF of {fault}; save it as 8-bit RGB or grey first")
    with _refusing(name, f"of mode {image.mode} does not turn into RGB"):
        rgb = to_rgb(image if step == 1 else _with_key(image, step))
    turn = UPRIGHT.get(_orientation(image))
    rgb = rgb if turn is None else rgb.transpose(turn)
    rgb.info = {}
    return rgb


def _step(image: Image.Image) -> int:
    """The factor on a PNG's transparent grey: Pillow widens grey values to 8 bits, but not this one.

    To be called before the picture is loaded: after that, its number of bits is lost.
    """
    packed = [tile[3] for tile in getattr(image, "tile", ())] if image.format == "PNG" else []
    return STEPS.get(packed[0], 1) if packed and isinstance(image.info.get("transparency"), int) else 1


def _with_key(image: Image.Image, step: int) -> Image.Image:
    copied = image.copy()
    copied.info["transparency"] = image.info["transparency"] * step
    return copied


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width == 0 or height == 0:
        raise InputError(f"{name} has no pixels ({width} x {height}); at least 1 x 1 is needed: {ADVICE}")
    if (most := Image.MAX_IMAGE_PIXELS) is None:
        return
    most = most * 2 // 3 if image.format in SEVERAL_COPIES else most
    if width * height > most:
        raise _too_large(name, str(width * height), most)


def _too_large(name: str, pixels: str, most: int | None) -> InputError:
    return InputError(
        f"{name} has {pixels} pixels; at most {most} are allowed: "
        "shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )


def _fits_16_bits(image: Image.Image) -> bool:
    bounds = image.getextrema()
    return all(isinstance(bound, int) and 0 <= bound <= 65535 for bound in bounds)


def _orientation(image: Image.Image) -> int:
    try:
        with _quiet():
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # viewers show a picture with damaged EXIF data in its stored orientation
        return 1
