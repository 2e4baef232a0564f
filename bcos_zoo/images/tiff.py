"""TIFF files whose content Pillow silently misreads.

Found by comparing Pillow with tifffile over bits, planes, photometric interpretations, extra samples, tiles,
byte orders and compressions; `tests/images/test_images_tiff.py` repeats that.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from PIL import Image

from .._compat import imaging

BITS, COMPRESSION, PHOTOMETRIC, PLANES, COLOURS, SUBSAMPLING, INKS, SIGN = (
    *(258, 259, 262, 284),
    *(320, 530, 332, 339),
)
WHITE_IS_ZERO, PALETTE, YCBCR, CMYK = 0, 3, 6, 5
JPEG = (6, 7)  # compressions that handle subsampling themselves


def misread(image: Image.Image) -> str | None:
    """What makes Pillow misread this TIFF, in words; None if nothing does."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return None
    bits = _numbers(tags.get(BITS, 1))
    if any(sign != 1 for sign in _numbers(tags.get(SIGN, 1))):
        return "signed, complex or floating-point values, whose black and white are not known"
    if PHOTOMETRIC not in tags:
        return "no photometric interpretation: whether 0 is black or white is not known"
    if len(set(bits)) > 1 or bits[0] not in (1, 2, 4, 8, 16):
        return f"{'/'.join(map(str, bits))} bits a sample, whose white is not known"
    photometric = tags[PHOTOMETRIC]
    if photometric == WHITE_IS_ZERO and bits[0] > 8:
        return "16-bit values of which 0 is white"
    if tags.get(PLANES, 1) != 1 and len(bits) > 1 and bits[0] != 8:
        return f"{bits[0]}-bit channels in separate planes"
    if photometric == PALETTE and 0 < max(_numbers(tags.get(COLOURS, 0))) < 256:
        return "a colour map of 8 bits where the format has 16, which would be black"
    if photometric == YCBCR and tags.get(COMPRESSION, 1) not in JPEG:
        if _numbers(tags.get(SUBSAMPLING, (2, 2))) != (1, 1):
            return "subsampled YCbCr that is not JPEG"
    if photometric == CMYK and tags.get(INKS, 1) != 1:
        return "inks other than CMYK"
    return None


def _numbers(value: object) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (int(str(value)),)


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collect the errors that libtiff reports while this thread decodes a picture.

    libtiff itself would print them on stderr and, for fax data, continue with a guess that Pillow takes for
    the picture. Pillow offers no access to them, so a handler is set in its C library. If the library lacks
    that function, libtiff prints as usual.
    """
    _listen()
    messages: list[str] = []
    _heard.messages = messages
    try:
        yield messages
    finally:
        _heard.messages = None


@cache
def _listen() -> None:
    library = ctypes.CDLL(imaging.__file__)
    if handler := getattr(library, "TIFFSetErrorHandler", None):  # Pillow may be built without libtiff
        handler.argtypes, handler.restype = [_HANDLER], ctypes.c_void_p
        handler(_hear)


_heard = threading.local()
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)


@_HANDLER  # type: ignore[untyped-decorator]
def _hear(module: bytes | None, form: bytes | None, values: int | None) -> None:
    messages = getattr(_heard, "messages", None)
    if messages is not None:
        messages.append(f"{(module or b'libtiff').decode(errors='replace')}: it cannot decode this")
