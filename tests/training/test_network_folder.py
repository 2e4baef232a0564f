"""The network that a run leaves: loaded to the last bit by timm and bcos_zoo, whenever the run is killed."""

from __future__ import annotations

import json
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
import timm
import torch
from conftest import images, network
from huggingface_hub import ModelCard
from PIL import Image

import bcos_zoo
from bcos_zoo import InputError, WeightsError
from bcos_zoo.training import networks
from bcos_zoo.training.network_folder import NetworkFolder, classifier_of, refuse_another, write_network
from bcos_zoo.weights.config_json import Training

FILES = ["README.md", "config.json", "explanation.png", "model.safetensors"]
TRAINING = Training(base="bcos_resnet20.cifar10", data="my_photos", recipe="finetune")


def small_one(seed: int = 0, *, classes: int = 3, **options: Any) -> Any:
    return network("bcos_resnet20", seed=seed, **{"num_classes": classes, "widths": (8, 16, 32)} | options)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


FORMS = {
    "widths": ("bcos_resnet20", {"widths": (8, 16, 32), "num_classes": 3}, {"input_size": (3, 48, 48)}),
    "drop": ("bcos_resnet20", {"drop_path_rate": 0.1, "num_classes": 7}, {"crop_pct": 0.8}),
    "one logit": ("bcos_resnet20", {"num_classes": 1}, {}),
    "grey": ("bcos_resnet20", {"in_chans": 1, "num_classes": 2}, {"interpolation": "bicubic"}),
    "v1": ("bcos_plain9", {"max_out": 2, "num_classes": 3, "logit_bias": 0.0}, {}),
    "vit": ("bcos_simple_vit_ti_patch16_224", {"img_size": 64, "depth": 2, "num_classes": 4}, {}),
    "twin": ("bcos_std_simple_vit_ti_patch16_224", {"img_size": 64, "depth": 2, "num_classes": 4}, {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_timm_and_bcos_zoo_give_back_the_same_bits_and_all_that_was_chosen(tmp_path, form):
    name, options, card = FORMS[form]
    model = network(name, **options)
    if form == "v1":
        model.logits.temperature = model.spec.logit_temperature  # which spread its logits
    model.pretrained_cfg |= card
    names = [f"class {i}" for i in range(model.num_classes)]
    folder = write_network(model, names, tmp_path / "run", training=TRAINING)
    by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    by_path, by_name = bcos_zoo.load(folder), bcos_zoo.load(f"local-dir:{folder}")
    x = images(2, 64, 64, channels=model.in_chans)
    for one in (by_timm, by_path.model, by_name.model):
        assert torch.equal(one(x), model(x))
        assert one.num_classes == model.num_classes == len(names)
        config, own = (timm.data.resolve_model_data_config(m) for m in (one, model))
        own |= {key: own[key][: model.in_chans] for key in ("mean", "std")}
        own["input_size"] = (model.in_chans, *own["input_size"][1:])
        assert json.loads(json.dumps(config)) == json.loads(json.dumps(own))
    assert by_path.class_names == by_name.class_names == tuple(names)
    photograph = Image.radial_gradient("L").convert("RGB")
    assert torch.equal(by_path.preprocess(photograph), classifier_of(model, names).preprocess(photograph))


def test_pictures_are_smoothed_in_proportion_to_the_images(tmp_path):
    for size, smooth in ((224, 15), (32, 3), (64, 5), (128, 9)):
        model = small_one()
        model.pretrained_cfg["input_size"] = (3, size, size)
        assert classifier_of(torch.compile(model), list("abc")).head.smooth == smooth
    folder = write_network(model, list("abc"), tmp_path)
    assert bcos_zoo.load(folder).head.smooth == 9


def test_a_network_in_training_is_left_as_it_is(tmp_path):
    model = small_one().train()
    model.layer1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folder = NetworkFolder(tmp_path, list("abc"))
    folder.update(model.to(memory_format=torch.channels_last))
    folder.update(model)
    folder.finish(model)
    assert model.training and not model.layer1.training and model.layer2.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(loaded(images()), model.to(memory_format=torch.contiguous_format).eval()(images()))


def test_while_the_run_goes_on_only_weights_change(tmp_path):
    folder = NetworkFolder(tmp_path, list("abc"), training=TRAINING)
    folder.update(small_one(0))
    assert left_in(tmp_path) == [name for name in FILES if name != "explanation.png"]
    assert (
        "No picture of an explanation is here: its training goes on." in (tmp_path / "README.md").read_text()
    )
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    folder.update(small_one(1))
    after = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["model.safetensors"]
    assert torch.equal(bcos_zoo.load(tmp_path).model(images()), small_one(1)(images()))
    folder.finish(small_one(2), epoch=9, scores={"top1": 87.5, "loss": 0.4, "f1": float("nan")})
    assert left_in(tmp_path) == FILES
    assert torch.equal(bcos_zoo.load(tmp_path).model(images()), small_one(2)(images()))
    resumed = NetworkFolder(tmp_path, list("abc"), training=TRAINING)
    resumed.update(small_one(3))  # no score and no picture of other weights stays
    assert left_in(tmp_path) == [name for name in FILES if name != "explanation.png"]
    assert "87.5" not in (tmp_path / "README.md").read_text() + (tmp_path / "config.json").read_text()


def test_the_card_names_base_data_recipe_and_scores(tmp_path):
    folder = NetworkFolder(tmp_path, list("abc"), training=TRAINING, sample=Image.new("RGB", (40, 40), "red"))
    folder.finish(small_one(), epoch=9, scores={"top1": 87.5, "balanced_accuracy": 81.25, "loss": 0.4})
    card = ModelCard.load(tmp_path / "README.md")
    for text in (
        "Began with the weights of `bcos_resnet20.cifar10`, and is no longer the same",
        "Trained on my_photos by the recipe `finetune`, to epoch 9",
        "| top-1 accuracy | 87.5 | validation images of my_photos | measured | its training run |",
        "| balanced accuracy | 81.25 |",
        "Weights: Apache-2.0 (of those it began with)",
        "Images it was trained on: unknown to bcos_zoo",
    ):
        assert text in card.text
    assert "loss" not in card.text
    assert [result.metric_value for result in card.data.eval_results] == [87.5, 81.25]
    assert card.data.datasets is None and card.data.license == "apache-2.0"


def test_what_is_exported_of_a_run_shows_the_runs_own_image(tmp_path):
    noise = torch.Generator().manual_seed(3)
    own = Image.fromarray(torch.randint(0, 256, (40, 60, 3), generator=noise, dtype=torch.uint8).numpy())
    write_network(small_one(), [*"abc"], tmp_path / "run", training=TRAINING, sample=own)
    bcos_zoo.export(str(tmp_path / "run"), tmp_path / "out")
    assert left_in(tmp_path / "out") == FILES  # the photograph itself stays in the run
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A validation image, what its pixels" in card and "van der Walt" not in card
    pictures = [Image.open(tmp_path / folder / "explanation.png") for folder in ("run", "out")]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    bcos_zoo.export(str(tmp_path / "run"), tmp_path / "other", sample=Image.new("RGB", (40, 40), "red"))
    card = (tmp_path / "other" / "README.md").read_text()
    assert "A photograph, what its pixels" in card and "validation image" not in card.split("## ")[0]


def test_the_card_claims_nothing_that_was_not_said(tmp_path):
    text = (write_network(small_one(), list("abc"), tmp_path / "a") / "README.md").read_text()
    assert "Trained from scratch, on unknown data\n" in text and "None are known to bcos_zoo." in text
    assert "license: unknown" in text
    several = Training(data="hfds/org/set", multilabel=True)
    card = ModelCard.load(
        write_network(small_one(), list("abc"), tmp_path / "b", training=several) / "README.md"
    )
    assert card.data.datasets == ["org/set"]
    assert "an image may show several of them, or none" in card.text and "gets one of" not in card.text
    model = timm.create_model("bcos_resnet20.cifar10", pretrained=True, num_classes=3)
    said = Training(base="bcos_resnet20")  # as somebody asked for it
    text = (write_network(model, list("abc"), tmp_path / "c", training=said) / "README.md").read_text()
    assert "Began with the weights of `bcos_resnet20.cifar10`" in text and "from scratch" not in text
    assert "license: apache-2.0" in text


def test_no_card_names_a_place_on_this_machine(tmp_path):
    """A network that began with a folder began with that folder's own checkpoint, or is not published."""
    for training, said in ((TRAINING, TRAINING.base), (None, networks.UNPUBLISHED)):
        folder = tmp_path / str(said).replace(" ", "")
        write_network(small_one(), list("abc"), folder, training=training)
        assert networks.public_name(str(folder)) == networks.public_name(f"local-dir:{folder}") == said
    write_network(small_one(), list("abc"), tmp_path / "old", training=Training(base=str(tmp_path)))
    assert (
        networks.public_name(str(tmp_path / "old")) == networks.UNPUBLISHED
    )  # written before names were checked
    for name in ("bcos_resnet20.cifar10", "resnet18.a1_in1k", "hf-hub:org/net@main"):
        assert networks.public_name(name) == name


def test_what_the_card_says_outlasts_another_export(tmp_path):
    training = Training("bcos_resnet20.cifar10", "pets", "finetune", 3, False, {"top1": 87.5})
    run = write_network(small_one(), list("abc"), tmp_path / "run", training=training)
    text = (bcos_zoo.export(str(run), tmp_path / "copy") / "README.md").read_text()
    assert "Began with the weights of `bcos_resnet20.cifar10`" in text and "| 87.5 |" in text
    assert "Trained on pets by the recipe" in text
    assert "Weights: Apache-2.0 (of those it began with)" in text
    copied, own = (json.loads((tmp_path / one / "config.json").read_text()) for one in ("copy", "run"))
    assert copied["bcos_zoo"] == own["bcos_zoo"] and copied["model_args"] == own["model_args"]


@pytest.mark.parametrize(
    "said", [3, {"base": 3}, {"teacher": 3}, {"scores": {"top1": "good"}}, {"scores": 3}, {"epoch": "last"}]
)
def test_a_damaged_account_of_the_training_is_refused(tmp_path, said):
    config = json.loads((write_network(small_one(), list("abc"), tmp_path) / "config.json").read_text())
    config["bcos_zoo"]["training"] = said
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        WeightsError,
        match="has training=.*: base, data, recipe, teacher and its licence are texts",
    ):
        bcos_zoo.load(tmp_path)


# Kills, other networks, disks.


class Killed(BaseException):
    pass


def steps(monkeypatch: Any, limit: int) -> list[str]:
    """Die at the step of that number, of all that change what is there under a final name."""
    taken: list[str] = []

    def counted(call: Any) -> Any:
        def change(*arguments: Any, **options: Any) -> None:
            if len(taken) == limit:
                raise Killed
            taken.append(str(arguments[-1]))
            call(*arguments, **options)

        return change

    monkeypatch.setattr(os, "replace", counted(os.replace))
    return taken


@pytest.mark.parametrize("what", ["update", "finish", "conventional"])
def test_a_run_killed_at_any_step_leaves_the_old_network_or_the_new_one(tmp_path, monkeypatch, what):
    """Or, where there was no old one, none: without a config.json it is not taken for one."""
    make = conventional if what == "conventional" else small_one
    first, second, x = make(0), make(1), images(2, 64, 64)
    begun, logits, folder = False, [one(x) for one in (first, second)], NetworkFolder(tmp_path, list("abc"))
    for limit in range(100):
        with monkeypatch.context() as patch:
            steps(patch, limit)
            try:
                folder.update(first) if what != "finish" else folder.finish(first)
            except Killed:
                if begun := (tmp_path / "config.json").exists():
                    assert torch.equal(logits_of(tmp_path, x), logits[0])
                continue
        break
    assert limit > 3 and not begun or (tmp_path / "config.json").exists()
    seen = []
    for limit in range(100):
        with monkeypatch.context() as patch:
            steps(patch, limit)
            try:
                NetworkFolder(tmp_path, list("abc")).update(second) if what != "finish" else folder.finish(
                    second
                )
            except Killed:
                found = logits_of(tmp_path, x)
                seen.append([torch.equal(found, one) for one in logits].index(True))
                continue
        break
    assert seen == sorted(seen) and {0, 1} <= set(seen)  # first the old one, then the new one
    assert torch.equal(logits_of(tmp_path, x), logits[1])


def logits_of(folder: Path, x: torch.Tensor) -> torch.Tensor:
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(x)


KILLED = """
import sys, torch
from bcos_zoo.training.network_folder import NetworkFolder
import timm
model = timm.create_model("bcos_resnet20", num_classes=3).eval()
folder = NetworkFolder(sys.argv[1], list("abc"))
for value in range(1, 100_000):
    for parameter in model.parameters():
        parameter.data.fill_(value)
    folder.update(model) if value % 5 else folder.finish(model)
    print(value, flush=True)
"""


def test_a_process_killed_at_a_random_moment_leaves_a_network(tmp_path):
    code, quiet = [sys.executable, "-c", KILLED, tmp_path], {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(code, stdout=subprocess.PIPE, text=True, env=os.environ | quiet) as process:
        assert process.stdout.readline() == "1\n"
        time.sleep(1.37)
        process.send_signal(signal.SIGKILL)
        told = int(([1] + process.stdout.read().split())[-1])
    loaded = bcos_zoo.load(tmp_path)
    values = {value for one in loaded.model.parameters() for value in one.flatten()[:3].tolist()}
    assert values <= {told, told + 1} and len(values) == 1


@pytest.mark.parametrize("change", ["classes", "names", "widths", "size"])
def test_another_network_does_not_take_the_place_of_one(tmp_path, change):
    write_network(small_one(), list("abc"), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = small_one(
        1, classes=4 if change == "classes" else 3, widths=(8, 8, 8 if change == "widths" else 32)
    )
    if change != "widths":
        model = small_one(1, classes=4 if change == "classes" else 3)
    if change == "size":
        model.pretrained_cfg["input_size"] = (3, 64, 64)
    names = list("abd" if change == "names" else "abcd"[: model.num_classes])
    said = {"classes": "num_classes, label_names", "names": "label_names", "widths": "model_args",
            "size": "input_size"}  # fmt: skip
    with pytest.raises(InputError, match=f"another network .of another {said[change]}.; give another folder"):
        NetworkFolder(tmp_path, names).update(model)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(InputError, match="holds a network already; give another folder with -o"):
        refuse_another(tmp_path)
    refuse_another(tmp_path / "nothing")


@pytest.mark.parametrize("first", [True, False])
def test_weights_that_are_not_finite_are_not_kept(tmp_path, first):
    folder, model = NetworkFolder(tmp_path / "run", list("abc")), small_one()
    if not first:
        folder.update(model)
    model.fc.linear.weight.data[0] = torch.nan
    with pytest.raises(InputError, match="fc.linear.weight holds NaN or infinite values"):
        folder.update(model)
    assert first or bcos_zoo.load(tmp_path / "run").model(images()).isfinite().all()
    assert left_in(tmp_path / "run") == (
        [] if first else [name for name in FILES if name != "explanation.png"]
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KB, which holds one network of 80,000 weights and no second one."""
    with disks.small_disk(tmp_path, "400k") as run:
        yield run


def test_a_full_disk_leaves_the_network_before(small_disk):
    options = {"widths": (16, 16, 32)}
    folder = NetworkFolder(small_disk, list("abc"))
    folder.update(small_one(0, **options))
    for call in (folder.update, folder.finish):
        with pytest.raises((InputError, WeightsError), match="cannot .*No space left on device") as error:
            call(small_one(1, **options))
        assert "\n" not in str(error.value)
        assert left_in(small_disk) == [name for name in FILES if name != "explanation.png"]
        assert torch.equal(bcos_zoo.load(small_disk).model(images()), small_one(0, **options)(images()))


# timm's own networks.


def conventional(seed: int = 0) -> Any:
    options = {"channels": (8, 16, 16, 32), "stem_width": 8, "stem_type": "deep"}
    return network("resnet18", seed=seed, num_classes=3, **options)


def test_a_conventional_network_is_loaded_by_timm(tmp_path):
    model = conventional().to(memory_format=torch.channels_last)
    model.pretrained_cfg |= {
        "input_size": (3, 64, 64),
        "crop_pct": 0.9,
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
    }
    folder = NetworkFolder(
        tmp_path, ["cat", "dog", "cow"], training=Training(None, "pets", "imagenette_resnet18")
    )
    folder.update(model)
    folder.finish(model, epoch=4, scores={"top1": 66.5})
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = images(2, 64, 64)
    assert torch.equal(loaded(x), conventional()(x))
    config = timm.data.resolve_model_data_config(loaded, use_test_size=True)
    assert (config["input_size"], config["crop_pct"], tuple(config["mean"])) == ((3, 64, 64), 0.9, (0.0,) * 3)
    assert loaded.pretrained_cfg["label_names"] == ["cat", "dog", "cow"]
    text = (tmp_path / "README.md").read_text()
    for said in (
        "no exact explanation",
        "(cat, dog, cow)",
        "Trained from scratch, on pets by the recipe",
        "66.5 %",
    ):
        assert said in text
    assert left_in(tmp_path) == [name for name in FILES if name != "explanation.png"]
    with pytest.raises(WeightsError, match="of 'resnet18', no network of this zoo.*timm.create_model loads"):
        bcos_zoo.load(tmp_path)


def test_a_conventional_network_that_does_not_come_back_is_refused(tmp_path):
    model = conventional()
    model.act1 = torch.nn.GELU()
    with pytest.raises(WeightsError, match="resnet18 gives other logits when it is loaded again"):
        write_network(model, list("abc"), tmp_path / "run")
    assert left_in(tmp_path / "run") == []
    with pytest.raises(InputError, match="2 class names for 3 classes"):
        write_network(conventional(), list("ab"), tmp_path / "run")
