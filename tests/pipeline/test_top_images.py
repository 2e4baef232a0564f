"""Images that a unit answers to most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from photographs import coloured

import bcos_zoo
from bcos_zoo import Classifier, InputError
from bcos_zoo.explanations.units import activations
from bcos_zoo.pipeline.top_images import top_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def classifier(shared: Any) -> Classifier:
    return Classifier(shared, [str(i) for i in range(10)])


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_images_found_are_those_of_the_largest_activations(
    classifier: Classifier, folder: Path, batch_size: int
) -> None:
    paths = sorted(folder.iterdir())
    values = activations(classifier.model, classifier.preprocess(paths), "layer3.0.conv1", 7)
    best = torch.topk(values, 3)
    found, errors = top_images(classifier, [folder], "layer3.0.conv1", 7, count=3, batch_size=batch_size)
    assert [activation.path for activation in found] == [paths[i] for i in best.indices]
    assert [activation.value for activation in found] == pytest.approx(best.values.tolist(), rel=1e-4)
    assert not errors
    explained = bcos_zoo.explain_unit(
        classifier.model, classifier.preprocess(found[0].path), "layer3.0.conv1", 7
    )
    assert float(explained.logits) == pytest.approx(found[0].value, rel=1e-4)


def test_a_file_that_cannot_be_read_does_not_stop_the_others(
    classifier: Classifier, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    found, errors = top_images(classifier, [folder, tmp_path / "broken.png"], "layer1", 0)
    assert len(found) == 7
    assert [type(error) for error in errors] == [InputError] and "broken.png" in str(errors[0])


@pytest.mark.parametrize("options", [{"count": 0}, {"count": 2.5}, {"batch_size": 0}, {"batch_size": 1.5}])
def test_a_count_of_nothing_is_refused(classifier: Classifier, folder: Path, options: Any) -> None:
    ((name, value),) = options.items()
    with pytest.raises(InputError, match=f"{name}={value}: allowed are integers, 1 and more"):
        top_images(classifier, [folder], "layer1", 0, **options)


def test_a_file_that_takes_too_much_memory_or_that_a_disk_cannot_read_does_not_stop_the_others(
    classifier: Classifier, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(folder.iterdir())
    faults = {paths[1]: MemoryError(), paths[4]: OSError(5, "Input/output error")}
    preprocess = classifier.preprocess

    def failing(path: Path) -> torch.Tensor:
        if path in faults:
            raise faults[path]
        return preprocess(path)

    monkeypatch.setattr(classifier, "preprocess", failing)
    found, errors = top_images(classifier, [folder, folder / "absent.png"], "layer1", 0)
    assert {one.path for one in found} == set(paths) - set(faults)
    absent, memory, disk = (str(error) for error in errors)
    assert "absent.png' does not exist" in absent and "\n" not in absent
    assert paths[1].name in memory and "needs more memory than there is" in memory
    assert paths[4].name in disk and "Input/output error" in disk
