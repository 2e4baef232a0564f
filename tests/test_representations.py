"""What explanations, predictions, classifiers and heads look like: in one line, and in notebooks."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from conftest import images, network
from PIL import Image

import bcos_zoo
from bcos_zoo import explain, explain_unit

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 31, 3), dtype=np.uint8))


def test_representations_are_one_line() -> None:
    clf = bcos_zoo.load("bcos_resnet20.cifar10")
    explanation = clf.explain(PHOTO, ["cat", "dog"])
    for shown, parts in {
        repr(clf): ("Classifier(bcos_resnet20.cifar10", "10 classes", "32x32", "sigmoid"),
        repr(clf.head): ("ExplanationHead(bcos_resnet20.cifar10", "smooth=3"),
        repr(explanation): ("Explanation(1 x 2 of 32x32 pixels, logit: cat ", "dog ", "float32"),
        repr(clf.predict(PHOTO)[0]): ("Prediction(", clf.predict(PHOTO)[0].label),
        repr(explanation.contrast("cat", "dog")): ("contrast: cat - dog",),
        repr(explain_unit(clf, images(2, 32, 32), "layer1", 3)): ("activation: layer1[3]", "2 x 1"),
    }.items():
        assert "\n" not in shown and len(shown) < 160, shown
        assert all(part in shown for part in parts), shown


def test_notebooks_show_pictures(shared: Any) -> None:
    clf = bcos_zoo.load("bcos_resnet20.cifar10")
    explanation = clf.explain([PHOTO] * 9, ["cat", "dog"])
    picture = Image.open(io.BytesIO(explanation._repr_png_()))
    assert picture.width / picture.height == 2 / 6 and picture.width >= 200
    assert "data:image/png;base64," in explanation._repr_html_() and "cat" in explanation._repr_html_()
    labelled = explain(shared, images(), 0, class_names=["<b>&"] * 10)
    assert "&lt;b&gt;&amp;" in labelled._repr_html_() and "<b>" not in labelled._repr_html_()
    assert "airplane" in clf._repr_html_() and clf._repr_html_().startswith("<table>")
    assert not hasattr(clf, "_repr_png_")
    two = explain(network("bcos_resnet20", in_chans=2), images(channels=2))
    assert two._repr_png_() is None and two._repr_html_().startswith("<div>")
    trained = explain(shared, images(), 0, create_graph=True)
    assert trained._repr_png_() and "Explanation(" in repr(trained)
