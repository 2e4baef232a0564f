"""States of a run: whole or not at all, the newest few, and damage is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import disks
import pytest
import torch

from bcos_zoo import InputError, WeightsError
from bcos_zoo.training import states


def state(step: int, size: int = 1000) -> dict[str, Any]:
    weights = torch.randn(size, generator=torch.Generator().manual_seed(step))
    optimizer = {
        "state": {0: {"exp_avg": weights / 2, "step": torch.tensor(step)}},
        "param_groups": [{"lr": 1e-3}],
    }
    return {
        "model": {"w": weights},
        "optimizer": optimizer,
        "ema": None,
        "rows": [{"loss": 0.5}],
        "step": step,
    }


def names(run: Path) -> list[str]:
    return sorted(os.listdir(run / "state"))


def test_a_state_comes_back_to_the_last_bit(tmp_path):
    path = states.save(tmp_path, state(1234), 1234, keep=2)
    assert path == tmp_path / "state" / "step-00001234.pt"
    found, read = states.newest(tmp_path)
    assert found == path
    assert torch.equal(read["model"]["w"], state(1234)["model"]["w"])
    assert {k: v for k, v in read.items() if k not in ("model", "optimizer")} == {
        "ema": None, "rows": [{"loss": 0.5}], "step": 1234,
    }  # fmt: skip
    assert read["optimizer"]["param_groups"] == [{"lr": 1e-3}]


def test_nothing_is_newest_where_nothing_is(tmp_path):
    assert states.newest(tmp_path) is None
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "step-x.pt").write_text("of somebody else")
    assert states.newest(tmp_path) is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_few_stay(tmp_path, keep):
    steps = [5, 10, 99_999_999, 100_000_000, 100_000_005]  # the last ones have longer names
    for step in steps:
        states.save(tmp_path, state(step), step, keep=keep)
    assert [states.step_of(path) for path in states.list_(tmp_path)] == steps[-keep:]
    assert states.newest(tmp_path)[1]["step"] == steps[-1]


def test_a_state_of_the_same_step_is_replaced(tmp_path):
    states.save(tmp_path, state(3), 3, keep=2)
    states.save(tmp_path, state(5), 5, keep=2)
    states.save(tmp_path, {"step": 5, "again": True}, 5, keep=2)
    assert names(tmp_path) == ["step-00000003.pt", "step-00000005.pt"]
    assert states.newest(tmp_path)[1]["again"]


def test_a_state_of_another_run_is_not_rotated_away(tmp_path):
    states.save(tmp_path, state(500), 500, keep=1)
    with pytest.raises(InputError, match="holds step 500 already, after step 20 of this run; give another"):
        states.save(tmp_path, state(20), 20, keep=1)
    assert names(tmp_path) == ["step-00000500.pt"]
    with pytest.raises(InputError, match="keep=0: allowed are 1 and more"):
        states.save(tmp_path, state(501), 501, keep=0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB, on which a state of 60,000 weights does not fit."""
    with disks.small_disk(tmp_path / "run", "256k") as run:
        yield run


def test_a_full_disk_ends_in_one_line_and_leaves_the_older_states(small_disk):
    for step in (1, 2):
        states.save(small_disk, state(step), step, keep=2)
    before = {path: path.read_bytes() for path in states.list_(small_disk)}
    with pytest.raises(InputError) as error:
        states.save(small_disk, state(3, 60_000), 3, keep=1)
    assert str(error.value).startswith(
        f"{small_disk}/state/step-00000003.pt cannot be written: No space left on device; free some space, or"
    )
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in (small_disk / "state").iterdir()} == before
    assert states.newest(small_disk)[1]["step"] == 2
    states.save(small_disk, state(4), 4, keep=1)
    assert names(small_disk) == ["step-00000004.pt"]


def test_a_place_that_cannot_be_written_ends_in_one_line(tmp_path):
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="state/step-00000001.pt cannot be written: .*exists; make its"):
        states.save(tmp_path, state(1), 1, keep=1)


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("where", ["head", "tensor", "end", "cut", "empty"])
def test_a_damaged_state_is_named_and_so_is_what_to_do(tmp_path, where, older):
    """Every kind of damage, one flipped bit in a tensor too, which torch itself reads as if nothing were."""
    if older:
        states.save(tmp_path, state(1), 1, keep=3)
        states.save(tmp_path, state(2), 2, keep=3).write_bytes(b"damaged too")
    path = states.save(tmp_path, state(3), 3, keep=3)
    data = bytearray(path.read_bytes())
    at = {
        "head": 1,
        "tensor": data.find(state(3)["model"]["w"].numpy().tobytes()) + 100,
        "end": len(data) - 21,
    }
    if where in at:
        assert at[where] > 0
        data[at[where]] ^= 4
    path.write_bytes({"cut": data[: len(data) // 2], "empty": b""}.get(where, data))
    with pytest.raises(WeightsError) as error:
        states.newest(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{path} is damaged") and "\n" not in message
    if older:
        assert message.endswith(
            "; step-00000001.pt is intact: delete step-00000003.pt, and --resume goes on from there"
        )
    else:
        assert message.endswith("no older one is intact; start the run anew in another folder")
    assert path.exists()  # it is the user's to delete


def test_a_file_that_could_run_code_is_not_read(tmp_path):
    (tmp_path / "state").mkdir()
    torch.save({"call": subprocess.run}, tmp_path / "state" / "step-00000001.pt")
    with pytest.raises(WeightsError, match="damaged, or holds objects that could run code; no older one"):
        states.newest(tmp_path)
    torch.save([1], tmp_path / "state" / "step-00000001.pt")
    with pytest.raises(WeightsError, match="holds a list, no state of a run"):
        states.newest(tmp_path)


KILLED = """
import sys, torch
from bcos_zoo.training import states
print("ready", flush=True)
for step in range(1, 10_000):
    states.save(sys.argv[1], {"w": torch.full((300_000,), step), "step": step}, step, keep=2)
"""


def test_a_process_killed_at_any_moment_leaves_a_whole_state(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        while not states.list_(tmp_path):
            time.sleep(0.01)
        time.sleep(0.237)
        process.send_signal(signal.SIGKILL)
    path, read = states.newest(tmp_path)
    assert read["step"] == states.step_of(path) and (read["w"] == read["step"]).all()
    assert 1 <= len(states.list_(tmp_path)) <= 3
