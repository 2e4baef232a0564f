"""The classifier that fine-tuning begins with."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import timm
import torch
from conftest import network
from small_runs import Stop, make, paint, quiet, same, stop_at, weights
from torch import nn

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.data import open_task
from bcos_zoo.training import (
    defaults,
    engine,
    first_classifier,
    known_classes,
    learner,
    networks,
    runtime,
    states,
)
from bcos_zoo.training.network_folder import write_network
from bcos_zoo.weights import class_lists

NAME = "bcos_resnet20.cifar10"


def start(task, tmp_path, **changes):
    """A learner before its first step."""
    begins = {"model__name": NAME, "model__pretrained": True, "model__head": "fitted", "model__args": {}}
    wanted = make(**begins | changes)
    return learner.make_learner(wanted, task, runtime.accelerator(wanted, tmp_path), 1)


def renamed(task, *names):
    return replace(task, class_names=names)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    root = paint(tmp_path_factory.mktemp("colours"), {"train": 16, "val": 8})
    return open_task(root, log=quiet)


def test_classes_that_the_checkpoint_knows_keep_their_logits(task, tmp_path):
    names = ("dog", "Cat")
    began = start(renamed(task, *names), tmp_path)
    assert began.began == "the checkpoint knows all 2 classes, and begins with its own classifier"
    before = bcos_zoo.load(NAME)
    places = [before.class_names.index(name.lower()) for name in names]
    x = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        own = before.model(x)[:, places] - before.model.logits.bias
        torch.testing.assert_close(began.network()(x) - began.network().logits.bias, own)


@pytest.mark.parametrize("names", [("dog", "cat"), ("cat", "rocket"), ("one", "two")])
def test_all_rows_begin_with_unit_norm(task, tmp_path, names):
    """The checkpoint's are longer, so steps of one size would turn them less than those of other classes."""
    rows = start(renamed(task, *names), tmp_path).network().get_classifier().weight.flatten(1)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    assert (bcos_zoo.load(NAME).model.get_classifier().weight.flatten(1).norm(dim=1) > 1.5).all()


def test_a_folder_of_imagenets_is_known_by_what_its_name_means():
    known = ["dog", "tench", "English springer"]
    assert known_classes.places(["n01440764", "TENCH", "english_springer"], known) == [1, 1, 2]
    assert known_classes.places(["n99999999", "cat"], known) == [None, None]
    both = ["dog", "tench", "Tench"]  # which of them is meant can only be said exactly
    assert known_classes.places(["Tench", "tench", "TENCH", "n01440764"], both) == [2, 1, None, 1]


def test_folders_of_imagenets_are_told_apart_where_their_names_are_the_same():
    """Two classes are called crane and two maillot; Cardigan is a dog. Source: ImageNet's own list."""
    whole = class_lists.class_list("imagenet-1k")
    for number, place in {"n02012849": 134, "n03126707": 517, "n02113186": 264, "n02963159": 474}.items():
        assert known_classes.places([number], whole) == [place]
    assert known_classes.places(class_lists.wordnet_numbers(), whole) == list(range(1000))
    assert known_classes.places(whole, whole) == list(range(1000))
    assert known_classes.places(["crane", "tench", "Cardigan", "CARDIGAN"], whole) == [None, 0, 264, None]
    assert known_classes.places(["n02012849", "n01440764"], ["tench", "n03126707", "n02012849"]) == [2, 0]
    assert known_classes.places(["tench"], ["n02012849", "n01440764"]) == [1]


def test_other_classes_are_fitted_and_the_features_stay(task, tmp_path):
    began, before = start(task, tmp_path), bcos_zoo.load(NAME).model
    assert began.began == "the classifier of 2 classes was fitted to 32 images"
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            began.network().forward_features(x), before.forward_features(x), rtol=1e-3, atol=1e-4
        )
        right = 0
        for i in range(len(task.val)):
            image = bcos_zoo.load(NAME).preprocess(task.val.load(i))
            right += int(began.network()(image).argmax()) == int(task.val.labels[i])
    assert right == len(task.val)


def test_some_known_and_some_not(task, tmp_path):
    began = start(renamed(task, "cat", "rocket"), tmp_path)
    assert (
        began.began == "the classifier of 2 classes, of which the checkpoint knows 1 was fitted to 32 images"
    )


@pytest.mark.parametrize("name", ["bcos_vitc_ti_patch1_14", "bcos_densenet52", "bcos_vgg11_bnu", "resnet18"])
def test_any_classifier_is_fitted(task, tmp_path, name):
    """To features of random weights: the loss on the training images falls."""
    wanted = make(model__name=name, model__args={})
    model = network(name, num_classes=2)
    model.pretrained_cfg["input_size"] = (3, 64, 64)
    x = torch.cat([networks.val_transform(model)(task.train.load(i))[None] for i in range(32)])
    y = nn.functional.one_hot(task.train.labels, 2).float()

    def loss():
        with torch.no_grad():
            return float(nn.functional.binary_cross_entropy_with_logits(model.eval()(x), y))

    before, state = loss(), {k: v.clone() for k, v in model.state_dict().items()}
    accelerator = runtime.accelerator(wanted, tmp_path)
    assert first_classifier._fit(model, wanted, task, task.train, accelerator) == 32
    assert loss() < 0.9 * before
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, state[k])}
    of_head = {
        f"{n}.{k}"
        for n, m in model.named_modules()
        if m is model.get_classifier()
        for k, _ in m.named_parameters()
    }
    assert changed == of_head


def test_a_network_that_does_more_after_its_classifier_begins_at_random(task, tmp_path):
    wanted = make(model__name="resnet18", model__args={})
    model = timm.create_model("resnet18", num_classes=2)
    model.register_forward_hook(lambda module, given, logits: 2 * logits)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    accelerator = runtime.accelerator(wanted, tmp_path)
    assert first_classifier._fit(model, wanted, task, task.train, accelerator) == 0
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_the_start_is_epoch_0_and_may_be_kept(task, tmp_path):
    """At a rate that changes nothing, no later epoch is better."""
    changes = ["run.epochs=2", "optimizer.lr=1e-20", "model.train=head"]
    wanted = defaults.for_task(defaults.finetuning(NAME, changes=changes), task, changes)
    lines: list[str] = []
    result = engine.train(wanted, task, tmp_path / "run", log=lines.append)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    assert any(line.startswith("the classifier of 2 classes was fitted") for line in lines)
    assert result.best_epoch == 0 and result.scores["top1"] == 100
    assert (tmp_path / "run" / "snapshots" / "epoch-0000.png").exists()


def test_a_run_with_a_fitted_start_resumes_to_the_same_bits(task, tmp_path):
    changes = ["run.epochs=2", "run.save_steps=1"]
    wanted = defaults.for_task(defaults.finetuning(NAME, changes=changes), task, changes)
    engine.train(wanted, task, tmp_path / "whole", log=quiet)
    with pytest.raises(Stop):
        engine.train(wanted, task, tmp_path / "run", log=quiet, progress=stop_at(1))
    engine.train(wanted, task, tmp_path / "run", resume=True, log=quiet)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


@pytest.fixture(scope="module")
def conventional(tmp_path_factory):
    """A small network of timm's of random weights, with a classifier that has a bias."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=3, channels=[8, 8, 8, 8]).eval()
    model.pretrained_cfg["input_size"] = (3, 32, 32)
    return write_network(model, ["one", "two", "three"], tmp_path_factory.mktemp("base") / "run")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_fitted_classifier_with_a_bias_resumes_to_the_same_bits(task, tmp_path, conventional, seed):
    """Its bias gets a size by the fit that it has at no other time: rates are relative to it."""
    changes = ["run.epochs=2", "run.save_steps=1", "run.snapshots=0", f"run.seed={seed}"]
    wanted = defaults.for_task(defaults.finetuning(str(conventional), changes=changes), task, changes)
    engine.train(wanted, task, tmp_path / "whole", log=quiet)
    with pytest.raises(Stop):
        engine.train(wanted, task, tmp_path / "run", log=quiet, progress=stop_at(2))
    engine.train(wanted, task, tmp_path / "run", resume=True, log=quiet)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    ends = [states.newest(tmp_path / name)[1]["optimizer"]["param_groups"] for name in ("whole", "run")]
    assert ends[0] == ends[1] and len(ends[0]) > 2


def test_a_state_from_before_sizes_were_kept_is_refused_where_the_rates_would_be_others(
    task, tmp_path, conventional
):
    changes = ["run.epochs=2", "run.save_steps=1", "run.snapshots=0", "run.seed=0"]
    wanted = defaults.for_task(defaults.finetuning(str(conventional), changes=changes), task, changes)
    with pytest.raises(Stop):
        engine.train(wanted, task, tmp_path, log=quiet, progress=stop_at(2))
    path, state = states.newest(tmp_path)
    del state["sizes"]
    torch.save(state, path)
    with pytest.raises(
        InputError, match=r"older version, .* sizes of weights .*; start anew, in another folder"
    ):
        engine.train(wanted, task, tmp_path, resume=True, log=quiet)


def test_another_part_that_learns_is_refused_before_its_weights_are_looked_for(task, tmp_path):
    changes = ["run.epochs=2", "run.save_steps=1", "run.snapshots=0", "model.train=head"]
    wanted = defaults.for_task(defaults.finetuning(NAME, changes=changes), task, changes)
    with pytest.raises(Stop):
        engine.train(wanted, task, tmp_path, log=quiet, progress=stop_at(2))
    other = replace(wanted, model=replace(wanted.model, train="full"))
    with pytest.raises(InputError, match=r"is of a run with another model.train; resume with the same"):
        engine.train(other, task, tmp_path, resume=True, log=quiet)


def test_from_scratch_nothing_is_fitted():
    wanted = defaults.finetuning("bcos_resnet20", changes=["model.pretrained=false"])
    assert wanted.model.head == "random"
    with pytest.raises(InputError, match=r"model\.head='warm': allowed are random, kept, fitted"):
        defaults.finetuning(NAME, changes=["model.head=warm"])
