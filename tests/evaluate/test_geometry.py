"""Where the network's pixels lie in a picture, against pictures that go through the card's transform."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from bcos_zoo import InputError
from bcos_zoo.evaluate import centres

SIDES = [(3, 32, 32), (3, 64, 64), (3, 48, 64), (3, 224, 224)]


def card_transform(size: tuple[int, int, int], crop_pct: float, crop_mode: str) -> Any:
    return create_transform(
        input_size=size, crop_pct=crop_pct, crop_mode=crop_mode, mean=(0, 0, 0), std=(1, 1, 1)
    )


def transformed(transform: Any, mask: np.ndarray) -> np.ndarray:
    """Slow and plain: the mask as a picture, through the same transform without interpolation."""
    for step in transform.transforms:
        if hasattr(step, "interpolation"):
            step.interpolation = InterpolationMode.NEAREST
    picture = Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB")
    return transform(picture)[0].numpy() > 0.5


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_a_box_covers_the_pixels_that_its_picture_has_after_the_transform(crop_mode: str) -> None:
    draw, ties, covered = random.Random(0), 0, 0
    for _ in range(80):
        transform = card_transform(draw.choice(SIDES), draw.choice([0.7, 0.875, 0.95, 1.0]), crop_mode)
        width, height = draw.randint(10, 400), draw.randint(10, 400)
        x0, y0 = draw.randint(0, width - 2), draw.randint(0, height - 2)
        x1, y1 = draw.randint(x0 + 1, width), draw.randint(y0 + 1, height)
        columns, rows = centres(transform, (width, height))
        got = ((rows >= y0) & (rows < y1))[:, None] & (columns >= x0) & (columns < x1)
        mask = np.zeros((height, width), bool)
        mask[y0:y1, x0:x1] = True
        wrong = got.numpy() != transformed(transform, mask)
        # A centre exactly on an edge belongs to the pixel after it. Pillow adds up steps, and may miss that.
        on_an_edge = (rows % 1 == 0)[:, None] | (columns % 1 == 0)
        assert not (wrong & ~on_an_edge.numpy()).any()
        ties += int(wrong.any())
        covered += int(got.any() and not got.all())
    assert ties < 5 and covered > 40


@pytest.mark.parametrize("size", [(90, 60), (61, 130), (40, 40)])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_a_picture_of_its_own_columns_shows_where_the_pixels_are(
    size: tuple[int, int], crop_pct: float
) -> None:
    """With the card's own interpolation: on a ramp it changes nothing, but for the borders."""
    transform = card_transform((3, 32, 32), crop_pct, "center")
    width, height = size
    across = np.arange(width, dtype=np.uint8)[None].repeat(height, 0)
    down = np.arange(height, dtype=np.uint8)[:, None].repeat(width, 1)
    for ramp, positions, line in zip(
        (across, down), centres(transform, size), ("row", "column"), strict=True
    ):
        seen = 255 * transform(Image.fromarray(ramp).convert("RGB"))[0]
        values = seen[16] if line == "row" else seen[:, 16]
        assert float((values + 0.5 - positions)[3:-3].abs().max()) < 0.6  # half a level is rounding


def test_padding_lies_outside_of_the_picture() -> None:
    columns, rows = centres(transforms.CenterCrop((6, 10)), (5, 9))
    assert columns.tolist() == [i - 2 + 0.5 for i in range(10)]
    assert rows.tolist() == [i + 2 + 0.5 for i in range(6)]  # 1.5 rounds to 2, as torchvision does


def test_a_transform_with_other_steps_is_refused() -> None:
    turned = transforms.Compose([transforms.Resize(8), transforms.RandomRotation(5)])
    with pytest.raises(InputError, match="has the step RandomRotation, which boxes and masks cannot follow"):
        centres(turned, (10, 10))


def test_positions_are_exact() -> None:
    columns, _ = centres(transforms.Resize((4, 4)), (3, 3))
    assert columns.tolist() == [0.375, 1.125, 1.875, 2.625]
    assert columns.dtype == torch.float64
