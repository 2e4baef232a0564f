"""What training does to an image before the network sees it, and to a batch: crops, colours, mixup."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image
from timm.data import Mixup, RandomResizedCropAndInterpolation, str_to_interp_mode
from timm.data import auto_augment as timm_auto
from torch import Tensor
from torchvision import transforms

from .._compat import RandomErasing, mixup_target
from ..errors import InputError
from ..images.bounded import Bound
from . import bounds

Transform = Callable[[Image.Image], Tensor]
CROPS = ("resized", "shift", "none")
POLICIES = {  # first word of a timm configuration -> the function that reads it
    "rand": timm_auto.rand_augment_transform,
    "augmix": timm_auto.augment_and_mix_transform,
    **dict.fromkeys(("original", "originalr", "v0", "v0r", "3a"), timm_auto.auto_augment_transform),
}


@dataclass(frozen=True, kw_only=True)
class Augment:
    """The table `[augment]` of a recipe. Every draw keeps the pixels in [0, 1].

    Raises InputError for a value that is not allowed.
    """

    crop: str = "resized"  # a random part, resized; "shift": the whole image, moved a little; "none"
    scale: tuple[float, float] = (0.08, 1.0)  # for crop "resized": share of the image's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # for crop "resized": width / height
    shift: int = 4  # for crop "shift": pixels, each way; the edges are filled with black
    hflip: float = 0.5  # probability of a mirrored image
    vflip: float = 0.0  # probability of one upside down
    color_jitter: float = 0.0  # strength, for brightness, contrast and saturation
    auto: str = ""  # "trivial", or timm's: "rand-m9-mstd0.5-inc1", "augmix-m3", "original" and others
    erase: float = 0.0  # probability of a black rectangle (of the mean colour, for a card with a mean)
    mixup: float = 0.0  # alpha of the Beta distribution; 0: off
    cutmix: float = 0.0  # the same for cutmix
    mixup_prob: float = 1.0  # probability of mixing a batch at all
    mixup_switch_prob: float = 0.5  # probability of cutmix rather than mixup, where both are on
    repeats: int = 1  # of each image in an epoch, augmented anew each time; the epoch shows fewer images

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    def __post_init__(self) -> None:
        faults = bounds.faults("augment", vars(self))
        if self.crop not in CROPS:
            faults.append(f"augment.crop={self.crop!r}: allowed are {', '.join(CROPS)}")
        faults += [
            f"augment.{name}={[low, high]}: the lower of the two numbers comes first"
            for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio))
            if low > high
        ]
        try:
            _automatic(self.auto, {})
        except InputError as error:
            faults.append(str(error))
        if faults:
            raise InputError("; ".join(faults))


def train_transform(card: dict[str, Any], augment: Augment) -> Transform:
    """PIL image -> (3, H, W) float32 of the card's size, in [0, 1] (normalised, where the card has a mean).

    card: as `timm.data.resolve_data_config` gives it. Draws from the global generators of `random`, numpy and
    torch: see `seeds.seeded`.
    """
    height, width = card["input_size"][-2:]
    mode = str_to_interp_mode(card["interpolation"])
    if augment.crop == "resized":
        shape: list[Any] = [
            RandomResizedCropAndInterpolation(
                (height, width), augment.scale, augment.ratio, card["interpolation"]
            )
        ]
    else:
        shift = augment.shift if augment.crop == "shift" else 0
        edge = tuple(math.floor(side / card["crop_pct"]) for side in (height, width))
        resize = transforms.Resize(edge[0] if edge[0] == edge[1] else edge, mode)
        shape = [Bound(), resize, Shift((height, width), shift)]
    if augment.hflip:
        shape.append(transforms.RandomHorizontalFlip(augment.hflip))
    if augment.vflip:
        shape.append(transforms.RandomVerticalFlip(augment.vflip))
    fill = tuple(min(255, round(255 * m)) for m in card["mean"])
    hints = {"translate_const": int(0.45 * min(height, width)), "img_mean": fill}
    colours = [_automatic(augment.auto, hints)] if augment.auto else []
    if augment.color_jitter:
        colours.append(transforms.ColorJitter(*[augment.color_jitter] * 3))
    last: list[Any] = [transforms.ToTensor()]
    if any(card["mean"]) or any(s != 1 for s in card["std"]):
        last.append(transforms.Normalize(card["mean"], card["std"]))
    if augment.erase:
        last.append(RandomErasing(augment.erase, mode="const", device="cpu"))
    return transforms.Compose([*shape, *colours, *last])


class Shift:
    """The middle of an image, moved by up to `shift` pixels each way; its edges are filled with black."""

    def __init__(self, size: tuple[int, int], shift: int) -> None:
        self.height, self.width = size
        self.shift = shift

    def __call__(self, image: Image.Image) -> Image.Image:
        left = round((image.width - self.width) / 2)
        top = round((image.height - self.height) / 2)
        if self.shift:
            left += random.randint(-self.shift, self.shift)
            top += random.randint(-self.shift, self.shift)
        return image.crop((left, top, left + self.width, top + self.height))


class Mix:
    """timm's mixup or cutmix of a batch with itself in reverse: one of the two, with one weight for all.

    Draws from numpy's global generator.
    """

    def __init__(self, augment: Augment, classes: int, *, multilabel: bool = False) -> None:
        self.classes, self.multilabel = classes, multilabel
        self.mix = Mixup(
            augment.mixup,
            augment.cutmix,
            prob=augment.mixup_prob,
            switch_prob=augment.mixup_switch_prob,
            label_smoothing=0.0,  # the loss does that
            num_classes=classes,
            multi_label=multilabel,
        )

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """images: (N, 3, H, W), not changed; labels: (N,) or (N, C). Both come back mixed, (N, C)."""
        images = images.clone()  # timm mixes in place
        even = len(images) // 2 * 2  # timm refuses odd batches: the last image of one stays as it is
        targets = mixup_target(labels, self.classes, multi_label=self.multilabel)
        if even:
            targets[:even] = self.mix(images[:even], labels[:even])[1]
        return images, targets


def make_mixup(augment: Augment, classes: int, *, multilabel: bool = False) -> Mix | None:
    """What mixes batches, or None where the recipe has neither mixup nor cutmix."""
    wanted = augment.mixup or augment.cutmix
    return Mix(augment, classes, multilabel=multilabel) if wanted else None


def _automatic(text: str, hints: dict[str, Any]) -> Any:
    """The policy that a text stands for. Raises InputError if timm would refuse or partly ignore it."""
    if text in ("", "trivial"):
        return transforms.TrivialAugmentWide(interpolation=transforms.InterpolationMode.BILINEAR)
    policy, *sections = text.split("-")
    try:
        if unread := [one for one in sections if not re.fullmatch(r"[a-z]+\d[\d.]*|t(weights|3aw?)", one)]:
            raise ValueError(unread)  # timm ignores these
        built = POLICIES[policy](text, dict(hints))
    except (KeyError, ValueError, AssertionError) as error:
        raise InputError(
            f"augment.auto={text!r}: allowed are '', 'trivial', and timm's, such as 'rand-m9-mstd0.5-inc1', "
            "'augmix-m3', 'original'"
        ) from error
    lists = built.policy if isinstance(built, timm_auto.AutoAugment) else [built.ops]
    for op in (op for ops in lists for op in ops):
        if op.aug_fn is timm_auto.posterize:
            op.aug_fn = _posterize
    return built


def _posterize(image: Image.Image, bits: int, **unused: Any) -> Image.Image:
    """timm's posterize, which may ask for 0 bits: older Pillows then give a black image, 13 an error."""
    return timm_auto.posterize(image, max(1, bits))
