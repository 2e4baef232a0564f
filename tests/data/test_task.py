"""Tasks from folders: found, split, checked, and refused in one clear line."""

import pytest
import torch
from photographs import written
from sets import BROKEN, QUIET, class_folders

from bcos_zoo import InputError
from bcos_zoo.data import UnreadableError, open_task


@pytest.fixture
def plain(tmp_path):
    return class_folders(tmp_path / "set", {"cat": 10, "dog": 20})


def inside(samples, root):
    return {samples.name(i).removeprefix(f"{root}/") for i in range(len(samples))}


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test"])
def test_two_folders_of_class_folders_are_a_split(tmp_path, val):
    class_folders(tmp_path / "train", {"cat": 3, "dog": 4})
    class_folders(tmp_path / val, {"cat": 2, "dog": 1}, first=50)
    task = open_task(tmp_path, **QUIET)
    assert task.class_names == ("cat", "dog") and not task.multilabel and task.unreadable == ()
    assert task.train.labels.tolist() == [0] * 3 + [1] * 4 and task.val.labels.tolist() == [0, 0, 1]
    assert task.class_counts().tolist() == [3, 4]
    assert inside(task.val, tmp_path / val) == {"cat/0.png", "cat/1.png", "dog/0.png"}
    assert task.train.load(0).size == (12, 10) and task.train.load(0).mode == "RGB"


def test_splits_of_other_names_are_given(tmp_path):
    for name, count in (("train", 2), ("val", 3), ("learn", 4), ("exam", 5)):
        class_folders(tmp_path / name, {"a": count, "b": count})
    task = open_task(tmp_path, train_split="learn", val_split="exam", **QUIET)
    assert (len(task.train), len(task.val)) == (8, 10)


def test_a_folder_of_classes_is_split_by_seed(plain):
    task = open_task(plain, val_share=0.3, seed=1, **QUIET)
    assert task.val.labels.bincount().tolist() == [3, 6]
    assert not inside(task.train, plain) & inside(task.val, plain)
    assert len(inside(task.train, plain) | inside(task.val, plain)) == 30
    assert inside(open_task(plain, val_share=0.3, seed=1, **QUIET).val, plain) == inside(task.val, plain)
    assert inside(open_task(plain, val_share=0.3, seed=2, **QUIET).val, plain) != inside(task.val, plain)


def test_a_train_folder_without_another_is_split_too(tmp_path):
    class_folders(tmp_path / "train", {"cat": 10, "dog": 10})
    task = open_task(tmp_path, val_share=0.5, **QUIET)
    assert task.class_names == ("cat", "dog") and len(task.val) == 10


def test_folds_partition_a_folder(plain):
    parts = [inside(open_task(plain, folds=4, fold=fold, **QUIET).val, plain) for fold in range(4)]
    assert len(set().union(*parts)) == sum(map(len, parts)) == 30


def test_a_fingerprint_follows_the_images_but_not_their_folder(tmp_path, plain):
    one = open_task(plain, **QUIET).fingerprint
    assert open_task(plain.rename(tmp_path / "moved"), **QUIET).fingerprint == one
    assert open_task(tmp_path / "moved", seed=2, **QUIET).fingerprint != one
    (tmp_path / "moved" / "cat" / "0.png").rename(tmp_path / "moved" / "cat" / "00.png")
    assert open_task(tmp_path / "moved", **QUIET).fingerprint != one


def test_drawing_by_weight_makes_classes_alike(plain):
    task = open_task(plain, **QUIET)
    weights = task.draw_weights()
    assert torch.allclose(weights[task.train.labels == 0].sum(), weights[task.train.labels == 1].sum())


def test_broken_images_of_all_kinds_are_left_out_and_listed(plain):
    for name, data in BROKEN.items():
        written(plain / "dog" / name, data)
    lines = []
    task = open_task(plain, bad_share=0.5, threads=2, log=lines.append)
    assert lines == [f"38 images decoded; {len(BROKEN)} cannot be read"]
    assert len(task.train) + len(task.val) == 30
    assert len(task.unreadable) == len(BROKEN) >= 5
    for line in task.unreadable:
        name, why = line.split(": ", 1)
        assert name.removeprefix(f"{plain}/dog/") in BROKEN
        assert "\n" not in why and str(plain) not in why and len(why) > 5
    for samples in (task.train, task.val):
        for i in range(len(samples)):
            samples.load(i)


def test_too_many_broken_images_stop_with_the_list(plain):
    for i in range(4):
        written(plain / "cat" / f"broken{i}.png", b"")
    with pytest.raises(
        UnreadableError, match=r"4 of 34 images \(11.8%\) cannot be read; at most 5.0% may be"
    ) as got:
        open_task(plain, bad_share=0.05, **QUIET)
    assert len(got.value.unreadable) == 4
    assert all(line in str(got.value) for line in got.value.unreadable)
    assert "\n" not in str(got.value)
    assert len(open_task(plain, bad_share=0.12, **QUIET).unreadable) == 4


def test_broken_validation_images_count_too(tmp_path):
    class_folders(tmp_path / "train", {"a": 5, "b": 5})
    class_folders(tmp_path / "val", {"a": 5, "b": 5})
    written(tmp_path / "val" / "a" / "0.png", b"")
    task = open_task(tmp_path, bad_share=0.05, **QUIET)
    assert len(task.val) == 9 and len(task.unreadable) == 1
    with pytest.raises(UnreadableError):
        open_task(tmp_path, bad_share=0.04, **QUIET)


def test_without_the_check_nothing_is_decoded(plain):
    written(plain / "cat" / "0.png", b"")
    task = open_task(plain, check=False, **QUIET)
    assert len(task.train) + len(task.val) == 30 and task.unreadable == ()


def refused(source, said, **options):
    with pytest.raises(InputError, match=said) as got:
        open_task(source, **QUIET, **options)
    assert "\n" not in str(got.value)


def test_what_is_not_there_is_refused(tmp_path):
    refused(tmp_path / "nothing", "nothing: no such file or folder; give a folder of class folders, a .csv")
    refused(written(tmp_path / "notes.txt", b"x"), "no known kind of source")
    refused(tmp_path, "no sub-folders; put the images of each class into a folder")


def test_an_empty_class_is_refused(plain):
    (plain / "emu").mkdir()
    refused(plain, "emu' holds no image")


def test_a_class_of_broken_images_is_refused(plain):
    (plain / "emu").mkdir()
    for i in range(2):
        written(plain / "emu" / f"{i}.png", b"")
    refused(plain, "class 'emu' has no readable training image", bad_share=0.5)


def test_one_class_is_refused(tmp_path):
    refused(class_folders(tmp_path / "set", {"cat": 9}), "one class only, 'cat'; give images of two or more")


def test_one_image_of_a_class_cannot_be_split(tmp_path):
    refused(class_folders(tmp_path / "set", {"cat": 9, "dog": 1}), "'dog' has 1 images; a split for")


def test_classes_that_differ_between_splits_are_refused(tmp_path):
    class_folders(tmp_path / "train", {"cat": 3, "dog": 3})
    class_folders(tmp_path / "val", {"cat": 3, "emu": 3})
    refused(tmp_path, "dog, emu in one of train and val only; give both the same classes")


def test_folds_of_a_set_with_a_split_are_refused(tmp_path):
    for name in ("train", "val"):
        class_folders(tmp_path / name, {"cat": 3, "dog": 3})
    refused(tmp_path, "has a validation split, so folds=3 cannot be made", folds=3)


def test_splits_that_are_not_there_are_refused(plain, tmp_path):
    refused(plain, "no folder learn in it; train_split must name one", train_split="learn")
    class_folders(tmp_path / "other" / "train", {"cat": 3, "dog": 3})
    refused(tmp_path / "other", "no folder exam in it; val_split must name one", val_split="exam")
