"""The tables of a run, and which of its epochs is the best."""

from __future__ import annotations

import csv
import json
import math
import random
from itertools import accumulate

import pytest

from bcos_zoo import InputError, WeightsError
from bcos_zoo.training import history
from bcos_zoo.training.best_epoch import BestEpoch

ROWS = [
    {"epoch": 1, "step": 10, "lr": 0.001, "train_loss": 0.7, "seconds": 1.5, "unreadable": 0},
    {"epoch": 2, "step": 20, "lr": 0.002, "train_loss": 0.5, "val_loss": 0.6, "top1": 51.25, "seconds": 1.4}
    | {"f1": math.nan, "images_per_second": 812.5, "unreadable": 2},
]


def test_both_tables_hold_the_same_numbers(tmp_path):
    history.write(tmp_path, ROWS)
    text = (tmp_path / "metrics.csv").read_text()
    assert text.splitlines()[0] == (
        "epoch,step,lr,train_loss,val_loss,top1,f1,seconds,images_per_second,unreadable"
    )
    table = list(csv.DictReader(text.splitlines()))
    assert table[0]["val_loss"] == table[0]["top1"] == ""  # it was not validated
    assert table[1]["f1"] == "nan"
    for row, line in zip(ROWS, table, strict=True):
        assert {key: float(line[key]) for key in row if key != "f1"} == {
            k: v for k, v in row.items() if k != "f1"
        }
    assert history.read(tmp_path) == [ROWS[0], ROWS[1] | {"f1": None}]
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_tables_are_written_anew_and_nothing_else_is_left(tmp_path):
    history.write(tmp_path, ROWS)
    history.write(tmp_path, ROWS[:1])
    assert history.read(tmp_path) == ROWS[:1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "metrics.json"]
    history.write(tmp_path / "none", [])
    assert history.read(tmp_path / "none") == history.read(tmp_path / "nowhere") == []


@pytest.mark.parametrize("text", ["[{", '{"epoch": 1}', "[1]", '[{"step": 3}]'])
def test_a_damaged_table_is_named(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(WeightsError, match="metrics.json .*; delete it, a run writes it anew"):
        history.read(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError, match="run/metrics.csv cannot be written: .*; make its folder writable"):
        history.write(tmp_path / "run", ROWS)


@pytest.mark.parametrize("direction", ["max", "min"])
def test_an_epoch_is_better_if_it_beats_all_before(direction):
    values = [random.Random(0).randrange(20) for _ in range(100)]
    best, extreme = BestEpoch("top1", direction), max if direction == "max" else min
    so_far = list(accumulate(values, extreme))
    for epoch, value in enumerate(values, 1):
        expected = epoch == 1 or value != so_far[epoch - 2] and so_far[epoch - 1] == value
        assert best.update(epoch, value) is expected
        assert best.value == so_far[epoch - 1] and best.epoch == values.index(best.value) + 1
        assert not best.stop


def test_nan_is_never_the_best():
    best = BestEpoch("f1", "max", patience=2)
    assert not best.update(1, math.nan) and best.epoch is None and not best.stop
    assert best.update(2, 0.0) and not best.update(3, math.nan)
    assert (best.epoch, best.value) == (2, 0.0)


@pytest.mark.parametrize("every", [1, 2])
def test_patience_counts_epochs(every):
    """The best is epoch 4; with a patience of 4 the run ends after epoch 8, however often it is validated."""
    best = BestEpoch("loss", "min", patience=4)
    for epoch in range(every, 100, every):
        best.update(epoch, abs(epoch - 4))
        if best.stop:
            break
    assert (epoch, best.epoch) == (8, 4)


def test_without_any_value_it_stops_too():
    best = BestEpoch("map", "max", patience=3)
    stops = [(best.update(epoch, math.nan), best.stop)[1] for epoch in (1, 2, 3)]
    assert stops == [False, False, True]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_resumed_one_decides_as_one_that_was_not_interrupted(cut):
    values = [5, 6, 6, 4, 7, 7, 3, 2, 7, 6, 1, 0]
    whole, first, second = (BestEpoch("top1", "max", patience=6) for _ in range(3))
    for epoch, value in enumerate(values[:cut], 1):
        first.update(epoch, value)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for epoch, value in enumerate(values, 1):
        expected = whole.update(epoch, value), whole.stop
        if epoch > cut:
            assert (second.update(epoch, value), second.stop) == expected
    assert whole.stop


def test_a_state_of_another_score_is_refused():
    with pytest.raises(InputError, match="watched by f1, and now by top1; resume with the same run.monitor"):
        BestEpoch("top1", "max").load_state_dict(BestEpoch("f1", "max").state_dict())
    with pytest.raises(InputError, match="direction='up' of top1: allowed are max and min"):
        BestEpoch("top1", "up")
    with pytest.raises(InputError, match="patience=0: allowed are 1 and more"):
        BestEpoch("top1", "max", 0)


def test_of_equal_scores_the_one_with_the_lower_loss_is_kept():
    best = BestEpoch("top1", "max", patience=3)
    said = [(100.0, 0.0275), (100.0, 0.0063), (100.0, math.nan), (100.0, 0.0063), (99.0, 0.001)]
    assert [best.update(epoch, *one) for epoch, one in enumerate(said, 1)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert (best.epoch, best.value, best.loss) == (2, 100.0, 0.0063)
    assert best.stop  # the score was reached in epoch 1, and patience is with scores


def test_a_loss_that_is_no_number_gives_way_to_one_and_a_better_score_to_none():
    best = BestEpoch("f1", "max")
    assert best.update(1, 50.0, math.nan) and best.update(2, 50.0, 3.0) and not best.update(3, 50.0, 4.0)
    assert best.update(4, 51.0, 9.0) and best.epoch == 4
    again = BestEpoch("f1", "max")
    again.load_state_dict(json.loads(json.dumps(best.state_dict())))
    assert again.update(5, 51.0, 8.0) and not again.update(6, 51.0, 8.5)


def test_a_state_of_before_goes_on():
    best = BestEpoch("f1", "max", patience=2)
    best.load_state_dict({"metric": "f1", "epoch": 3, "value": 50.0, "last": 4})
    assert best.update(5, 50.0, 1.0) and best.stop
