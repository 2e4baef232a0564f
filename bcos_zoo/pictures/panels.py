"""Pictures of explanations. Takes tensors, returns PIL images; opens and writes no files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import InputError
from ..explanations.explanation import Explanation, opaque_length
from ..layers.functional import at_least_float32
from . import fonts

PANEL = 320  # pixels: the longer side of one picture in a figure
SMALL = 160  # the same in a contact sheet
MARGIN = 12
CAPTION = 26
BLACK, GREY, WHITE = (20, 20, 20), (110, 110, 110), (255, 255, 255)
FAINT = 0.5  # contrast of a photograph under a map, relative to its own


@dataclass(frozen=True)
class Scale:
    """What full colour stands for. One scale for several explanations makes their pictures comparable."""

    logits: float  # the contribution of a pixel, in logits, shown in full red; its negative in full blue
    length: float  # the length of a pixel's weights, in logits, shown opaque

    @staticmethod
    def of(explanation: Explanation) -> Scale:
        """The smallest scale that covers every image and target of an explanation."""
        limit = max(color_limit(one) for one in explanation.contributions.flatten(0, 1))
        opaque = opaque_length(explanation.lengths().detach(), explanation.percentile)
        return Scale(limit, float(opaque.max()))

    @staticmethod
    def shared(scales: Iterable[Scale]) -> Scale:
        """One scale that covers several, at least one: the largest of each number."""
        several = list(scales)
        return Scale(max(one.logits for one in several), max(one.length for one in several))


@dataclass(frozen=True)
class Panel:
    """One picture of a figure and the line under it. sharp: show its pixels as squares."""

    picture: Image.Image
    caption: str = ""
    sharp: bool = False
    title: bool = False  # the caption names the row


def in_colour(explanation: Explanation, scale: Scale | None = None) -> Tensor:
    """(N, T, 4, H, W): `explanation.rgba()`, with the opacity of the scale if there is one."""
    rgba = explanation.rgba()
    if scale is not None:
        alpha = explanation.lengths() / (scale.length or 1.0)
        rgba = torch.cat([rgba[:, :, :3], alpha.clamp(0, 1).unsqueeze(2)], dim=2)
    return rgba


def color_limit(contributions: Tensor, percentile: float = 99.5) -> float:
    """The contribution, in logits, that gets full colour in a map: a percentile of the absolute values.

    The largest absolute value if the percentile is zero, as in maps that are zero nearly everywhere.
    """
    size = np.abs(_array(contributions))
    return float(np.percentile(size, percentile)) or float(size.max())


def contribution_map(
    contributions: Tensor, *, limit: float | None = None, percentile: float = 99.5
) -> Image.Image:
    """Red where a pixel speaks for the class, blue where against, white where it adds nothing.

    contributions: (H, W) in logits. limit: the contribution that gets full colour, by default the
    `color_limit` at the percentile; give several maps the same limit to compare them.
    """
    strength = _strength(contributions, limit, percentile)[..., None]
    toward = np.where(
        strength >= 0, np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0])
    )  # the channels taken away from white
    return Image.fromarray(np.round(255 * (1 - np.abs(strength) * toward)).astype(np.uint8))


def overlay(
    photograph: Image.Image,
    contributions: Tensor,
    *,
    limit: float | None = None,
    percentile: float = 99.5,
) -> Image.Image:
    """The contribution map on the photograph, which is grey and faint where pixels add nothing.

    photograph: what the network saw, in any size; the picture gets that size. The rest is as in
    `contribution_map`.
    """
    strength = _strength(contributions, limit, percentile)
    colour = np.where(strength[..., None] >= 0, np.array([255, 0, 0]), np.array([0, 0, 255]))
    alpha = np.round(255 * np.abs(strength))[..., None]
    ink = Image.fromarray(np.concatenate([colour, alpha], axis=2).astype(np.uint8), "RGBA")
    faint = photograph.convert("L").point([round(255 - FAINT * (255 - v)) for v in range(256)])
    on_top = ink.resize(photograph.size, Image.Resampling.NEAREST)
    return Image.alpha_composite(faint.convert("RGBA"), on_top).convert("RGB")


def _strength(contributions: Tensor, limit: float | None, percentile: float) -> np.ndarray:
    """(H, W) in [-1, 1]: contributions relative to the limit."""
    if contributions.ndim != 2:
        raise InputError(
            f"a contribution map is (H, W), got {tuple(contributions.shape)}; "
            "index the image and target first"
        )
    if limit is not None and not 0 <= limit < float("inf"):
        raise InputError(f"limit={limit}: allowed are finite logits from 0 on, or None for the map's own")
    limit = color_limit(contributions, percentile) if limit is None else limit
    values = _array(contributions)
    return np.clip(values / limit if limit else np.zeros_like(values), -1, 1)


def _array(values: Tensor) -> np.ndarray:
    """The same numbers for numpy, which has neither gradients nor bfloat16; they must be finite."""
    array: np.ndarray = at_least_float32(values.detach()).cpu().numpy()
    if not np.isfinite(array).all():
        raise InputError("NaN or infinity has no colour; see whether the logits of the network are finite")
    return array


def rgba_image(rgba: Tensor) -> Image.Image:
    """(4, H, W) in [0, 1] -> a transparent picture."""
    if rgba.ndim != 3 or rgba.shape[0] != 4:
        raise InputError(
            f"a colour explanation is (4, H, W), got {tuple(rgba.shape)}; index the image and target first"
        )
    return Image.fromarray(np.round(255 * _array(rgba.permute(1, 2, 0))).astype(np.uint8), "RGBA")


def on_white(picture: Image.Image) -> Image.Image:
    """A transparent picture on white paper, as the papers print them."""
    paper = Image.new("RGBA", picture.size, (*WHITE, 255))
    return Image.alpha_composite(paper, picture.convert("RGBA")).convert("RGB")


def input_image(x: Tensor) -> Image.Image:
    """(K, H, W) in [0, 1], K = 1 or 3 -> what the network saw."""
    pixels = np.round(255 * _array(x.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0)))
    return Image.fromarray(pixels.astype(np.uint8))


def figure(
    image: Image.Image,
    explanation: Explanation,
    index: int = 0,
    *,
    titles: Sequence[str],
    scale: Scale | None = None,
) -> Image.Image:
    """Image, contribution map and colour explanation side by side, in one titled row per target.

    image: the photograph, or what the network saw of it; it is scaled to the panel.
    index: which of the explained images. titles: T lines of text, such as "cat 0.93".
    scale: shared by a set of figures; by default the maps of this figure share their own `color_limit`.
    Raises InputError if there is not one title for each target.
    """
    height, width = explanation.contributions.shape[-2:]
    return lay_out(figure_panels(image, explanation, index, titles=titles, scale=scale), (width, height))


def figure_panels(
    image: Image.Image,
    explanation: Explanation,
    index: int = 0,
    *,
    titles: Sequence[str],
    scale: Scale | None = None,
) -> list[list[Panel]]:
    """The rows of `figure`, before layout."""
    _check_titles(explanation, titles)
    rgba = in_colour(explanation, scale)[index]
    limit = color_limit(explanation.contributions[index]) if scale is None else scale.logits
    opaque = "" if scale is None else f", opaque at {scale.length:.2g}"
    return [
        [
            Panel(image.convert("RGB"), title, title=True),
            Panel(
                contribution_map(contributions, limit=limit),
                f"contributions, up to {limit_text(limit, scale, explanation.unit)}",
                sharp=True,
            ),
            Panel(on_white(rgba_image(colours)), f"W(x), in colour{opaque}"),
        ]
        for title, contributions, colours in zip(titles, explanation.contributions[index], rgba, strict=True)
    ]


def map_panels(
    explanation: Explanation,
    index: int = 0,
    *,
    titles: Sequence[str],
    on: Image.Image | None = None,
    scale: Scale | None = None,
) -> list[list[Panel]]:
    """One row of contribution maps, one per target, with title and scale. on: a photograph below them."""
    _check_titles(explanation, titles)
    limit = color_limit(explanation.contributions[index]) if scale is None else scale.logits
    panels = []
    for title, contributions in zip(titles, explanation.contributions[index], strict=True):
        drawn = (
            contribution_map(contributions, limit=limit)
            if on is None
            else overlay(on, contributions, limit=limit)
        )
        panels.append(
            Panel(
                drawn, f"{title}, {limit_text(limit, scale, explanation.unit)}", sharp=on is None, title=True
            )
        )
    return [panels]


def limit_text(limit: float, scale: Scale | None, unit: str) -> str:
    """What full colour stands for, in the words of the captions. unit: that of the explanation."""
    return f"±{limit:.2g} {unit} a pixel".replace("  ", " ") + ("" if scale is None else ", shared")


def sheet_panels(
    photograph: Image.Image,
    explanation: Explanation,
    index: int = 0,
    *,
    name: str,
    titles: Sequence[str],
    scale: Scale | None = None,
) -> list[Panel]:
    """One row of a contact sheet: the photograph above its name, and W(x) per target above its title."""
    _check_titles(explanation, titles)
    small = photograph.convert("RGB")
    small.thumbnail((2 * SMALL, 2 * SMALL), Image.Resampling.BICUBIC)
    opaque = "" if scale is None else f", opaque at {scale.length:.2g}"
    rgba = in_colour(explanation, scale)[index]
    pictures = (on_white(rgba_image(one)) for one in rgba)
    explained = [Panel(one, f"{title}{opaque}") for one, title in zip(pictures, titles, strict=True)]
    return [Panel(small, name, title=True), *explained]


def in_columns(rows: Sequence[list[Panel]], columns: int = 3, *, tall: int = 6) -> list[list[Panel]]:
    """Rows placed side by side if there are more than `tall`, so that the sheet does not become a ribbon."""
    if len(rows) <= tall:
        return list(rows)
    return [[p for row in rows[i : i + columns] for p in row] for i in range(0, len(rows), columns)]


def lay_out(
    rows: Sequence[Sequence[Panel]], shape: tuple[int, int] | None = None, *, side: int = PANEL
) -> Image.Image:
    """Rows of panels with their captions on one white sheet.

    shape: (width, height), the proportions of every panel; by default those of the first picture. side: the
    longer side of a panel, in pixels.
    """
    if not rows or not all(rows):
        raise InputError("a sheet of no pictures; give at least one row, and one picture in each")
    width, height = shape or rows[0][0].picture.size
    zoom = side / max(height, width)
    size = (max(round(width * zoom), 1), max(round(height * zoom), 1))
    gap = CAPTION if side >= PANEL else MARGIN
    row_height = gap + size[1] + CAPTION
    columns = max(len(row) for row in rows)
    edges = (columns * (size[0] + MARGIN) + MARGIN, len(rows) * row_height + MARGIN)
    sheet = Image.new("RGB", edges, WHITE)
    draw = ImageDraw.Draw(sheet)
    for r, row in enumerate(rows):
        top = r * row_height + gap
        for k, panel in enumerate(row):
            left = MARGIN + k * (size[0] + MARGIN)
            how = Image.Resampling.NEAREST if panel.sharp else Image.Resampling.BICUBIC
            sheet.paste(panel.picture.convert("RGB").resize(size, how), (left, top))
            draw.rectangle((left - 1, top - 1, left + size[0], top + size[1]), outline=(200, 200, 200))
            colour = BLACK if panel.title else GREY
            write_line(draw, (left, top + size[1] + 4), panel.caption, size[0], colour)
    return sheet


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Transparent pictures of one size next to each other, without captions; a single one is unchanged."""
    if not pictures:
        raise InputError("got no picture; give at least one")
    width, height = pictures[0].size
    sheet = Image.new("RGBA", (len(pictures) * (width + MARGIN) - MARGIN, height), (255, 255, 255, 0))
    for k, picture in enumerate(pictures):
        sheet.paste(picture.convert("RGBA"), (k * (width + MARGIN), 0))
    return sheet


def _check_titles(explanation: Explanation, titles: Sequence[str]) -> None:
    if len(titles) != (count := explanation.targets.shape[1]):
        raise InputError(f"{len(titles)} titles for {count} targets; give one for each")


def write_line(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, width: int, color: tuple[int, int, int]
) -> None:
    """One line of text, made smaller and then shorter until it fits the width."""
    text, name = fonts.for_text(" ".join(text.split()))  # names of files and classes may hold line breaks
    size = 16
    font = fonts.font(name, size)
    while size > 10 and draw.textlength(text, font) > width:
        size -= 1
        font = fonts.font(name, size)
    while len(text) > 1 and draw.textlength(text, font) > width:
        text = text[:-2] + "…"
    draw.text(at, text, fill=color, font=font)
