"""Numbers of a recipe that make no sense are refused before anything is loaded, all of them at once."""

from __future__ import annotations

import math
import typing

import pytest

from bcos_zoo import InputError
from bcos_zoo.data import bounds
from bcos_zoo.training import recipe

LEAST = {"model": {"name": "bcos_resnet20"}, "run": {"epochs": 1}}
BAD = {  # a key -> values that no run could have a use for
    "optimizer.lr": ["nan", "inf", "0", "-1e-3"],
    "optimizer.head_lr": ["nan", "inf", "0"],
    "optimizer.clip": ["-1", "0", "nan", "inf"],
    "optimizer.warmup_epochs": ["-1", "inf"],
    "optimizer.warmup_factor": ["-0.1", "2.0"],
    "optimizer.weight_decay": ["-1", "nan"],
    "optimizer.min_lr": ["-1", "nan"],
    "optimizer.layer_decay": ["7", "0", "-0.5"],
    "optimizer.ema_decay": ["1.5", "-0.5", "1.0"],
    "optimizer.ema_every": ["0"],
    "optimizer.milestones": ["[30, -1]"],
    "optimizer.decay_epochs": ["0", "-2"],
    "optimizer.decay_rate": ["-0.1", "nan"],
    "data.crop_pct": ["0", "-1", "1.5", "nan"],
    "data.input_size": ["0", "-32"],
    "data.val_size": ["0"],
    "data.val_share": ["0", "1", "nan"],
    "data.folds": ["1"],
    "data.fold": ["-1"],
    "data.workers": ["-1"],
    "data.bad_share": ["1.5", "nan"],
    "data.seed": ["-1"],
    "augment.hflip": ["1.1"],
    "augment.mixup": ["inf"],
    "augment.scale": ["[0.0, 1.0]", "[0.5, 1.5]"],
    "augment.ratio": ["[1.0, inf]"],
    "augment.shift": ["-1"],
    "loss.smoothing": ["1", "nan"],
    "loss.off_label": ["1.0"],
    "run.snapshots": ["-1"],
    "run.patience": ["0"],
    "run.save_steps": ["-5"],
    "run.save_minutes": ["-1", "nan"],
    "run.seed": ["18446744073709551616"],
    "run.keep": ["0"],
    "run.accumulate": ["0"],
}
GOOD = [
    "optimizer.weight_decay=0", "optimizer.clip=0.01", "optimizer.layer_decay=1", "optimizer.ema_decay=0",
    "optimizer.milestones=[30, 60]", "data.crop_pct=1", "data.workers=0", "data.bad_share=0", "data.folds=2",
    "run.snapshots=0", "run.patience=1", "run.save_steps=0", "run.save_minutes=0", "run.seed=0",
    "loss.off_label=uniform", "loss.smoothing=0", "augment.scale=[1.0, 1.0]", "augment.shift=0",
]  # fmt: skip


def parsed(*changes: str) -> recipe.Recipe:
    return recipe.parse(recipe.changed(LEAST, changes), where="a.toml")


@pytest.mark.parametrize("change", [f"{key}={value}" for key, values in BAD.items() for value in values])
def test_a_number_that_makes_no_sense_is_refused_with_what_is_allowed(change):
    with pytest.raises(InputError) as caught:
        parsed(change)
    key, _, _ = change.partition("=")
    said = str(caught.value)
    assert said.startswith(f"a.toml: {key}=") and ": allowed are " in said and "\n" not in said


@pytest.mark.parametrize("change", GOOD)
def test_the_ends_of_the_ranges_that_belong_to_them_are_taken(change):
    parsed(change)


def test_every_number_of_a_recipe_has_a_range():
    """Read from the types of the classes, so that a new key cannot be forgotten."""
    numbers = set()
    for table, part in recipe.TABLES.items():
        for key, kind in typing.get_type_hints(part).items():
            within = {kind, *typing.get_args(kind)}
            if within & {int, float} and typing.get_origin(kind) is not typing.ClassVar:
                numbers.add(f"{table}.{key}")
    assert numbers == {f"{table}.{key}" for table, keys in bounds.BOUNDS.items() for key in keys}
    assert numbers >= BAD.keys() and len(numbers) > 40


def test_all_of_them_are_named_in_one_message_beside_faults_of_other_kinds():
    with pytest.raises(InputError) as caught:
        parsed(
            "optimizer.lr=nan", "optimizer.clip=-1", "optimizer.clip_mode=hard", "run.patience=0",
            "run.keep=x", "data.crop_pct=0", "data.sed=1", "loss.smoothing=2", "loss.kind=mse",
        )  # fmt: skip
    said = str(caught.value)
    for key in (
        "optimizer.lr", "optimizer.clip", "optimizer.clip_mode", "run.patience", "run.keep", "data.crop_pct",
        "unknown key data.sed", "loss.smoothing", "loss.kind",
    ):  # fmt: skip
        assert said.count(f"{key}=" if "unknown" not in key else key) == 1, (key, said)


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        (bounds.Bound(0), "numbers from 0"),
        (bounds.Bound(0, with_low=False), "numbers above 0"),
        (bounds.Bound(0, 1), "numbers from 0 to 1"),
        (bounds.Bound(0, 1, with_high=False), "numbers from 0 to below 1"),
        (bounds.Bound(0, 1, with_low=False), "numbers above 0, up to 1"),
        (bounds.Bound(0, 1, with_low=False, with_high=False), "numbers between 0 and 1"),
        (bounds.Bound(1, whole=True), "1 and more"),
        (bounds.Bound(0, 9, whole=True), "whole numbers from 0 to 9"),
        (bounds.Bound(0, 1, word="uniform"), "'uniform' and numbers from 0 to 1"),
    ],
)
def test_a_range_is_said_in_words_that_agree_with_it(bound, words):
    assert str(bound) == words
    for value in (-math.inf, -1, 0, 0.5, 1, 9, 10, math.inf, math.nan):
        inside = math.isfinite(value) and (
            bound.low < value < bound.high
            or (value == bound.low and ("from" in words or "more" in words))
            or (value == bound.high and "to below" not in words and "between" not in words)
        )
        assert bound.allows(value) == inside
