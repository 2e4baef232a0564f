"""Explanations to pictures. Takes arrays, gives PIL images; opens and writes no file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .errors import InputError
from .explanation import Explanation

PANEL = 320  # pixels: the longer side of one picture in a figure
MARGIN = 12
CAPTION = 26
BLACK, GREY, WHITE = (20, 20, 20), (110, 110, 110), (255, 255, 255)


def color_limit(contributions: Tensor, percentile: float = 99.5) -> float:
    """The contribution, in logits, that the colours of a map end at: a percentile of the absolute values.

    The largest absolute value where the percentile is zero, as in maps that are zero nearly everywhere.
    """
    size = contributions.abs().flatten()
    limit = float(np.percentile(size.cpu().numpy(), percentile))
    return limit or float(size.max())


def contribution_map(
    contributions: Tensor, *, limit: float | None = None, percentile: float = 99.5
) -> Image.Image:
    """Red where a pixel speaks for the class, blue where against, white where it adds nothing.

    contributions: (H, W) in logits. limit: the value of full colour, by default the
    `color_limit` of that percentile; give one limit to several maps to compare them.
    """
    if contributions.ndim != 2:
        raise InputError(
            f"a contribution map is (H, W), got {tuple(contributions.shape)}; "
            "index the image and target first"
        )
    limit = color_limit(contributions, percentile) if limit is None else limit
    signed = contributions.detach().cpu().numpy() / limit if limit else np.zeros(contributions.shape)
    strength = np.clip(signed, -1, 1)[..., None]
    toward = np.where(
        strength >= 0, np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0])
    )  # what is taken from white
    return Image.fromarray(np.round(255 * (1 - np.abs(strength) * toward)).astype(np.uint8))


def rgba_image(rgba: Tensor) -> Image.Image:
    """(4, H, W) in [0, 1] -> a transparent picture."""
    if rgba.ndim != 3 or rgba.shape[0] != 4:
        raise InputError(
            f"a colour explanation is (4, H, W), got {tuple(rgba.shape)}; index the image and target first"
        )
    return Image.fromarray(
        np.round(255 * rgba.detach().permute(1, 2, 0).cpu().numpy()).astype(np.uint8), "RGBA"
    )


def on_white(picture: Image.Image) -> Image.Image:
    """A transparent picture on white paper, as the papers print them."""
    paper = Image.new("RGBA", picture.size, (*WHITE, 255))
    return Image.alpha_composite(paper, picture.convert("RGBA")).convert("RGB")


def input_image(x: Tensor) -> Image.Image:
    """(K, H, W) in [0, 1], K = 1 or 3 -> what the network saw."""
    pixels = np.round(255 * x.detach().clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).cpu().numpy())
    return Image.fromarray(pixels.astype(np.uint8))


def figure(
    image: Image.Image, explanation: Explanation, index: int = 0, *, titles: Sequence[str]
) -> Image.Image:
    """Image, contribution map and colour explanation side by side, one row a target, each under its title.

    image: the photograph, or what the network saw of it; it is scaled to the panel.
    index: which of the explained images. titles: T lines, such as "cat 0.93".
    Raises InputError if there is not one title for each target.
    """
    count = explanation.targets.shape[1]
    if len(titles) != count:
        raise InputError(f"{len(titles)} titles for {count} targets; give one for each")
    rgba = explanation.rgba()[index]
    height, width = explanation.contributions.shape[-2:]
    scale = PANEL / max(height, width)
    size = (round(width * scale), round(height * scale))
    limit = color_limit(explanation.contributions[index])
    row_height = CAPTION + size[1] + CAPTION
    sheet = Image.new("RGB", (3 * size[0] + 4 * MARGIN, count * row_height + MARGIN), WHITE)
    draw = ImageDraw.Draw(sheet)
    for t, title in enumerate(titles):
        panels = (
            (image.convert("RGB").resize(size, Image.Resampling.LANCZOS), title),
            (
                contribution_map(explanation.contributions[index, t], limit=limit).resize(
                    size, Image.Resampling.NEAREST
                ),
                f"contributions, up to ±{limit:.2g} logits a pixel",
            ),
            (on_white(rgba_image(rgba[t])).resize(size, Image.Resampling.BICUBIC), "W(x), in colour"),
        )
        top = t * row_height + CAPTION
        for k, (panel, caption) in enumerate(panels):
            left = MARGIN + k * (size[0] + MARGIN)
            sheet.paste(panel, (left, top))
            draw.rectangle((left - 1, top - 1, left + size[0], top + size[1]), outline=(200, 200, 200))
            _write(draw, (left, top + size[1] + 4), caption, size[0], BLACK if k == 0 else GREY)
    return sheet


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, width: int, color: tuple[int, int, int]
) -> None:
    """One line of text, made smaller and then shorter until it fits the width."""
    size = 16
    font = ImageFont.load_default(size)
    while size > 10 and draw.textlength(text, font) > width:
        size -= 1
        font = ImageFont.load_default(size)
    while len(text) > 1 and draw.textlength(text, font) > width:
        text = text[:-2] + "…"
    draw.text(at, text, fill=color, font=font)
