"""What is to be made of explained images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import InputError
from ..explanations.targets import Target
from ..pictures import figures
from .top_images import Unit

PICTURES = ("figure", "rgba", "map", "overlay", "sheet")
FORMATS = ("png", *figures.FORMATS, "npz", "bundle", "html")
ENDINGS = {"bundle": "bundle.zip"}  # format -> file ending, where they differ
MOST_IN_A_SHEET = 400


@dataclass(frozen=True)
class RenderOptions:
    """What is to be made of explained images.

    picture: figure (photograph, contribution map and W(x) side by side, a row per target), rgba (W(x),
    transparent), map (of contributions), overlay (the map on the photograph), sheet (one for all images).
    format: of each picture; or npz (arrays), bundle (arrays with their origins), html (one page for all).
    contrast: two classes; explains why the first rather than the second. unit: explained in place of classes.
    shared_scale: whether one colour means the same in all pictures. seconds: how much of each clip.
    Raises InputError for other values, and for values that do not go together.
    """

    picture: str = "figure"
    format: str = "png"
    contrast: tuple[Target, Target] | None = None
    shared_scale: bool = False
    seconds: float | None = None
    unit: Unit | None = None

    def __post_init__(self) -> None:
        for name, given, allowed in (("picture", self.picture, PICTURES), ("format", self.format, FORMATS)):
            if given not in allowed:
                raise InputError(f"{name} {given!r}: allowed are {', '.join(allowed)}")
        drawn = self.format in ("png", *figures.FORMATS)
        if not drawn and (self.picture != "figure" or self.contrast and self.format != "npz"):
            what = "contrast" if self.contrast else f"picture {self.picture}"
            raise InputError(f"format {self.format} has no {what}; take png, svg or pdf for it")
        if self.picture == "sheet" and self.contrast:
            raise InputError("a sheet shows the predicted classes, no contrast; take picture figure")
        if self.shared_scale and self.format in ("npz", "bundle"):
            raise InputError(
                f"format {self.format} has numbers, no scale of colours; leave out --shared-scale"
            )
        if self.contrast and self.contrast[0] == self.contrast[1]:
            raise InputError(f"a class has no contrast to itself, {self.contrast[0]!r}; name two")
        if self.unit and (self.contrast or self.format == "bundle"):
            what = "contrasts" if self.contrast else "bundles"
            raise InputError(f"{what} are of classes, {self.unit} is a unit; leave out one of them")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise InputError(f"seconds={self.seconds}: allowed are finite numbers above 0")
        if self.format in figures.FORMATS:
            figures.check(self.format)
