"""Attribution in several threads, and by what a Classifier says of its outputs."""

from __future__ import annotations

import threading
import warnings

import torch
from conftest import images, network

import bcos_zoo
from bcos_zoo.outputs import Outputs
from bcos_zoo.posthoc import attribute


def test_threads_attribute_as_one_does_and_leave_the_process_as_it_was() -> None:
    model, x = network("bcos_resnet20", num_classes=3, widths=(8, 16, 32)), images(1, 16, 16)
    methods = ("smoothgrad", "rise") * 3
    expected = [attribute(model, x, 1, method, seed=i) for i, method in enumerate(methods)]
    state, filters = torch.get_rng_state(), list(warnings.filters)
    found: dict[int, torch.Tensor] = {}
    start = threading.Barrier(len(methods))

    def run(i: int, method: str) -> None:
        start.wait(30)
        found[i] = attribute(model, x, 1, method, seed=i)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(methods)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[i], map_) for i, map_ in enumerate(expected))
    assert torch.equal(torch.get_rng_state(), state) and list(warnings.filters) == filters


def test_a_classifiers_own_probabilities_weigh_the_masks() -> None:
    model, x = network("bcos_resnet20", num_classes=3, widths=(8, 16, 32)), images(1, 16, 16)
    softmax = bcos_zoo.Classifier(model, Outputs(("a", "b", "c"), "softmax"))
    maps = {
        name: attribute(who, x, 1, "rise", masks=8, **options)
        for name, who, options in (
            ("own", softmax, {}),
            ("softmax", model, {"output": "softmax"}),
            ("sigmoid", model, {}),
            ("asked", softmax, {"output": "sigmoid"}),
        )
    }
    assert torch.equal(maps["own"], maps["softmax"]) and torch.equal(maps["asked"], maps["sigmoid"])
    assert not torch.equal(maps["own"], maps["sigmoid"])
