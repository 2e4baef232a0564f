"""Training: it learns, and a run that was killed ends with the same bits as one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_zoo import InputError, data, state_dicts, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of 32x32 images that differ in colour."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for name, colour in (("blue", (40, 60, 200)), ("red", (200, 60, 40))):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(colour, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


CONFIG = train.TrainConfig(
    model="bcos_resnet20",
    epochs=3,
    batch_size=8,
    optimizer="nmuon",
    lr=1e-2,
    ema_decay=0.5,
    compile=False,
    save_minutes=0,
)


def quiet(line):
    return None


def test_a_network_learns_two_colours(folder, tmp_path):
    lines = []
    train.train(CONFIG, folder, tmp_path / "run", log=lines.append)
    assert len(lines) == 3
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert float(rows[-1].split(",")[-1]) == 100.0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"] == "bcos_resnet20"


@pytest.mark.parametrize("optimizer", ["nmuon", "adam"])
def test_a_run_stopped_anywhere_resumes_to_the_same_bits(folder, tmp_path, optimizer):
    config = replace(CONFIG, optimizer=optimizer, epochs=2, clip=0.01)
    whole = state_dicts.read(train.train(config, folder, tmp_path / "whole", log=quiet))

    class Stop(Exception):
        pass

    draws = data.shift_and_flip
    for stop_at in (3, 7):  # in the first epoch, and in the second
        calls = 0

        def interrupted(batch, shift, stop_at=stop_at):
            nonlocal calls
            calls += 1
            if calls > stop_at:
                raise Stop
            return draws(batch, shift)

        run = tmp_path / f"stopped{stop_at}"
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
            patch.setattr(data, "shift_and_flip", interrupted)
            train.train(config, folder, run, log=quiet)
        resumed = state_dicts.read(train.train(config, folder, run, resume=True, log=quiet))
        assert all(torch.equal(resumed[key], value) for key, value in whole.items())


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_bits(folder, tmp_path):
    toml = tmp_path / "config.toml"
    toml.write_text(
        'model = "bcos_resnet20"\nepochs = 4\nbatch_size = 8\noptimizer = "nmuon"\n'
        "compile = false\nsave_minutes = 0.0\n"
    )
    command = [sys.executable, "-m", "bcos_zoo", "train", str(toml), str(folder), "-o"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    process = subprocess.Popen([*command, str(tmp_path / "killed")])
    while not (tmp_path / "killed" / "last.pt").exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([*command, str(tmp_path / "killed"), "--resume"], check=True)
    whole, killed = (state_dicts.read(tmp_path / run / "model.safetensors") for run in ("whole", "killed"))
    assert all(torch.equal(killed[key], value) for key, value in whole.items())


def test_the_published_example_of_off_labels():
    logits, labels = torch.zeros(1, 5), torch.tensor([3])
    target = torch.tensor([[0.2, 0.2, 0.2, 1.0, 0.2]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    assert train.off_label_bce(logits, labels, 0.2) == expected
    assert train.off_label_bce((logits, logits), labels, 0.2) == 2 * expected  # with an auxiliary head


def test_shifts_and_flips_are_those_of_whole_pixels():
    image = torch.arange(1, 3 * 5 * 5 + 1).reshape(1, 3, 5, 5)
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    possible = [
        padded[0, :, y : y + 5, x : x + 5].flip(-1) if flip else padded[0, :, y : y + 5, x : x + 5]
        for y in range(5)
        for x in range(5)
        for flip in (False, True)
    ]
    drawn = data.shift_and_flip(image.expand(300, -1, -1, -1), 2)
    hits = torch.stack([(drawn == one).flatten(1).all(1) for one in possible])
    assert (hits.sum(0) == 1).all()  # each drawn image is exactly one of the possible ones
    assert hits.any(1).float().mean() > 0.9  # and nearly all of them are drawn


def test_a_run_folder_is_never_overwritten(folder, tmp_path):
    (tmp_path / "last.pt").touch()
    with pytest.raises(InputError, match="holds a run already; continue it with --resume"):
        train.train(CONFIG, folder, tmp_path)


def test_resuming_wants_a_run_made_with_the_same_config(folder, tmp_path):
    with pytest.raises(InputError, match="nothing to resume"):
        train.train(CONFIG, folder, tmp_path / "none", resume=True)
    train.train(replace(CONFIG, epochs=1), folder, tmp_path / "run", log=quiet)
    with pytest.raises(InputError, match=r"made with another config \(epochs, lr\)"):
        train.train(replace(CONFIG, epochs=2, lr=1.0), folder, tmp_path / "run", resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(folder, tmp_path):
    with pytest.raises(InputError, match="the loss became .* lower lr"):
        train.train(replace(CONFIG, optimizer="sgd", lr=1e38), folder, tmp_path, log=quiet)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model = 'bcos_resnet20'\nepochs = 1\nlearning_rate = 1",
            r"unknown keys \['learning_rate'\]; known: autocast",
        ),
        ("model = 'bcos_resnet20'", "epochs not given"),
        ("model = ", "not TOML"),
        (None, "No such file"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, text, message):
    path = tmp_path / "config.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        train.read_config(path)


def test_every_config_of_the_repository_can_be_read():
    from pathlib import Path

    configs = sorted((Path(__file__).parent.parent / "configs").glob("*.toml"))
    assert configs
    for path in configs:
        train.read_config(path)


def test_images_of_another_size_and_folders_without_classes_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (20, 30)).save(tmp_path / "a" / "x.png")
    with pytest.raises(InputError, match="20x30; in-memory training takes 32x32"):
        data.load_in_memory(tmp_path, 32)
    with pytest.raises(InputError, match="no sub-folders"):
        data.list_folder(tmp_path / "a")
    with pytest.raises(InputError, match="no such folder"):
        data.list_folder(tmp_path / "b")
