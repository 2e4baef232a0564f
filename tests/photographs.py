"""Small pictures of every kind, made by the tests that open them."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, features

MODES = [
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I",
    "I;16",
]
ANIMATED = [
    "GIF",
    "PNG",
    pytest.param("WEBP", marks=pytest.mark.skipif(not features.check("webp"), reason="no WebP")),
]
HOW = Image.Transpose
TURNS = [HOW.FLIP_LEFT_RIGHT, HOW.ROTATE_180, HOW.FLIP_TOP_BOTTOM, HOW.TRANSPOSE, HOW.ROTATE_270]
TURNS += [HOW.TRANSVERSE, HOW.ROTATE_90]  # of EXIF orientations 2 to 8
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def picture(width: int = 24, height: int = 16) -> Image.Image:
    """Smooth, and different under each flip and turn."""
    bands = [Image.linear_gradient("L").resize((width, height)).rotate(a) for a in (0, 180)]
    return Image.merge(
        "RGB", [*bands, Image.radial_gradient("L").crop((0, 0, 99, 50)).resize((width, height))]
    )


def in_mode(mode: str) -> Image.Image:
    via = {"LA": "L", "La": "LA", "PA": "P", "RGBa": "RGBA", "I;16": "I"}.get(mode)
    return (picture().convert(via) if via else picture()).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *before_rows: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    data = b"".join(before_rows) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + data


def encoded(image: Image.Image, **options: object) -> bytes:
    image.save(buffer := io.BytesIO(), **options)
    return buffer.getvalue()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def difference(a: Image.Image, b: Image.Image) -> int:
    """Largest difference of any channel of any pixel, in levels of 255."""
    assert (a.mode, a.size) == (b.mode, b.size)
    return max(high for _, high in ImageChops.difference(a, b).getextrema())


def state(image: Image.Image) -> tuple[object, ...]:
    return (
        image.mode,
        image.size,
        image.tobytes(),
        image.getpalette("RGBA"),
        dict(image.info),
        dict(image.getexif()),
    )


def coloured(folder: Path, count: int = 7) -> Path:
    """Pictures of smooth colours, 40 x 32 pixels, in a folder: 0.png, 1.png, ..."""
    generator = np.random.default_rng(0)
    for i in range(count):
        pixels = generator.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 32)).save(folder / f"{i}.png")
    return folder
