"""Small runs for tests: two classes that differ in colour, a small recipe, and how to stop it anywhere."""

import numpy as np
import timm
import torch
from PIL import Image

from bcos_zoo.data import open_task
from bcos_zoo.training import engine, recipe


def paint(root, counts, *, spread=40):
    """Two classes of 32x32 images that differ in colour. counts: images a class in each split."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for name, colour in (("blue", (40, 60, 200)), ("red", (200, 60, 40))):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(colour, spread, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def make(**changes):
    """A small recipe. changes: "table__key" = value."""
    tables = {
        "model": {"name": "bcos_resnet20", "args": {"layers": [1, 1, 1]}},
        "data": {"workers": 0},
        "augment": {"crop": "shift", "shift": 3},
        "optimizer": {"name": "adam", "lr": 5e-3, "ema_decay": 0.5},
        "run": {"epochs": 2, "batch_size": 8, "trackers": [], "save_minutes": 0, "save_steps": 2},
    }
    for name, value in changes.items():
        table, key = name.split("__")
        tables.setdefault(table, {})[key] = value
    return recipe.parse(tables, where="test")


def conventional(folder, colours):
    """A run of a conventional network that has learnt the colours; see `paint`."""
    wanted = make(model__name="test_resnet", model__args={}, data__input_size=32, run__epochs=4)
    result = engine.train(wanted, open_task(colours, log=quiet), folder, log=quiet)
    assert result.scores["top1"] == 100
    return folder


def converted_recipe(original, **changes):
    """A small recipe for the converted form of a run's network; `changes` as `make` takes them."""
    settings = {
        "model__name": "bcos_converted",
        "model__pretrained": True,
        "model__head": "kept",
        "model__args": {"original": str(original), "b": 1.5, "centring": "fading"},
        "teacher__name": str(original),
        "conversion__constants": 0.0,
        "conversion__constants_epochs": 1.5,
        "conversion__estimate": 16,
        "run__epochs": 3,
    }
    return make(**(settings | changes))


def quiet(line):
    return None


def weights(run):
    return timm.create_model(f"local-dir:{run}", pretrained=True).state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class Stop(Exception):
    pass


def stop_at(step):
    def progress(done, total, loss):
        if done == step:
            raise Stop

    return progress
