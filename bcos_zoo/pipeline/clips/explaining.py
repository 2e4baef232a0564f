"""From a clip to a clip of its explanations: every frame explained, on one scale, at its time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ...classifier import Classifier, Prediction
from ...errors import InputError, reason
from ...explanations.explanation import Explanation
from ...explanations.targets import Targets
from ...extras import required
from ...files import replacing
from ...pictures import panels
from . import reading

FOLLOW = 0.1  # share of a frame's own scale in the shared one's update: at 25 frames/s, half in 0.3 s
TICKS = 60_000  # per second of the written clip; a whole number per frame at 24, 25, 29.97, 30, 50 and 60/s
CODECS = ("libx264", "mpeg4")  # the second one is in every build of FFmpeg


@dataclass(frozen=True)
class Clip:
    """What `explain_clip` says about a clip."""

    path: Path
    frames: int
    label: str  # the class that is explained in every frame
    completeness_gap: float  # the largest over all frames, in logits
    predictions: list[Prediction]  # of the first frame


class SteadyScale:
    """A scale that follows the frames slowly, so that colours do not flicker."""

    def __init__(self) -> None:
        self.scale: panels.Scale | None = None

    def update(self, explanation: Explanation) -> panels.Scale:
        """The scale to draw a frame with, from this frame and those before it."""
        own = panels.Scale.of(explanation)
        if (old := self.scale) is None:
            self.scale = own
        else:
            logits = old.logits + FOLLOW * (own.logits - old.logits)
            self.scale = panels.Scale(logits, old.length + FOLLOW * (own.length - old.length))
        return self.scale


def explain_clip(
    classifier: Classifier,
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    target: Targets = None,
    seconds: float | None = None,
) -> Clip:
    """Write a clip, without sound, of the source's frames beside their explanations, whole or not at all.

    source: a clip, or a webcam's device file. path: where to write; ends in .mp4.
    target: one class, explained in every frame; by default the class predicted for the first frame.
    seconds: how much of the source, by default all of a clip and 10 s of a webcam.
    Raises InputError for a source that is not a clip, is damaged anywhere or has no frames, for several
    targets, for a path that cannot be written, and if PyAV is missing.
    """
    av = required("av", "av", "video")
    source, path = Path(source), Path(path)
    if path.suffix.lower() != ".mp4":
        raise InputError(f"{path}: clips are written as .mp4; give a name that ends so")
    if seconds is not None and not 0 < seconds < math.inf:
        raise InputError(f"seconds={seconds}: allowed are finite numbers above 0, or None")
    # Closed here: while an error is handled, its traceback would keep the file or the webcam open.
    with closing(reading.frames(av, source, seconds)) as frames:
        return _explain(av, classifier, source, path, frames, target)


def _explain(
    av: Any,
    classifier: Classifier,
    source: Path,
    path: Path,
    frames: Iterator[tuple[float, Image.Image]],
    target: Targets,
) -> Clip:
    first = next(frames, None)
    if first is None:
        raise InputError(f"{source} has no frames; give a clip with at least one")
    wanted = target if target is not None else classifier.predict(first[1], 1)[0].index
    explanation = classifier.explain(first[1], wanted)
    if explanation.targets.shape[1] != 1:
        raise InputError(
            f"got {explanation.targets.shape[1]} targets; a clip shows one class: name one --target"
        )
    index = int(explanation.targets[0, 0])
    ranked = classifier.rank(explanation.logits[0], len(classifier.class_names))
    steady, gap, count = SteadyScale(), 0.0, 0
    try:
        with replacing(path) as temporary, _Writer(av, temporary) as writer:
            for time, frame in _chain(first, frames):
                explanation = classifier.explain(frame, index)
                gap = max(gap, explanation.completeness().abs().max().item())
                picture = _draw(classifier, frame, explanation, index, steady.update(explanation))
                writer.write(time, picture)
                count += 1
    except (OSError, av.error.FFmpegError) as error:
        raise InputError(
            f"{path}: cannot be written: {reason(error)}; give another folder with -o"
        ) from error
    return Clip(path, count, classifier.class_names[index], gap, ranked[:5])


def _chain(
    first: tuple[float, Image.Image], rest: Iterator[tuple[float, Image.Image]]
) -> Iterator[tuple[float, Image.Image]]:
    yield first
    yield from rest


def _draw(
    classifier: Classifier, frame: Image.Image, explanation: Explanation, index: int, scale: panels.Scale
) -> Image.Image:
    """Photograph beside W(x), with the probability of the class below; width and height are even."""
    view = classifier.view(frame)
    zoom = panels.PANEL / max(view.size)
    width, height = (2 * max(round(side * zoom / 2), 1) for side in view.size)
    sheet = Image.new("RGB", (2 * width, height + panels.CAPTION), panels.WHITE)
    sheet.paste(view.resize((width, height), Image.Resampling.BICUBIC), (0, 0))
    colours = panels.rgba_image(panels.in_colour(explanation, scale)[0, 0])
    sheet.paste(panels.on_white(colours).resize((width, height), Image.Resampling.BICUBIC), (width, 0))
    probability = classifier.outputs.probabilities(explanation.logits)[0, index].item()
    caption = f"{classifier.class_names[index]}, {classifier.outputs.said(probability)}"
    panels.write_line(ImageDraw.Draw(sheet), (6, height + 3), caption, 2 * width - 12, panels.BLACK)
    return sheet


class _Writer:
    """Writes frames to an MP4 file, each at its time."""

    def __init__(self, av: Any, path: Path) -> None:
        self.av, self.last = av, -1
        self.container = av.open(str(path), "w", format="mp4")
        self.stream: Any = None

    def __enter__(self) -> _Writer:
        return self

    def write(self, time: float, picture: Image.Image) -> None:
        if self.stream is None:
            self.stream = self._add_stream(*picture.size)
        frame = self.av.VideoFrame.from_image(picture)
        self.last = max(self.last + 1, round(time * TICKS))  # times that stand still or go back are moved on
        frame.pts, frame.time_base = self.last, Fraction(1, TICKS)
        self.container.mux(self.stream.encode(frame))

    def _add_stream(self, width: int, height: int) -> Any:
        name = next(name for name in CODECS if name in self.av.codecs_available)
        stream = self.container.add_stream(name, rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        stream.codec_context.bit_rate = 4_000_000
        return stream

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None and self.stream is not None:
                self.container.mux(self.stream.encode(None))
        finally:
            self.container.close()
