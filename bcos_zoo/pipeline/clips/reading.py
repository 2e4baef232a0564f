"""The frames of a clip as a player shows them: upright, in square pixels, in the colours that were filmed."""

from __future__ import annotations

import math
import os
import stat
import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from ... import images
from ...errors import InputError, reason
from . import containers

SUFFIXES = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .wmv .flv .ts .mts .m2ts .3gp .ogv".split())
WEBCAM_SECONDS = 10.0  # a webcam has no end of its own
MOST_PIXELS = 8192 * 4352  # of a frame: 8K. FFmpeg holds several in memory
ATTACHED = 0x400  # FFmpeg's disposition flag for a cover picture
UNSPECIFIED, ITU709 = 2, 1  # colour matrices, as FFmpeg numbers them
HIGH = 576  # rows; taller clips that do not name their matrix are taken for HD, as by players
_Turn = Image.Transpose
# The signs of the display matrix (a b / c d), x' = a x + c y, y' = b x + d y -> what Pillow does to show it
TURNS = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): _Turn.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): _Turn.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): _Turn.ROTATE_180,
    (0, 1, 1, 0): _Turn.TRANSPOSE,
    (0, -1, -1, 0): _Turn.TRANSVERSE,
    (0, 1, -1, 0): _Turn.ROTATE_270,
    (0, -1, 1, 0): _Turn.ROTATE_90,
}


def is_clip(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a clip, judged by its suffix, or a webcam: a device file such as /dev/video0."""
    path = Path(path)
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        return stat.S_ISCHR(path.stat().st_mode) and path.name.startswith("video")
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False


def frames(av: Any, source: Path, seconds: float | None) -> Generator[tuple[float, Image.Image]]:
    """(time in seconds from the first frame, picture), upright and with square pixels.

    Raises InputError for a file that is not a clip, has no pictures, is cut or damaged, or is above 8K.
    """
    count = 0
    with _opened(av, source) as container:
        stream = next((s for s in container.streams.video if not int(s.disposition) & ATTACHED), None)
        if stream is None:
            raise InputError(f"{source} has no pictures, only sound; give a clip with a video stream")
        if stream.codec_context is None:
            raise InputError(
                f"{source} is of a codec that is not decoded here; convert it to H.264 in an MP4"
            )
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
        webcam = stat.S_ISCHR(source.stat().st_mode)
        end = seconds if seconds is not None else WEBCAM_SECONDS if webcam else math.inf
        pace = 1 / float(stream.average_rate or 25)
        start: float | None = None
        try:
            for frame in container.decode(stream):
                if getattr(frame, "is_corrupt", False):
                    raise InputError(f"{source}: frame {count} is damaged; give a whole clip")
                now = count * pace if frame.time is None else float(frame.time)
                start = now if start is None else start
                if now - start >= end:
                    return
                yield now - start, _shown(source, frame, stream.sample_aspect_ratio)
                count += 1
        except (av.error.FFmpegError, ValueError) as error:  # ValueError: PyAV's, for frames without a format
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{source}: frame {count} is damaged ({reason(error)}); give a whole clip"
            ) from error


@contextmanager
def _opened(av: Any, source: Path) -> Iterator[Any]:
    try:
        webcam = stat.S_ISCHR(source.stat().st_mode)
        cut = None if webcam else containers.missing(source)
        # A file must not make FFmpeg open others: playlists contain addresses.
        how: dict[str, Any] = {"format": "v4l2"} if webcam else {"options": {"protocol_whitelist": "file"}}
        container = av.open(str(source), **how)
    except (OSError, av.error.FFmpegError, ValueError) as error:
        raise InputError(
            f"{source} cannot be read as a clip ({reason(error)}); give a whole one, such as an MP4"
        ) from error
    with container:
        if cut is not None:
            raise InputError(f"{source} is cut off ({cut}); give a whole clip, or copy it again")
        yield container


def _shown(source: Path, frame: Any, aspect: Any) -> Image.Image:
    """A frame as a player shows it. aspect: width of a pixel over its height, if known."""
    width, height = frame.width, frame.height
    if aspect and aspect > 0 and aspect != 1:  # stretch, never shrink, so that nothing visible is lost
        width, height = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    if width * height > MOST_PIXELS or frame.width * frame.height > MOST_PIXELS:
        raise InputError(
            f"{source} has frames of {width} x {height} pixels; at most {MOST_PIXELS} are allowed: shrink it"
        )
    if frame.colorspace == UNSPECIFIED and frame.height > HIGH:
        frame.colorspace = ITU709
    opaque = not any(component.is_alpha for component in frame.format.components)
    # A transparent clip is put on white, as transparent pictures are; a player shows the page behind it.
    picture = frame.to_image() if opaque else images.load_rgb(_with_alpha(frame))
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    turn = _turn(frame)
    return picture if turn is None else picture.transpose(turn)


def _with_alpha(frame: Any) -> Image.Image:
    return Image.fromarray(frame.to_ndarray(format="rgba"))


def _turn(frame: Any) -> Image.Transpose | None:
    """The turn or flip, of all eight, that makes up for how the telephone was held."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    largest = max(abs(a), abs(b), abs(c), abs(d))
    return TURNS.get(tuple(round(value / largest) for value in (a, b, c, d))) if largest else None
