"""Draw docs/beside_gradcam.png: a photograph, what a network says of it, and Grad-CAM of the same network.

    pip install '.[eval]' && python examples/beside_gradcam.py

The photograph is china.jpg of scikit-learn, by danielbuechele, CC BY 2.0.
"""

import sys
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_image

import bcos_zoo
from bcos_zoo.pictures import panels
from bcos_zoo.posthoc import attribute

SIDE = 224  # pixels that the network sees, each one shown


def main(path: Path) -> None:
    classifier = bcos_zoo.load("bcos_efficientnet_lite0.imagenette")
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    best = classifier.predict(photograph)[0]
    explanation = classifier.explain(photograph, targets=[best.index])
    x = classifier.preprocess(photograph)
    cam = attribute(classifier.model, x, [best.index], "gradcam")[0, 0]

    seen = panels.input_image(x[0])
    shown = [
        panels.Panel(seen, "photograph"),
        panels.Panel(
            panels.on_white(panels.rgba_image(explanation.rgba()[0, 0])), f'what makes it "{best.label}"'
        ),
        panels.Panel(panels.overlay(seen, cam), "Grad-CAM"),
    ]
    panels.lay_out([shown], side=SIDE).save(path)
    gap = float(explanation.completeness().abs().max())
    print(
        f"{best.label}, probability {best.probability:.2f}; contributions miss the logit by {gap:.0e}; {path}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/beside_gradcam.png"))
