"""Explain a photograph offline: scikit-image's cat, with the checkpoint that comes with bcos_zoo."""

from pathlib import Path

import skimage.data
from PIL import Image

import bcos_zoo
from bcos_zoo import pipeline

classifier = bcos_zoo.load("bcos_resnet20.cifar10")
photograph = Image.fromarray(skimage.data.chelsea())
explained = pipeline.explain_image(classifier, photograph)
picture = pipeline.save_picture(explained.picture, Path("out/demo.png"))

for prediction in explained.predictions[:3]:
    print(f"{prediction.label:>10}  {prediction.probability:.3f}")
print(
    f"what explains it, to {explained.explanation.completeness().abs().max():.1e} logits: {picture.resolve()}"
)
