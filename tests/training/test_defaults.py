"""What fine-tuning does unless told otherwise."""

import pytest
from PIL import Image

from bcos_zoo.data import open_task
from bcos_zoo.training import defaults, effects


def images(root, each, size=32):
    for name, colour in (("cats", "red"), ("dogs", "blue"), ("emus", "green")):
        (root / name).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (size, size), colour).save(root / name / f"{i}.png")
    return open_task(root, log=lambda line: None)


@pytest.mark.parametrize("each", [5, 10, 100])
def test_every_epoch_has_steps_and_every_run_enough_of_them(tmp_path, each):
    task = images(tmp_path, each)
    wanted = defaults.for_task(defaults.finetuning("bcos_resnet20.cifar10"), task)
    steps = len(task.train) // wanted.run.batch_size
    assert steps >= 1
    assert wanted.run.epochs in (
        defaults.MOST_EPOCHS,
        -(-defaults.STEPS * wanted.run.batch_size // len(task.train)),
    )


def test_small_images_are_moved_and_large_ones_cropped(tmp_path):
    task = images(tmp_path, 5)
    small, large = (
        defaults.for_task(defaults.finetuning(name), task).augment.crop
        for name in ("bcos_resnet20.cifar10", "bcos_resnet18_w32.imagenette")
    )
    assert (small, large) == ("shift", "resized")


def test_images_are_kept_in_memory_only_if_they_fit(tmp_path, monkeypatch):
    task = images(tmp_path, 5, size=64)
    settings = defaults.finetuning("bcos_resnet20.cifar10")
    assert defaults.for_task(settings, task).data.cache
    monkeypatch.setattr(defaults, "MEMORY", 15 * 3 * 64 * 64 - 1)
    assert not defaults.for_task(settings, task).data.cache


def test_what_is_asked_for_wins(tmp_path):
    changes = ["run.epochs=3", "augment.hflip=0", "data.cache=false", "optimizer.lr=0.5"]
    wanted = defaults.for_task(
        defaults.finetuning("bcos_resnet20.cifar10", "head", changes), images(tmp_path, 5), changes
    )
    assert (wanted.run.epochs, wanted.augment.hflip, wanted.data.cache) == (3, 0, False)
    assert (wanted.optimizer.lr, wanted.model.train) == (0.5, "head")


@pytest.mark.parametrize(
    "changes",
    [
        ["optimizer.schedule=none"],
        ["optimizer.schedule=none", "run.snapshots=0"],
        ["model.pretrained=false"],
        ["augment.crop=none"],
    ],
)
def test_what_fine_tuning_sets_by_itself_goes_with_what_it_needs(tmp_path, changes):
    """A key that only a default has set must not be refused because a change of the user's idles it."""
    task = images(tmp_path, 5)
    wanted = defaults.for_task(defaults.finetuning("bcos_resnet20.cifar10", "full", changes), task, changes)
    effects.check(wanted, task)
    assert wanted.optimizer.relative and wanted.optimizer.head_lr is None
