"""A run's folder belongs to one process at a time, and what a killed one left is removed."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid

import pytest
from small_runs import make, paint, quiet

from bcos_zoo import InputError
from bcos_zoo.data import open_task
from bcos_zoo.files import replacing
from bcos_zoo.training import engine, runs

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


def temporary(name: str) -> str:
    return f".{name}.{uuid.uuid4().hex}.tmp"


def test_only_what_is_unfinished_goes(tmp_path):
    kept = [".hidden", "notes.tmp", ".model.safetensors.0123.tmp", "state/.x.tmp", temporary("photo.png")]
    with replacing(tmp_path / "metrics.csv") as half:
        gone = half.name
    gone_too = temporary("network")
    for name in kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("of somebody else")
    (tmp_path / gone_too).mkdir()
    for name in (gone, f"{gone_too}/config.json", f"state/{temporary('step-00000012.pt')}"):
        (tmp_path / name).write_text("half")
    with runs.claimed(tmp_path):
        assert all((tmp_path / name).exists() for name in kept)
        left = {path.name for path in tmp_path.rglob("*")}
    assert left == {"metrics.csv", "state", ".lock", *(name.rpartition("/")[2] for name in kept)}


def test_what_others_are_writing_beside_and_below_a_run_stays(tmp_path):
    """Whoever trains in `runs` must not touch what another process writes in `runs/other`."""
    run, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    places = [run / "other", run / "other" / "state", elsewhere]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    (run / "state").symlink_to(elsewhere)  # of another run, or on another disk
    (run / "link").symlink_to(elsewhere)
    exported = run / temporary("exported")
    exported.mkdir()
    theirs = [place / temporary("step-00000001.pt") for place in places] + [exported / "config.json"]
    for path in theirs:
        path.write_text("half")
    with runs.claimed(run):
        pass
    assert [path.read_text() for path in theirs] == ["half"] * 4


def test_everything_that_a_run_writes_is_known_by_its_temporary_name(tmp_path, monkeypatch):
    root = paint(tmp_path / "images", {"train": 8, "val": 4, "test": 4})
    (root / "val" / "red" / "0.png").write_bytes(b"broken")
    written, uuid4 = [], uuid.uuid4

    class Temporary:
        """A name that says which file it is of: the caller puts it into `.NAME.HEX.tmp`."""

        @property
        def hex(self) -> str:
            caller = sys._getframe(1).f_locals
            written.append(caller["path"].name if "path" in caller else "network")
            return uuid4().hex

    monkeypatch.setattr(uuid, "uuid4", Temporary)
    wanted = make(run__epochs=1, data__bad_share=0.5)
    engine.train(wanted, open_task(root, bad_share=0.5, log=quiet), tmp_path / "run", log=quiet)
    names = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()} - {runs.LOCK}
    assert names <= {*written, "card-sample.png", "explanation.png", "config.json"} and len(names) > 14
    for name in {*written, *names}:
        assert runs.UNFINISHED.fullmatch(temporary(name)), name


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
