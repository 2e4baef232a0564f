"""Splits by seed: disjoint, complete, of every class on both sides."""

import pytest
import torch

from bcos_zoo import InputError
from bcos_zoo.data import splits

COUNTS = [[2, 2], [5] * 10, [3, 50, 7], [100, 2, 11, 40]]


def single(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def several(images, classes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shares = torch.linspace(0.1, 0.6, classes)
    return (torch.rand(images, classes, generator=draw) < shares).float()


def names(labels):
    return [f"class {i}" for i in range(labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1)]


def held_out(labels, share, seed=1):
    return splits.held_out(labels, share, seed=seed, class_names=names(labels))


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.95])
@pytest.mark.parametrize("counts", COUNTS)
def test_held_out_images_are_the_share_of_each_class_and_at_least_one(counts, share):
    labels = single(counts)
    train, val = held_out(labels, share)
    assert sorted(train + val) == list(range(len(labels)))
    assert train == sorted(train) and val == sorted(val)
    for index, count in enumerate(counts):
        held = int((labels[val] == index).sum())
        assert 1 <= held <= count - 1
        assert abs(held - share * count) <= 0.5 or held in (1, count - 1)


@pytest.mark.parametrize("labels", [single([20, 30]), several(80, 5)], ids=["single", "several"])
def test_a_split_is_a_function_of_the_seed(labels):
    assert held_out(labels, 0.3, seed=1) == held_out(labels, 0.3, seed=1)
    assert held_out(labels, 0.3, seed=1) != held_out(labels, 0.3, seed=2)


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("labels", [single([5] * 10), single([5, 17, 8]), several(120, 6)])
def test_folds_partition_the_images(labels, folds):
    parts = [splits.fold_of(labels, folds, fold, seed=4, class_names=names(labels)) for fold in range(folds)]
    assert sorted(i for _, val in parts for i in val) == list(range(len(labels)))
    for train, val in parts:
        assert sorted(train + val) == list(range(len(labels)))
    sizes = [len(val) for _, val in parts]
    assert max(sizes) - min(sizes) <= (1 if labels.ndim == 1 else 8)  # classes come first


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_have_as_many_images_of_each_class_up_to_one(folds):
    labels = single([5, 17, 8])
    vals = [
        splits.fold_of(labels, folds, fold, seed=4, class_names=names(labels))[1] for fold in range(folds)
    ]
    for index in range(3):
        counts = [int((labels[val] == index).sum()) for val in vals]
        assert max(counts) - min(counts) <= 1 <= min(counts)


def test_images_of_several_classes_are_split_in_proportion():
    labels = several(400, 8)
    train, val = held_out(labels, 0.25)
    assert sorted(train + val) == list(range(400))
    shares = labels[val].sum(0) / labels.sum(0)
    assert (shares - 0.25).abs().max() < 0.03
    assert abs(len(val) / 400 - 0.25) < 0.03


def test_images_of_no_class_are_split_too():
    labels = torch.zeros(100, 2)
    labels[:10, 0] = labels[5:20, 1] = 1
    _, val = held_out(labels, 0.2)
    assert 2 <= sum(i >= 20 for i in val) <= 30


def test_one_image_cannot_be_split():
    with pytest.raises(InputError, match="'class 1' has 1 images; a split for validation needs at least 2"):
        held_out(torch.tensor([0, 0, 1]), 0.5)


def test_fewer_images_than_folds_are_refused():
    with pytest.raises(InputError, match="class 'class 0' has 4 images; 5 folds need at least 5"):
        splits.fold_of(single([4, 9]), 5, 0, seed=1, class_names=["class 0", "class 1"])


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_a_share_of_nothing_or_all_is_refused(share):
    with pytest.raises(InputError, match="allowed are shares between 0 and 1"):
        held_out(single([5, 5]), share)


@pytest.mark.parametrize("folds, fold", [(1, 0), (5, 5), (5, -1)])
def test_a_fold_that_is_none_is_refused(folds, fold):
    with pytest.raises(InputError, match="at least 2 folds, counted from 0"):
        splits.fold_of(single([9, 9]), folds, fold, seed=1, class_names=["a", "b"])


def test_a_class_that_came_out_on_one_side_is_refused():
    labels = torch.tensor([[1.0, 1, 1], [1, 1, 1], [1, 0, 0], [0, 1, 0]])
    with pytest.raises(InputError, match="came out on one side of the split only"):
        splits._parted(torch.tensor([0, 0, 1, 1]), 1, labels, ["a", "b", "c"])
