"""The card's own transform, with a bound on the memory that its resize needs for very long pictures."""

from __future__ import annotations

from typing import Any

from PIL import Image
from timm.data import ResizeKeepRatio, create_transform, interp_mode_to_str
from torchvision import transforms

LONGEST = 32  # most that the longer side may be, in units of the shorter one


class Bound(transforms.CenterCrop):  # type: ignore[misc]
    """The middle of a picture whose longer side exceeds 32 times its shorter one; any other is unchanged.

    The resize that follows makes the shorter side as long as the network needs, and the longer one in
    proportion: from 1 x 20000 pixels it would make gigabytes, of which the centre crop keeps one square.
    This does not change that square.
    """

    def __init__(self) -> None:
        super().__init__(0)

    def forward(self, image: Image.Image) -> Image.Image:
        size, least = image.size, min(image.size)
        # cut away an even number, as the later crop does: otherwise the middle would move by half a pixel
        width, height = (min(side, LONGEST * least + (side - LONGEST * least) % 2) for side in size)
        if (width, height) == size:
            return image
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        return image.crop((left, top, left + width, top + height))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({LONGEST}:1)"


class Fit(ResizeKeepRatio):  # type: ignore[misc]
    """timm's resize, with a side of 1 where it would round to 0, as for 3000 x 40 pixels within 32."""

    @staticmethod
    def get_params(*arguments: Any, **more: Any) -> list[int]:
        return [max(1, side) for side in ResizeKeepRatio.get_params(*arguments, **more)]


def card_transform(config: dict[str, Any]) -> transforms.Compose:
    """timm's evaluation transform of a card, changed so that pictures of any proportions fit into memory.

    config: as `timm.data.resolve_model_data_config` gives it.
    """
    made = create_transform(**config, is_training=False).transforms
    bound = [Bound()] if any(map(_is_unbounded, made)) else []
    return transforms.Compose([*bound, *map(_fitting, made)])


def _fitting(step: Any) -> Any:
    if not isinstance(step, ResizeKeepRatio):
        return step
    return Fit(step.size, step.longest, interp_mode_to_str(step.interpolation))


def _is_unbounded(resize: object) -> bool:
    if isinstance(resize, ResizeKeepRatio):
        return float(resize.longest) == 0
    return isinstance(resize, transforms.Resize) and isinstance(resize.size, int)
