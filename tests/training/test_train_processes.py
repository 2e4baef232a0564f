"""Runs as processes of their own: several at once, and killed ones."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import timm
import torch
from run_pages import check
from small_runs import paint

RECIPE = """
[model]
name = "bcos_resnet20"
args = { layers = [1, 1, 1] }

[data]
workers = 0

[augment]
crop = "shift"

[optimizer]
name = "nmuon"
lr = 1e-2
ema_decay = 0.9

[run]
epochs = 3
batch_size = 8
trackers = []
save_steps = 1
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return paint(tmp_path_factory.mktemp("images"), {"train": 16, "val": 8}, spread=100)


@pytest.fixture(scope="module")
def toml(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(RECIPE)
    return path


def command(toml, images, run, *more):
    return ["-m", "bcos_zoo", "train", str(toml), str(images), "-o", str(run), *more]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1"}


def train(toml, images, run, *more):
    arguments = [sys.executable, *command(toml, images, run, *more)]
    return subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment())


def rows(run):
    return json.loads((run / "metrics.json").read_text())


def weights(run):
    return timm.create_model(f"local-dir:{run}", pretrained=True).state_dict()


def launch_two(toml, images, run, *more):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [*launch, *command(toml, images, run, *more)]
    return subprocess.run(arguments, check=False, capture_output=True, text=True, env=environment())


def train_by_two(toml, images, run, *more):
    done = launch_two(toml, images, run, *more)
    assert done.returncode == 0, done.stderr
    assert "; 2 processes" in done.stderr or "resumed" in done.stderr  # not the same run twice


def assert_same_losses(one, two):
    one, two = rows(one), rows(two)
    assert len(one) == len(two) == 3
    for name in ("train_loss", "val_loss"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], abs=1e-4)


@pytest.mark.parametrize(
    "more",
    [
        (),
        pytest.param(("--set", "run.accumulate=2"), marks=pytest.mark.slow),
        pytest.param(("--set", "model.args.norm=bn"), marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_losses_of_one(toml, images, tmp_path, more):
    more = (*more, "--set", "optimizer.name=sgd")
    train(toml, images, tmp_path / "one", *more)
    train_by_two(toml, images, tmp_path / "two", *more)
    assert_same_losses(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["0.5", "0.0"])
def test_two_processes_learn_from_a_teacher_what_one_does(toml, images, tmp_path, labels):
    """Its answers, features and maps: all weights must get a gradient, or the processes wait for ever."""
    train(toml, images, tmp_path / "teacher", "--set", "run.epochs=1", "--set", "run.snapshots=0")
    keys = ("answers=1.0", "temperature=2.0", "features=0.7", "hints=0.3", f"labels={labels}")
    more = [word for key in keys for word in ("--set", f"teacher.{key}")]
    more += ["--teacher", str(tmp_path / "teacher"), "--set", "optimizer.name=sgd"]
    train(toml, images, tmp_path / "one", *more)
    train_by_two(toml, images, tmp_path / "two", *more)
    assert_same_losses(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("run.validate_every=3",), ("run.keep_best=true",)])
def test_two_processes_agree_on_the_end_of_a_budget(toml, images, tmp_path, more):
    """Their clocks differ: one that went on alone would wait for the other's gradient for ever."""
    words = [word for key in ("run.epochs=999", "run.snapshots=0", *more) for word in ("--set", key)]
    began = time.monotonic()
    train_by_two(toml, images, tmp_path / "two", "--minutes", "0.3", *words)
    assert time.monotonic() - began < 18 + 60  # to start the processes takes its time, too
    found = rows(tmp_path / "two")
    assert [row["epoch"] for row in found] == list(range(1, len(found) + 1))
    assert len(found) < 999 and found[-1]["top1"] is not None


@pytest.mark.slow
def test_images_that_no_process_but_one_finds_broken_are_all_counted(toml, tmp_path):
    images = paint(tmp_path / "images", {"train": 16, "val": 8}, spread=100)
    for path in sorted(images.glob("train/*/*"))[::6]:
        path.write_bytes(path.read_bytes()[:40])
    more = ["--set", "data.check=false", "--set", "data.bad_share=0.5"]
    train_by_two(toml, images, tmp_path / "two", *more)
    assert rows(tmp_path / "two")[0]["unreadable"] == 6


@pytest.mark.slow
def test_the_page_of_two_processes_shows_the_mistakes_of_one(toml, tmp_path):
    images = paint(tmp_path / "images", {"train": 16, "val": 8}, spread=100)
    for source, target in (("blue", "red"), ("red", "blue")):
        (images / "val" / source / "5.png").rename(images / "val" / target / f"of-{source}.png")
        (images / "val" / source / "2.png").write_bytes(b"no image")  # in the part of each process one
    more = ["--set", "data.check=false", "--set", "data.bad_share=0.5", "--set", "optimizer.name=sgd"]
    train(toml, images, tmp_path / "one", *more)
    train_by_two(toml, images, tmp_path / "two", *more)
    one, two = ([a["h3"] for a in check(tmp_path / run).articles] for run in ("one", "two"))
    assert one == two and {"blue/of-red.png", "red/of-blue.png"} <= set(one)


SHARDED = [
    pytest.param(("optimizer.clip=0.01", "run.accumulate=2", "run.channels_last=true"), id="agc-ema-pieces"),
    pytest.param(("optimizer.clip=1.0", "optimizer.clip_mode=norm", "optimizer.ema_decay=0"),
                 id="norm"),
    pytest.param(("model.train=from:layer3",), id="frozen"),
    pytest.param(("run.compile=true",), id="compiled"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("changes", SHARDED)
def test_weights_in_shards_give_the_losses_of_one_process_and_resume(toml, images, tmp_path, changes):
    changes = ("optimizer.name=adam", "optimizer.lr=1e-3", "run.keep=99", *changes)
    more = [word for change in changes for word in ("--set", change)]
    train(toml, images, tmp_path / "one", *more)
    more += ["--set", "run.shard=true"]
    train_by_two(toml, images, tmp_path / "two", *more)
    assert_same_losses(tmp_path / "one", tmp_path / "two")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(two[key], value, atol=1e-3) for key, value in one.items())
    for path in sorted((tmp_path / "two" / "state").glob("*.pt"))[5:]:  # as if killed after the fifth step
        path.unlink()
    train_by_two(toml, images, tmp_path / "two", *more, "--resume")
    again = weights(tmp_path / "two")
    assert all(torch.equal(again[key], value) for key, value in two.items())


@pytest.mark.slow
def test_an_optimiser_that_cannot_do_with_shards_is_refused(toml, images, tmp_path):
    more = ("--set", "optimizer.name=adafactor", "--set", "run.shard=true")
    done = launch_two(toml, images, tmp_path / "run", *more)
    assert (
        done.returncode != 0 and "error: optimizer Adafactor does not support sharded weights" in done.stderr
    )


@pytest.mark.slow
def test_a_process_killed_ten_times_ends_with_the_same_bits(toml, images, tmp_path):
    train(toml, images, tmp_path / "whole")
    draw, run, killed = random.Random(0), tmp_path / "killed", 0
    while killed < 10:
        resume = ("--resume",) if list((run / "state").glob("*.pt")) else ()
        process = subprocess.Popen(
            [sys.executable, *command(toml, images, run, *resume)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        line = process.stderr.readline()
        while line and "images for training" not in line and "resumed" not in line:
            line = process.stderr.readline()
        time.sleep(draw.uniform(0, 0.5))  # anywhere: in a step, while a state is written, or between
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.stderr.close()
        process.wait()
        if process.returncode == 0:
            break
    train(toml, images, run, "--resume")
    assert killed == 10
    whole, after = weights(tmp_path / "whole"), weights(run)
    assert all(torch.equal(after[key], value) for key, value in whole.items())
    clocks = ("seconds", "images_per_second")
    assert [{k: v for k, v in row.items() if k not in clocks} for row in rows(run)] == [
        {k: v for k, v in row.items() if k not in clocks} for row in rows(tmp_path / "whole")
    ]
