"""Loaders: what a batch holds depends on its place alone, not on workers, processes or memory."""

import random

import numpy as np
import pytest
import torch
from sets import QUIET, class_folders, generators, same

from bcos_zoo import InputError
from bcos_zoo.data import (
    Augment,
    Augmented,
    SeededBatchSampler,
    open_task,
    train_loader,
    train_transform,
    val_loader,
)

CARD = {"input_size": (3, 8, 8), "interpolation": "bilinear", "crop_pct": 1.0}
CARD |= {"mean": (0.0,) * 3, "std": (1.0,) * 3}
WILD = Augment(auto="trivial", color_jitter=0.3, erase=0.5)
PLAIN = Augment(crop="none", hflip=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("loaded")
    class_folders(root / "train", {"a": 17, "b": 12})
    class_folders(root / "val", {"a": 5, "b": 6}, first=100)
    return root


@pytest.fixture(scope="module")
def task(folder):
    return open_task(folder, **QUIET)


def batches(task, *, epoch=2, step=0, workers=0, cache=False, augment=WILD, **order):
    position = SeededBatchSampler(len(task.train), 8, seed=3, **order)
    loader = train_loader(
        task.train, train_transform(CARD, augment), position, seed=3, workers=workers, cache=cache
    )
    position.set_position(epoch, step)
    return list(loader)


def test_a_batch_has_images_in_range_and_their_labels(task):
    for batch in batches(task):
        assert batch.images.shape == (8, 3, 8, 8) and batch.images.dtype == torch.float32
        assert 0 <= float(batch.images.min()) and float(batch.images.max()) <= 1
        assert batch.labels.shape == (8,) and batch.labels.dtype == torch.int64
        assert batch.failed == []


@pytest.mark.parametrize("workers, cache", [(1, False), (0, True), (2, True)])
def test_neither_workers_nor_memory_change_a_bit(task, workers, cache):
    assert same(batches(task), batches(task, workers=workers, cache=cache))


def test_what_was_drawn_before_changes_nothing_and_nothing_is_drawn_from_the_caller(task):
    first = batches(task)
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    before = generators()
    again, forked = batches(task), batches(task, workers=1)
    assert generators() == before
    assert same(first, again) and same(first, forked)


@pytest.mark.parametrize("step, workers", [(0, 0), (1, 0), (2, 0), (3, 0), (1, 2)])
def test_from_a_step_on_come_the_batches_of_the_whole_epoch(task, step, workers):
    whole = batches(task)
    assert len(whole) == 3
    assert same(whole[step:], batches(task, step=step, workers=workers))


def test_epochs_differ_in_order_and_in_augmentation(task):
    one, two = batches(task, epoch=0), batches(task, epoch=1)
    assert not same(one, two)
    fixed = SeededBatchSampler(len(task.train), 8, seed=3)
    data = Augmented(task.train, train_transform(CARD, WILD), seed=3)
    (draw, index), other = next(iter(fixed))[0], 10_000
    assert not torch.equal(data[draw, index][0], data[other, index][0])


def test_seeds_differ(task):
    transform = train_transform(CARD, WILD)
    one, two = (Augmented(task.train, transform, seed=seed) for seed in (1, 2))
    assert not torch.equal(one[0, 0][0], two[0, 0][0])


def test_pieces_of_all_processes_make_the_batch_of_one(task):
    parts = [batches(task, rank=rank, processes=2, accumulate=2) for rank in range(2)]
    for step, batch in enumerate(batches(task)):
        pieces = [part[2 * step + k] for k in range(2) for part in parts]
        assert torch.equal(torch.cat([piece.images for piece in pieces]), batch.images)
        assert torch.equal(torch.cat([piece.labels for piece in pieces]), batch.labels)


def test_the_transform_is_given_the_image_that_the_label_belongs_to(task):
    transform = train_transform(CARD, PLAIN)
    for images, labels, *_ in batches(task, augment=PLAIN):
        for image, label in zip(images, labels, strict=True):
            index = next(
                i for i in range(len(task.train)) if torch.equal(transform(task.train.load(i)), image)
            )
            assert task.train.labels[index] == label


@pytest.mark.parametrize("processes, workers", [(1, 0), (2, 0), (3, 0), (13, 0), (1, 2)])
def test_validation_shows_every_image_once_in_order(task, processes, workers):
    transform = train_transform(CARD, PLAIN)
    images = []
    for rank in range(processes):
        loader = val_loader(task.val, transform, 3, rank=rank, processes=processes, workers=workers)
        images += [image for batch in loader for image in batch.images]
    expected = [transform(task.val.load(i)) for i in range(len(task.val))]
    assert len(images) == 11 and torch.equal(torch.stack(images), torch.stack(expected))


@pytest.mark.parametrize("workers, cache", [(0, False), (1, True)])
def test_an_image_that_vanishes_is_replaced_by_the_next_and_said(tmp_path, workers, cache):
    task = open_task(class_folders(tmp_path / "set", {"a": 12, "b": 12}), val_share=0.1, **QUIET)
    (tmp_path / "set" / "a" / "4.png").unlink()
    (tmp_path / "set" / "a" / "5.png").write_bytes(b"")
    gone = [i for i in range(len(task.train)) if task.train.name(i).endswith(("a/4.png", "a/5.png"))]
    assert len(gone) == 2 and gone[1] == gone[0] + 1
    order = SeededBatchSampler(len(task.train), 4, seed=1)
    transform = train_transform(CARD, PLAIN)
    failed = []
    for keys, batch in zip(
        order, train_loader(task.train, transform, order, seed=1, workers=workers, cache=cache), strict=True
    ):
        for (_, index), image in zip(keys, batch.images, strict=True):
            expected = index if index not in gone else gone[1] + 1
            assert torch.equal(image, transform(task.train.load(expected)))
        failed += batch.failed
    said = {line.split(": ", 1)[0]: line.split(": ", 1)[1] for line in failed}
    assert {name[-7:] for name in said} <= {"a/4.png", "a/5.png"} and said
    assert all("does not exist" in why or "is empty" in why for why in said.values())


@pytest.mark.parametrize("workers, cache, batch", [(0, False, 3), (1, False, 3), (0, True, 3), (0, False, 1)])
def test_nothing_stands_in_for_an_image_that_cannot_be_measured(tmp_path, workers, cache, batch):
    """It would count twice: only the readable ones are measured, each with its own label."""
    root = class_folders(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 4, "val/b": 4})
    task = open_task(root, check=False, **QUIET)
    for gone in (1, 4):
        broken = task.val.name(gone)
        with open(broken, "wb") as file:
            file.write(b"no image")
    transform = train_transform(CARD, PLAIN)
    found = list(val_loader(task.val, transform, batch, workers=workers, cache=cache))
    readable = [0, 2, 3, 5, 6, 7]
    images = [image for one in found for image in one.images]
    assert torch.equal(torch.stack(images), torch.stack([transform(task.val.load(i)) for i in readable]))
    assert [int(y) for one in found for y in one.labels] == [0, 0, 0, 1, 1, 1]
    said = [line.partition(": ")[0] for one in found for line in one.failed]
    assert said == [task.val.name(1), task.val.name(4)]
    for processes in (1, 2, 3):  # put one after the other, their parts say which images were read
        parts = [
            val_loader(task.val, transform, batch, rank=rank, processes=processes, workers=workers)
            for rank in range(processes)
        ]
        read = [known for part in parts for one in part for known in one.read]
        assert [i for i, known in enumerate(read) if known] == readable and len(read) == 8


def test_a_set_that_is_gone_ends_the_epoch(tmp_path):
    task = open_task(class_folders(tmp_path / "set", {"a": 3, "b": 3}), **QUIET)
    for path in (tmp_path / "set").rglob("*.png"):
        path.unlink()
    order = SeededBatchSampler(len(task.train), 2, seed=1)
    with pytest.raises(InputError, match="4 images in a row cannot be read; check the disk. The first: .*p"):
        next(iter(train_loader(task.train, train_transform(CARD, PLAIN), order, seed=1)))


@pytest.mark.parametrize("size", [100, 1000, 10**6])
def test_images_kept_in_memory_no_longer_need_their_files(tmp_path, monkeypatch, size):
    monkeypatch.setattr("bcos_zoo.data.samples.ARRAY", size)  # each in its own array, some in one, all
    task = open_task(class_folders(tmp_path / "set", {"a": 6, "b": 6}), **QUIET)
    expected = batches(task)
    order = SeededBatchSampler(len(task.train), 8, seed=3)
    loader = train_loader(task.train, train_transform(CARD, WILD), order, seed=3, cache=True)
    for path in (tmp_path / "set").rglob("*.png"):
        path.unlink()
    order.set_position(2, 0)
    assert same(expected, list(loader))
