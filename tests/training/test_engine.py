"""The engine: it learns, and a run stopped anywhere ends with the same bits as one that was not."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from small_runs import Stop, make, paint, quiet, same, stop_at, weights

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.data import open_task
from bcos_zoo.evaluate import evaluate
from bcos_zoo.training import engine, states


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    root = paint(tmp_path_factory.mktemp("colours"), {"train": 16, "val": 8})
    return open_task(root, log=quiet)


def test_a_network_learns_two_colours_and_can_be_used_at_once(task, tmp_path):
    result = engine.train(make(run__epochs=3), task, tmp_path, log=quiet)
    assert result.scores["top1"] == 100
    classifier = bcos_zoo.load(tmp_path)
    assert classifier.class_names == ("blue", "red")
    best = classifier.predict(Image.new("RGB", (32, 32), (200, 60, 40)))[0]
    assert best.label == "red"
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert float(rows[-1]["top1"]) == json.loads((tmp_path / "metrics.json").read_text())[-1]["top1"] == 100


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer__name": "nmuon", "optimizer__clip": 0.01, "optimizer__ema_every": 3},
        {"augment__mixup": 0.3, "augment__cutmix": 1.0, "augment__auto": "trivial", "augment__repeats": 2},
        {
            "run__accumulate": 2,
            "data__balanced": True,
            "model__args": {"layers": [1, 1], "drop_path_rate": 0.5},
        },
        {"run__precision": "bfloat16", "optimizer__ema_decay": None, "run__keep_best": True},
        {"optimizer__by_epoch": True, "optimizer__warmup_epochs": 1, "run__epochs": 3},
        {"optimizer__relative": True, "model__name": "resnet18", "model__args": {}},  # of random lengths
    ],
    ids=["plain", "muon", "mixed", "pieces", "bfloat16", "by-epoch", "relative"],
)
def test_a_run_stopped_anywhere_resumes_to_the_same_bits(task, tmp_path, changes):
    wanted = make(**changes)
    engine.train(wanted, task, tmp_path / "whole", log=quiet)
    for step in (1, 3, 6):  # before any state, inside the first epoch, and inside the second
        run = tmp_path / str(step)
        with pytest.raises(Stop):
            engine.train(wanted, task, run, log=quiet, progress=stop_at(step))
        engine.train(wanted, task, run, resume=step > 2, log=quiet)
        assert same(weights(run), weights(tmp_path / "whole"))
        assert scores(run) == scores(tmp_path / "whole")


def test_a_run_stopped_between_an_epoch_and_its_scores_resumes_to_the_same_bits(task, tmp_path):
    wanted = make(run__save_steps=1)
    engine.train(wanted, task, tmp_path / "whole", log=quiet)

    def log(line):
        if line.startswith("epoch 2"):
            raise Stop

    with pytest.raises(Stop):
        engine.train(wanted, task, tmp_path / "run", log=log)
    engine.train(wanted, task, tmp_path / "run", resume=True, log=quiet)
    assert scores(tmp_path / "run") == scores(tmp_path / "whole")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def scores(run):
    clocks = ("seconds", "images_per_second")
    rows = json.loads((run / "metrics.json").read_text())
    return [{key: value for key, value in row.items() if key not in clocks} for row in rows]


def test_neither_workers_nor_the_cache_change_a_bit(task, tmp_path):
    for name, data in {"a": {"workers": 0}, "b": {"workers": 2, "cache": True}}.items():
        changes = {f"data__{key}": value for key, value in data.items()}
        engine.train(make(**changes), task, tmp_path / name, log=quiet)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_pieces_of_a_batch_give_the_steps_of_the_whole(task, tmp_path):
    """Up to batch statistics: so on a network whose norms have none."""
    args = {"layers": [1, 1], "norm": "pnu"}
    for pieces in (1, 4):
        wanted = make(run__accumulate=pieces, model__args=args, optimizer__name="sgd")
        engine.train(wanted, task, tmp_path / str(pieces), log=quiet)
    losses = [[row["train_loss"] for row in scores(tmp_path / n)] for n in ("1", "4")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_best_epoch_is_kept_and_patience_ends_the_run(task, tmp_path):
    wanted = make(
        run__epochs=20, run__patience=2, run__keep_best=True, run__monitor="top1", optimizer__ema_decay=None
    )
    result = engine.train(wanted, task, tmp_path, log=quiet)
    rows = scores(tmp_path)
    top1 = [row["top1"] for row in rows]
    assert result.epochs == len(rows) == top1.index(max(top1)) + 1 + 2  # epochs without a better score
    equal = [row for row in rows if row["top1"] == max(top1)]
    assert result.best_epoch == min(equal, key=lambda row: row["val_loss"])["epoch"]


def test_a_folder_with_a_run_is_not_overwritten_and_one_without_is_not_resumed(task, tmp_path):
    engine.train(make(run__epochs=1), task, tmp_path / "run", log=quiet)
    with pytest.raises(InputError, match="holds a run already; continue it with --resume"):
        engine.train(make(), task, tmp_path / "run", log=quiet)
    with pytest.raises(InputError, match="other holds no run that could go on; leave out --resume, or"):
        engine.train(make(), task, tmp_path / "other", resume=True, log=quiet)


def test_a_network_that_is_in_the_folder_already_is_not_overwritten(task, tmp_path):
    engine.train(make(run__epochs=1), task, tmp_path, log=quiet)
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    before = weights(tmp_path)
    with pytest.raises(InputError, match="holds a network already; give another folder"):
        engine.train(make(run__epochs=1, run__seed=1), task, tmp_path, log=quiet)
    assert same(weights(tmp_path), before)


def test_resuming_wants_the_same_recipe_and_the_same_images(task, tmp_path):
    with pytest.raises(Stop):
        engine.train(make(), task, tmp_path / "run", log=quiet, progress=stop_at(4))
    with pytest.raises(InputError, match=r"another optimizer\.lr, run\.epochs;"):
        wanted = make(run__epochs=5, optimizer__lr=1.0)
        engine.train(wanted, task, tmp_path / "run", resume=True, log=quiet)
    other = open_task(paint(tmp_path / "images", {"train": 17, "val": 4}), log=quiet)
    with pytest.raises(InputError, match="another set of images;"):
        engine.train(make(), other, tmp_path / "run", resume=True, log=quiet)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(task, tmp_path):
    wanted = make(optimizer__name="sgd", optimizer__lr=1e38, optimizer__ema_decay=None, run__save_steps=1)
    with pytest.raises(InputError, match="the loss became .* lower optimizer.lr"):
        engine.train(wanted, task, tmp_path, log=quiet)
    _, state = states.newest(tmp_path)
    assert all(value.isfinite().all() for value in state["model"].values() if value.is_floating_point())


def test_where_memory_runs_out_a_batch_is_advised(task, tmp_path):
    def progress(done, total, loss):
        torch.empty(10**15)

    with pytest.raises(InputError, match="out of memory with batches of 8 .* --set run.accumulate=2"):
        engine.train(make(), task, tmp_path, log=quiet, progress=progress)


def test_images_that_break_during_a_run_are_replaced_counted_and_listed(tmp_path):
    root = paint(tmp_path / "images", {"train": 16, "val": 4})
    task = open_task(root, log=quiet)
    broken = root / "train" / "red" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(InputError, match=r"1 of 40 images \(2.5%\) cannot be read"):
        engine.train(make(), task, tmp_path / "strict", log=quiet)
    result = engine.train(make(data__bad_share=0.1), task, tmp_path / "run", log=quiet)
    assert result.unreadable == 1
    assert str(broken) in (tmp_path / "run" / "unreadable.txt").read_text()


def test_a_conventional_network_of_timm_learns_too(task, tmp_path):
    wanted = make(
        model__name="resnet18", model__args={"channels": [8, 8, 8, 8]}, data__input_size=32, run__epochs=1
    )
    engine.train(wanted, task, tmp_path, log=quiet)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert type(model).__module__ == "timm.models.resnet" and model.num_classes == 2


def test_a_single_logit_tells_two_classes_apart(task, tmp_path):
    wanted = make(model__args={"layers": [1, 1, 1], "num_classes": 1}, run__epochs=3)
    result = engine.train(wanted, task, tmp_path, log=quiet)
    assert result.scores["top1"] == 100
    classifier = bcos_zoo.load(tmp_path)
    assert classifier.class_names == task.class_names == ("blue", "red")
    for index, name in enumerate(task.class_names):
        image = task.val.load(task.val.labels.tolist().index(index))
        best, other = classifier.predict(image)
        assert best.label == name and best.logit == -other.logit > 0
        assert best.probability + other.probability == pytest.approx(1)
        assert classifier.explain(image, [name]).completeness().abs().max() < 1e-4


def test_every_network_can_be_the_beginning_of_the_next(task, tmp_path):
    engine.train(make(run__epochs=3), task, tmp_path / "first", log=quiet)
    wanted = make(
        model__name=str(tmp_path / "first"), model__pretrained=True, model__train="head", model__args={},
        run__epochs=1, optimizer__ema_decay=None,
    )  # fmt: skip
    engine.train(wanted, task, tmp_path / "second", log=quiet)
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"fc.linear.weight"}


def test_a_score_that_the_run_does_not_have_is_no_monitor(task, tmp_path):
    with pytest.raises(InputError, match=r"run.monitor='top5': no such score here; known: top1, .*, loss"):
        engine.train(make(run__monitor="top5", run__keep_best=True), task, tmp_path, log=quiet)


def test_weights_cannot_be_shared_out_by_one_process_or_in_half_precision(task, tmp_path):
    with pytest.raises(InputError, match="run.shard=true with one process"):
        engine.train(make(run__shard=True), task, tmp_path / "run")
    with pytest.raises(InputError, match="take 'bfloat16' or 'float32'"):
        make(run__shard=True, run__precision="float16")


def test_a_tracker_that_is_not_installed_is_not_passed_over(task, tmp_path):
    with pytest.raises(InputError, match="run.trackers: .*swanlab"):
        engine.train(make(run__trackers=["tensorboard", "swanlab"]), task, tmp_path, log=quiet)


def test_a_test_part_is_measured_once_by_the_kept_network_and_changes_nothing(task, tmp_path, monkeypatch):
    root = paint(tmp_path / "colours", {"train": 16, "val": 8, "test": 12})
    for i, path in enumerate(sorted((root / "test").rglob("*.png"))):
        if i % 3 == 0:  # pictures of the other colour
            Image.fromarray(np.asarray(Image.open(path))[..., ::-1]).save(path)
    whole, lines = open_task(root, log=quiet), []
    assert whole.test is not None and len(whole.test) == 24
    calls = []
    measure = engine.Trainer.test
    monkeypatch.setattr(engine.Trainer, "test", lambda self, net: (calls.append(1), measure(self, net))[1])
    result = engine.train(make(run__epochs=3), whole, tmp_path / "run", log=lines.append)
    assert len(calls) == 1
    classifier = bcos_zoo.load(tmp_path / "run")
    answers = [classifier.predict(whole.test.load(i))[0].index for i in range(24)]
    right = sum(a == b for a, b in zip(answers, whole.test.labels.tolist(), strict=True))
    assert result.test is not None and result.test["top1"] == pytest.approx(100 * right / 24)
    assert result.test["top1"] < 80 < result.scores["top1"]
    written = json.loads((tmp_path / "run" / "test.json").read_text())
    assert written["top1"] == result.test["top1"] and written["images"] == 24
    card = (tmp_path / "run" / "README.md").read_text()
    assert "validation images of" in card and "test images of" in card and "held-out" not in card
    assert any(line.startswith("test, network of epoch") for line in lines)
    engine.train(make(run__epochs=3), task, tmp_path / "without", log=quiet)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "without"))
    assert not (tmp_path / "without" / "test.json").exists()


def test_the_card_shows_an_image_of_the_users_own_that_was_not_learnt_from(task, tmp_path, monkeypatch):
    from bcos_zoo.hub import folder as hub_folder

    given, prepare = [], hub_folder.prepare
    monkeypatch.setattr(hub_folder, "prepare", lambda *a, **k: (given.append(a[1]), prepare(*a, **k))[1])
    engine.train(make(run__epochs=1), task, tmp_path, log=quiet)
    own = [np.asarray(task.val.load(i)) for i in range(len(task.val))]
    assert given and all(any(np.array_equal(np.asarray(one), val) for val in own) for one in given)
    card = (tmp_path / "README.md").read_text()
    assert "A validation image, what its pixels contribute" in card and "van der Walt" not in card


def test_a_broken_test_image_is_not_measured_and_is_listed(tmp_path):
    """Found only when the test is made, at the end: the score is that of the other images."""
    root = paint(tmp_path / "set", {"train": 8, "val": 4, "test": 3})
    (root / "test" / "blue" / "1.png").write_bytes(b"no image")
    wanted = make(data__check=False, data__bad_share=0.5, run__epochs=1)
    result = engine.train(wanted, open_task(root, check=False, log=quiet), tmp_path / "run", log=quiet)
    said = json.loads((tmp_path / "run" / "test.json").read_text())
    assert said["images"] == 5
    assert (
        (tmp_path / "run" / "unreadable.txt").read_text().startswith(f"{root / 'test' / 'blue' / '1.png'}: ")
    )
    (root / "test" / "blue" / "1.png").unlink()
    assert said["top1"] == pytest.approx(evaluate(bcos_zoo.load(tmp_path / "run"), root / "test").top1)
    assert result.unreadable == 1
    for path in (root / "test").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="no image of the test can be read; check the disk"):
        engine.train(
            replace(wanted, data=replace(wanted.data, bad_share=0.9)),
            open_task(root, check=False, log=quiet), tmp_path / "other", log=quiet,
        )  # fmt: skip
