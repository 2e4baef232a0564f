"""Draw a gallery at 224 pixels: photographs, what each pixel adds to the answer, and the same in colour.

python tools/gallery.py                        the free photographs of docs/gallery.md, into docs/gallery/
python tools/gallery.py data/imagenette/val    a dozen of a folder of classes, half of them answered wrongly,
                                               into out/gallery/, which git ignores: they are ImageNet's
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import skimage.data
from PIL import Image

import bcos_zoo
from bcos_zoo.classifier import Classifier
from bcos_zoo.evaluate.accuracy import labelled_files
from bcos_zoo.images import load_rgb
from bcos_zoo.pipeline import explain_image

ROOT = Path(__file__).resolve().parent.parent
NETWORK = "bcos_efficientnet_lite0.imagenette"
FREE = ("rocket", "coffee", "chelsea")  # of scikit-image; CC0 or in the public domain
COUNT = 12


def free(classifier: Classifier, folder: Path) -> None:
    """The free photographs, each for the class that the network answers."""
    for name in FREE:
        save(classifier, Image.fromarray(getattr(skimage.data, name)()), folder / f"{name}.jpg")


def of_folder(classifier: Classifier, root: Path, folder: Path) -> None:
    """Some wrong answers of a folder of classes, explained for the truth too; as many right ones."""
    paths, labels = labelled_files(classifier, root)
    left = {True: COUNT - COUNT // 2, False: COUNT // 2}
    shuffled = random.Random(0).sample(list(zip(paths, labels, strict=True)), len(paths))
    for path, label in shuffled:
        if not any(left.values()):
            break
        picture, truth = load_rgb(path), classifier.class_names[label]
        said = classifier.predict(picture, top_k=1)[0].label
        right = said == truth
        if left[right] == 0:
            continue
        left[right] -= 1
        name = f"{'right' if right else 'wrong'}-{left[right]}-{truth}".replace(" ", "_")
        save(classifier, picture, folder / f"{name}.jpg", None if right else [said, truth])


def save(classifier: Classifier, picture: Image.Image, path: Path, targets: list[str] | None = None) -> None:
    explained = explain_image(classifier, picture, targets)
    path.parent.mkdir(parents=True, exist_ok=True)
    explained.picture.convert("RGB").save(path, quality=88)
    print(path, ", ".join(f"{one.label} {one.probability:.2f}" for one in explained.predictions[:3]))


def main() -> None:
    classifier = bcos_zoo.load(NETWORK)
    if len(sys.argv) > 1:
        of_folder(classifier, Path(sys.argv[1]), Path("out") / "gallery")
    else:
        free(classifier, ROOT / "docs" / "gallery")


if __name__ == "__main__":
    main()
