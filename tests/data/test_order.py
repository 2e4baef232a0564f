"""The order of training: every image once an epoch, and the same for one process and for many."""

import math

import pytest
import torch

from bcos_zoo import InputError
from bcos_zoo.data import SeededBatchSampler

SIZES = [(32, 8), (37, 8), (100, 24), (24, 24), (1000, 48)]


def keys(order, epoch, step=0):
    order.set_position(epoch, step)
    return [key for piece in order for key in piece]


@pytest.mark.parametrize("epoch", [0, 1, 7])
@pytest.mark.parametrize("length", [1, 12, 37, 1000])
def test_the_order_of_an_epoch_is_a_permutation(length, epoch):
    assert sorted(SeededBatchSampler(length, 1, seed=3).order(epoch).tolist()) == list(range(length))


def test_epochs_and_seeds_differ():
    orders = [
        tuple(SeededBatchSampler(100, 10, seed=seed).order(epoch).tolist())
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4


@pytest.mark.parametrize("length, batch_size", SIZES)
@pytest.mark.parametrize("processes, accumulate", [(1, 2), (2, 1), (2, 2), (4, 1), (4, 2)])
def test_the_parts_of_all_processes_make_the_batches_of_one(length, batch_size, processes, accumulate):
    one = SeededBatchSampler(length, batch_size, seed=5)
    pieces = SeededBatchSampler(length, batch_size, seed=5, accumulate=accumulate)
    several = [
        SeededBatchSampler(length, batch_size, seed=5, rank=rank, processes=processes, accumulate=accumulate)
        for rank in range(processes)
    ]
    assert {order.steps for order in several} == {one.steps}
    one.set_position(2, 0)
    pieces.set_position(2, 0)
    parts = []
    for order in several:
        order.set_position(2, 0)
        parts.append(list(order))
        assert len(parts[-1]) == len(order) == one.steps * accumulate
    assert [key for piece in pieces for key in piece] == [key for batch in one for key in batch]
    for i, piece in enumerate(pieces):
        assert [key for part in parts for key in part[i]] == piece


@pytest.mark.parametrize("length, batch_size", SIZES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_from_any_step_on_comes_the_tail_of_the_epoch(length, batch_size, accumulate):
    order = SeededBatchSampler(length, batch_size, seed=1, accumulate=accumulate)
    order.set_position(3, 0)
    whole = list(order)
    for step in range(order.steps + 1):
        order.set_position(3, step)
        assert list(order) == whole[step * accumulate :]
        assert len(order) == (order.steps - step) * accumulate


def test_no_two_draws_have_the_same_number():
    order = SeededBatchSampler(37, 8, seed=1)
    draws = [draw for epoch in range(5) for draw, _ in keys(order, epoch)]
    assert len(set(draws)) == len(draws) == 5 * 4 * 8


def test_the_draw_of_a_place_does_not_depend_on_the_batches():
    assert keys(SeededBatchSampler(48, 8, seed=1), 4) == keys(
        SeededBatchSampler(48, 16, seed=1, accumulate=2), 4
    )


@pytest.mark.parametrize("repeats", [2, 3])
def test_repeated_images_stand_side_by_side_and_the_epoch_stays_as_long(repeats):
    order = SeededBatchSampler(60, 12, seed=1, repeats=repeats).order(0).tolist()
    assert len(order) == 60
    groups = [order[i : i + repeats] for i in range(0, 60, repeats)]
    assert all(len(set(group)) == 1 for group in groups)
    assert len({group[0] for group in groups}) == len(groups) == math.ceil(60 / repeats)


def test_weights_draw_rare_images_as_often():
    labels = torch.tensor([0] * 900 + [1] * 100)
    weights = 1 / torch.bincount(labels)[labels].double()
    order = SeededBatchSampler(1000, 10, seed=1, weights=weights)
    share = labels[torch.cat([order.order(epoch) for epoch in range(10)])].double().mean()
    assert abs(float(share) - 0.5) < 0.03
    assert order.order(1).tolist() == SeededBatchSampler(1000, 10, seed=1, weights=weights).order(1).tolist()


def test_a_batch_larger_than_the_set_is_cut_to_what_divides():
    order = SeededBatchSampler(23, 64, seed=1, processes=2, accumulate=2, rank=1)
    assert (order.batch_size, order.piece, order.steps) == (20, 5, 1)
    assert [len(piece) for piece in order] == [5, 5]


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"batch_size=10 does not divide by 2 processes x 2 pieces"):
        SeededBatchSampler(100, 10, seed=1, processes=2, accumulate=2)


def test_fewer_images_than_processes_are_refused():
    with pytest.raises(InputError, match="3 training images do not divide among 4 processes"):
        SeededBatchSampler(3, 4, seed=1, processes=4)
