"""From stored values to the colours that a viewer shows: 8-bit sRGB on a white page."""

from __future__ import annotations

import io
from functools import cache, lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageCms

WIDE_GREY = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
GREY = frozenset({"1", "L", "LA", "La"}) | WIDE_GREY
CAN_BE_TRANSPARENT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"})
PIECE = 1 << 22  # pixels converted at a time, as several copies of a whole large picture would add up
LEVEL = 1  # of 255: a profile that changes no colour by more is sRGB with other rounding
SRGB_WHITE_AND_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
SRGB_GAMMA = 1 / 2.2  # as PNG files state it


def to_rgb(image: Image.Image) -> Image.Image:
    """A new RGB image in sRGB, with transparency on white; `image` is loaded and otherwise unchanged."""
    width, height = image.size
    rows = max(1, PIECE // width)
    if rows >= height:
        return _convert(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        piece = image.crop((0, top, width, min(top + rows, height)))
        whole.paste(_convert(piece), (0, top))
    return whole


def _convert(image: Image.Image) -> Image.Image:
    key = image.info.get("transparency")
    if image.mode in WIDE_GREY:
        table = [round(value / 257) for value in range(65536)]  # 65535 / 257 = 255
        if isinstance(key, int):
            table[key] = 255  # the transparent grey becomes white, as below
        return _managed(image.convert("I").point(table, "L"), image.info)
    if image.mode not in CAN_BE_TRANSPARENT or not image.has_transparency_data:
        if image.mode == "CMYK":
            return _managed(image, image.info)
        return _managed(image.convert("L" if image.mode in GREY else "RGB"), image.info)
    # A viewer shows a transparent picture on a white page. The colours stored in transparent pixels are
    # leftovers, mostly black, that nobody has seen: the network must not see them either.
    info = dict(image.info)
    image = image.copy()  # convert() writes a palette's alpha into its source
    if isinstance(key, tuple) and max(key) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in key)  # Pillow keeps the upper 8 bits of 16
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    opaque = Image.merge("RGB", rgba.split()[:3])
    colours = _managed(opaque.getchannel("R") if image.mode in GREY else opaque, info)
    white = Image.new("RGB", rgba.size, "white")
    return Image.composite(colours, white, rgba.getchannel("A"))


def _managed(image: Image.Image, info: dict[Any, Any]) -> Image.Image:
    """L, RGB or CMYK values to sRGB, by the profile that came with them or by PNG's gamma and primaries.

    A profile that cannot be read, or is for other channels, is ignored, as in viewers.
    """
    profile = info.get("icc_profile")
    if isinstance(profile, bytes) and profile:
        space = _space(profile)
        if image.mode == "L" and space == "RGB":
            image = image.convert("RGB")
        if (transform := _to_srgb(profile, image.mode, space)) is not None:
            managed = ImageCms.applyTransform(image, transform)
            assert managed is not None  # it is None only for changes in place
            return managed
    elif "gamma" in info and "srgb" not in info and image.mode in ("L", "RGB"):
        return _by_gamma(image.convert("RGB"), info["gamma"], info.get("chromaticity"))
    return image.convert("RGB")


@lru_cache(maxsize=16)
def _space(profile: bytes) -> str:
    """The channels that a profile is for: RGB, GRAY, CMYK; empty if it cannot be read."""
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return ""


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str, space: str) -> ImageCms.ImageCmsTransform | None:
    """The transform for images of that mode; None if the profile is not for them, or changes nothing."""
    if space != {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}.get(mode):
        return None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
        probe = _probe(mode)
        if probe is None:
            return transform
        changed = ImageCms.applyTransform(probe, transform)
        assert changed is not None
        bands = ImageChops.difference(changed, probe.convert("RGB")).getextrema()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return transform if max(int(band[1]) for band in bands) > LEVEL else None  # type: ignore[index]


@cache
def _probe(mode: str) -> Image.Image | None:
    """A grid of colours, to see what a profile does to them; None for CMYK."""
    levels = np.arange(0, 256, dtype=np.uint8)
    if mode == "L":
        return Image.fromarray(levels[None])
    if mode != "RGB":
        return None
    cube = np.stack(np.meshgrid(*[levels[::15]] * 3, indexing="ij"), -1)
    return Image.fromarray(cube.reshape(18, -1, 3))


def _by_gamma(image: Image.Image, gamma: float, chromaticities: Any) -> Image.Image:
    """RGB to sRGB, for a PNG with gAMA and perhaps cHRM chunks (PNG specification, third edition, 11.3.2)."""
    primaries = _primaries(chromaticities)
    same = np.abs(np.subtract(primaries, SRGB_WHITE_AND_PRIMARIES)).max() < 0.01
    if not 0.01 < gamma < 100 or (same and abs(gamma / SRGB_GAMMA - 1) < 0.05):
        return image
    linear = (np.arange(256) / 255) ** (1 / gamma)
    values = linear.astype(np.float32)[np.asarray(image)]
    if not same:
        change = np.linalg.inv(_to_xyz(SRGB_WHITE_AND_PRIMARIES)) @ _to_xyz(primaries)
        values = (values @ change.T.astype(np.float32)).clip(0, 1)
    curved = np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)
    return Image.fromarray((255 * curved).round().astype(np.uint8))


def _primaries(said: Any) -> tuple[float, ...]:
    """White, red, green, blue, each x and y, from the file; those of sRGB if they make no sense."""
    try:
        found = tuple(float(value) for value in said)
        _to_xyz(found)
    except (TypeError, ValueError, np.linalg.LinAlgError, ZeroDivisionError):
        return SRGB_WHITE_AND_PRIMARIES
    return found if len(found) == 8 and min(found[1::2]) > 0 else SRGB_WHITE_AND_PRIMARIES


def _to_xyz(chromaticities: tuple[float, ...]) -> np.ndarray:
    """(3, 3): the matrix from linear RGB to XYZ, in which white has Y = 1."""
    points = np.reshape(chromaticities, (4, 2))
    xyz = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in points.tolist()])
    corners = xyz[1:].T
    return corners * np.linalg.solve(corners, xyz[0])
