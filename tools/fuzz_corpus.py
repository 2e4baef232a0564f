"""The intact files that `fuzz.py` damages: small pictures and clips of every kind, always the same."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageCms

IMAGES = ("jpg", "png", "webp", "gif", "tif", "bmp", "avif")
CLIPS = ("mp4", "mkv", "webm", "avi", "mov")


def picture(width: int = 40, height: int = 28, turn: int = 0) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    bands = [(rows * 7 + turn * 9) % 256, (columns * 6 + turn * 5) % 256, (rows * columns + turn) % 256]
    return Image.fromarray(np.stack(bands, -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def corpus(folder: Path) -> dict[str, list[bytes]]:
    """File contents by ending. folder: where clips are written meanwhile."""
    rgb, grey = picture(), picture().convert("L")
    rgba = picture()
    rgba.putalpha(grey)
    wide = Image.fromarray((np.arange(40 * 28, dtype=np.uint16) * 58).reshape(28, 40))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [picture(turn=k) for k in range(1, 4)]
    several = {"save_all": True, "append_images": frames, "duration": 40}
    palette = rgb.quantize(16)
    files = {
        "jpg": [
            encoded(rgb, "JPEG", icc_profile=profile, exif=exif),
            encoded(rgb, "JPEG", progressive=True, quality=60),
            encoded(rgb.convert("CMYK"), "JPEG"),
            encoded(grey, "JPEG", restart_marker_rows=1),
        ],
        "png": [
            encoded(rgb, "PNG", icc_profile=profile),
            encoded(rgba, "PNG", exif=exif),
            encoded(palette, "PNG", transparency=3),
            encoded(wide, "PNG"),
            encoded(grey.convert("1"), "PNG"),
            encoded(rgb, "PNG", **several),
        ],
        "webp": [
            encoded(rgb, "WEBP", icc_profile=profile, exif=exif),
            encoded(rgba, "WEBP", lossless=True),
            encoded(rgb, "WEBP", **several),
        ],
        "gif": [encoded(palette, "GIF", transparency=2), encoded(rgb, "GIF", **several)],
        "tif": [
            encoded(rgb, "TIFF"),
            encoded(wide, "TIFF"),
            encoded(rgba, "TIFF", compression="tiff_lzw"),
            encoded(rgb, "TIFF", compression="jpeg"),
            encoded(palette, "TIFF", compression="tiff_deflate"),
            encoded(grey.convert("1"), "TIFF", compression="group4"),
            encoded(rgb.convert("CMYK"), "TIFF", compression="packbits"),
            encoded(rgb, "TIFF", **several),
        ],
        "bmp": [encoded(rgb, "BMP"), encoded(rgba, "BMP"), encoded(palette, "BMP")],
        "avif": [encoded(rgb, "AVIF", exif=exif), encoded(rgba, "AVIF"), encoded(rgb, "AVIF", **several)],
    }
    clips = {
        "mp4": [("libx264", "yuv420p"), ("mpeg4", "yuv420p"), ("libx265", "yuv420p10le")],
        "mkv": [("libx264", "yuv420p"), ("ffv1", "yuv420p"), ("mjpeg", "yuvj420p")],
        "webm": [("libvpx-vp9", "yuv420p"), ("libvpx", "yuv420p"), ("libsvtav1", "yuv420p")],
        "avi": [("mpeg4", "yuv420p"), ("mjpeg", "yuvj420p"), ("rawvideo", "bgr24")],
        "mov": [("png", "rgb24"), ("prores_ks", "yuv422p10le"), ("qtrle", "argb")],
    }
    for ending, codecs in clips.items():
        files[ending] = [clip(folder / f"clip.{ending}", *codec) for codec in codecs]
    return files


def clip(path: Path, codec: str, pixels: str) -> bytes:
    """A clip of five frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, pixels
        if codec == "libx265":
            stream.options = {"x265-params": "log-level=none:pools=none:frame-threads=1"}
        stream.thread_count = 1  # otherwise the bytes would depend on the machine
        for k in range(5):
            frame = av.VideoFrame.from_image(picture(64, 64, k))
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()
