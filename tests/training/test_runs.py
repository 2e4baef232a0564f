"""A run's folder belongs to one process at a time, and what a killed one left is removed."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from bcos_zoo import InputError
from bcos_zoo.files import replacing
from bcos_zoo.training import runs

HOLDS = """
import sys, time
from bcos_zoo.files import replacing
from bcos_zoo.training import runs
with runs.claimed(sys.argv[1]) as run, replacing(run / "state" / "step-00000001.pt") as temporary:
    temporary.write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(600)
"""


def test_one_process_at_a_time_and_a_killed_one_leaves_nothing(tmp_path):
    run = tmp_path / "not" / "there"
    with subprocess.Popen([sys.executable, "-c", HOLDS, run], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(
            InputError, match="another process trains in .*there; wait for it, or give another"
        ):
            with runs.claimed(run):
                pass
        (left,) = (run / "state").iterdir()
        assert left.read_bytes() == b"half"
        process.send_signal(signal.SIGKILL)
    with runs.claimed(run) as folder:
        assert folder == run and not any((run / "state").iterdir())
    with runs.claimed(run):
        pass


def test_a_run_that_never_began_leaves_no_folder(tmp_path):
    (tmp_path / "runs").mkdir()
    for name in ("runs/a/b", "runs"):
        with pytest.raises(InputError, match="no such recipe"), runs.claimed(tmp_path / name):
            raise InputError("no such recipe")
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", ".lock"]  # what was there before stays
    with pytest.raises(InputError, match="halfway"), runs.claimed(tmp_path / "runs" / "c") as run:
        (run / "metrics.csv").write_text("epoch")
        raise InputError("halfway")
    assert (tmp_path / "runs" / "c" / "metrics.csv").exists()


def test_only_what_is_unfinished_goes(tmp_path):
    kept = [".hidden", "notes.tmp", ".model.safetensors.0123.tmp", "state/.x.tmp"]
    with replacing(tmp_path / "metrics.csv") as temporary:
        gone = temporary.name
    gone_too = gone.replace("metrics.csv", "run")
    for name in kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("of somebody else")
    (tmp_path / gone_too).mkdir()
    for name in (gone, f"{gone_too}/config.json", f"state/{gone}"):
        (tmp_path / name).write_text("half")
    with runs.claimed(tmp_path):
        assert all((tmp_path / name).exists() for name in kept)
        left = {path.name for path in tmp_path.rglob("*")}
    assert left == {"metrics.csv", "state", ".lock", *(name.rpartition("/")[2] for name in kept)}


def test_a_place_where_no_folder_can_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file cannot be written: .*exists; make its folder writable, then"):
        with runs.claimed(tmp_path / "file"):
            pass


def test_what_fails_in_the_block_is_not_taken_for_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        with runs.claimed(tmp_path):
            (tmp_path / "nothing").read_text()
    with runs.claimed(tmp_path):
        pass
