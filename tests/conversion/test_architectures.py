"""The page of architectures says what is, of every architecture of timm."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm

sys.path.append(str(Path(__file__).parents[2] / "tools"))

import conversions

RECORDS = conversions.read()
SMALLEST = conversions.smallest(RECORDS)
LARGEST = 80e6  # parameters: the smallest of these modules take more memory or time than a test should
QUICK = {"test_convnext", "test_efficientnet", "test_mambaout", "test_vit", "repghostnet_050", "iformer_t"}
same_timm = pytest.mark.skipif(
    timm.__version__ != conversions.version(), reason="the page is of another version of timm"
)


def test_the_page_is_made_from_the_data() -> None:
    assert conversions.PAGE.read_text(encoding="utf-8") == conversions.page(RECORDS)


@same_timm
def test_every_architecture_is_answered_for() -> None:
    assert set(RECORDS) == set(conversions.architectures())


def test_the_page_tells_what_was_measured_from_what_was_only_followed() -> None:
    record = dict(module="a", parameters=1, choices=[], refused=None, share=0.25, gap=None, difference=None)
    exact = record | dict(gap=2e-13, difference=3e-15, share=0.004)
    text = conversions.page({"one": exact, "two": record, "three": exact | dict(difference=4e-7)})
    assert "**Measured**: 2 architectures, among them 1 of the 1 smallest" in text
    assert "At most 2e-13 of a logit" in text and "of the other 1 that are converted" in text
    assert (
        "up to 3e-15 of the largest; up to 4e-07 of 1 whose code casts to float32 or that amplify rounding."
        in text
    )
    assert "| a | 3 | 3 | 2 | 0.4% to 25% |" in text


def test_nearly_all_are_converted_and_the_rest_say_why() -> None:
    refused = {name: record["refused"] for name, record in RECORDS.items() if record["refused"] is not None}
    assert len(refused) <= 0.1 * len(RECORDS)
    assert all(" in " in why and why.endswith("adds them to the main path") for why in refused.values())
    modules = {record["module"] for record in RECORDS.values()}
    assert len({RECORDS[name]["module"] for name in refused}) <= 0.2 * len(modules)


def test_completeness_was_measured_where_it_is_said_to_be() -> None:
    measured = [record for record in RECORDS.values() if record["gap"] is not None]
    assert measured and all(record["gap"] < 1e-9 and record["difference"] < 1e-5 for record in measured)
    unmeasured = [name for name in SMALLEST if RECORDS[name]["gap"] is None and not RECORDS[name]["refused"]]
    assert all(RECORDS[name]["parameters"] > LARGEST for name in unmeasured)


@same_timm
@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own, of networks built at other sizes
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SMALLEST]
)
def test_the_smallest_of_each_module_is_what_the_page_says(name: str) -> None:
    """With random weights, in float64: converted and complete, with the same choices, or refused as said."""
    if RECORDS[name]["parameters"] > LARGEST:
        record = conversions.by_rules(name)
    else:
        record = conversions.measured(name)
    for key in ("module", "parameters", "choices", "refused", "share"):
        assert record[key] == RECORDS[name][key]
    assert record["gap"] is None or (record["gap"] < 1e-9 and record["difference"] < 1e-5)
