"""scikit-learn's handwritten digits as images in folders, to fine-tune on.

python examples/digits.py FOLDER [IMAGES]
IMAGES: how many of each class are for training; the rest goes into FOLDER/val. Without it no split is made.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 32  # pixels, from 8


def main(folder: str, images: str | None = None) -> None:
    digits = load_digits()
    seen = [0] * len(digits.target_names)
    for i, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "" if images is None else "train" if seen[label] < int(images) else "val"
        seen[label] += 1
        path = Path(folder, split, str(label), f"{i:04d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((pixels / 16 * 255).astype(np.uint8))
        grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB").save(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
