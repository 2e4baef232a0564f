"""The worst mistakes: how many, of which images, and what these are called. More in test_page.py."""

import pytest
import torch
from conftest import network
from PIL import Image

import bcos_zoo
from bcos_zoo.data import samples
from bcos_zoo.training import mistakes
from bcos_zoo.training.scores import Answers


def test_more_mistakes_than_fit_are_bounded_and_those_that_broke_since_are_passed_over(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for path in paths:
        Image.new("RGB", (32, 32), (200, 30, 30)).save(path)
    some = samples.of_files(paths, [0] * 40)
    logits = torch.stack([torch.zeros(40), torch.linspace(1, 2, 40)], 1)
    classifier = bcos_zoo.Classifier(network("bcos_resnet20", num_classes=2), ["a", "b"])
    made = Answers({}, logits, torch.zeros(40, dtype=torch.long), torch.arange(40))
    wrong = mistakes.wrong(made, classifier.outputs)
    assert [one.index for one in wrong] == list(reversed(range(40)))
    for i in (39, 37):
        paths[i].write_bytes(b"broken")
    shown = mistakes.shown(wrong, made, some, classifier, explain=False)
    assert [one.name for one in shown] == [f"{i}.png" for i in [38, *range(36, 25, -1)]]
    assert len(shown) == mistakes.MOST


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["/home/me/set/val/a/1.png", "/home/me/set/val/b/1.png"], ["a/1.png", "b/1.png"]),
        (["/home/me/1.png", "/mnt/x/y/2.png"], ["me/1.png", "y/2.png"]),
        (["set/a/1.png", "/home/me/b/2.png"], ["set/a/1.png", "b/2.png"]),
        (["a/1.png", "b/2.png"], ["a/1.png", "b/2.png"]),
        (["/d/one.png"], ["one.png"]),
        (["hfds/beans validation, row 3", "hfds/beans validation, row 12"],
         ["beans validation, row 3", "beans validation, row 12"]),
    ],
)  # fmt: skip
def test_no_name_of_an_image_tells_where_on_the_machine_it_lies(names, shown):
    class Store:
        def name(self, index):
            return names[index]

    some = samples.Samples(Store(), torch.arange(len(names)), torch.zeros(len(names), dtype=torch.long))
    assert mistakes.public_names(some) == shown
