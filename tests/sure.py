"""Pictures that a network is sure of, made for it: for the tests that need rightly classified images."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from bcos_zoo import Classifier


def sure_images(classifier: Classifier, count: int = 16, classes: int = 4) -> tuple[Tensor, Tensor]:
    """(count, 3, 32, 32) in [0, 1], and their labels (count,): noise, and gradient ascent on a class."""
    generator = torch.Generator().manual_seed(0)
    x = interpolate(torch.rand(400, 3, 4, 4, generator=generator), (32, 32), mode="bilinear")[:count]
    labels = torch.arange(count) % classes
    for _ in range(30):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(classifier.model(x).gather(1, labels[:, None]).sum(), x)
        x = (x + 0.1 * gradient / gradient.abs().amax((1, 2, 3), keepdim=True)).clamp(0, 1).detach()
    return x, labels


def picture(x: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] as a picture."""
    return Image.fromarray((x.permute(1, 2, 0).numpy() * 255).round().astype("uint8"))


def class_folders(classifier: Classifier, folder: Path) -> Path:
    """`sure_images` as `folder/<class>/<number>.png`."""
    for i, (x, label) in enumerate(zip(*sure_images(classifier), strict=True)):
        path = folder / classifier.class_names[label] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        picture(x).save(path)
    return folder


def wide_photograph(x: Tensor) -> Image.Image:
    """96x64 pixels, in whose middle is x (3, 32, 32), twice as large: a card that crops sees x again."""
    sheet = Image.new("RGB", (96, 64), "grey")
    sheet.paste(picture(x).resize((64, 64), Image.Resampling.NEAREST), (16, 0))
    return sheet
