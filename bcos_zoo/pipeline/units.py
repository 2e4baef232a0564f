"""What a unit looks for: the images that activate it most, on one sheet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import images
from ..classifier import BATCH_SIZE, Classifier
from ..errors import InputError
from .paths import check_spared, save_sheet
from .render_options import MOST_IN_A_SHEET, RenderOptions
from .single import explain_one, sheet_row
from .top_images import Activation, Unit, top_images


@dataclass(frozen=True)
class UnitSheet:
    """What `draw_unit` found and wrote."""

    picture: Path | None  # None if no image could be read
    found: list[Activation]  # largest first
    errors: list[InputError]  # for images that could not be read


def draw_unit(
    classifier: Classifier,
    sources: Iterable[Path],
    unit: Unit,
    folder: Path,
    *,
    count: int = 9,
    batch_size: int = BATCH_SIZE,
) -> UnitSheet:
    """The images with the largest activations of a unit, each beside its explanation, as `LAYER.UNIT.png`.

    sources: image files, or folders of them. count: how many, 1 to 400.
    batch_size: how many images go through the network at once in the search; they are explained one by one.
    Raises InputError for a unit that does not exist, another count, and a folder that cannot be written.
    """
    if count > MOST_IN_A_SHEET:
        raise InputError(f"count={count}: allowed are 1 to {MOST_IN_A_SHEET}, the images that fit a sheet")
    files, wrong = images.gather(sources)
    path = folder / f"{unit.layer}.{unit.index}.png"
    check_spared(path, {file.resolve() for file in files})
    found, errors = top_images(classifier, files, unit.layer, unit.index, count=count, batch_size=batch_size)
    options = RenderOptions("sheet", unit=unit)
    explained = ((one.path, explain_one(classifier, one.path, None, options)) for one in found)
    rows = [sheet_row(one, file.name, None) for file, one in explained]
    return UnitSheet(save_sheet(rows, path) if rows else None, found, [*wrong, *errors])
