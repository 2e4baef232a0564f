"""What `--model` cannot be says so in one line, at once, with exit 2."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from PIL import Image

from bcos_zoo import cli


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("refused")
    for number in range(10):
        path = root / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (12, 12), (25 * number, 0, 0)).save(path)
    return root


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No name resolves, and nothing is in the cache."""
    import socket

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("bcos_zoo.training.networks.try_to_load_from_cache", lambda *args, **kwargs: None)


@pytest.fixture
def finetune(capsys: pytest.CaptureFixture[str], images: Path) -> Callable[..., tuple[int, str]]:
    """The exit code, and what was said on stderr, as one line."""

    def call(folder: Path, *more: str) -> tuple[int, str]:
        code = cli.run(["finetune", str(images), "-o", str(folder), "--set", "data.workers=0", *more])
        return code, " ".join(capsys.readouterr().err.split())

    return call


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "resnet18.a1_in1k"])
def test_weights_out_of_reach_are_one_line_and_soon(finetune, tmp_path, offline, name):
    began = time.monotonic()
    code, said = finetune(tmp_path / "run", "--model", name)
    assert code == 2 and time.monotonic() - began < 20
    assert f"cannot load the weights of {name}" in said and "model.pretrained=false" in said
    assert "Traceback" not in said and not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--model", "bcos_densenet52"), "bcos_densenet52 has no pretrained weights.*model.pretrained=false"),
        (("--model", "bcos_vgg11"), "bcos_vgg11 has no pretrained weights.*model.pretrained=false"),
        (("--model", "resnet18.nope"), "no checkpoint named 'resnet18.nope'; known: .*resnet18.a1_in1k"),
        (("--model", "bcos_resnet18.nope"), "no checkpoint named 'bcos_resnet18.nope'; known: "),
        (("--model", "resnet18x"), "no model named 'resnet18x'"),
        (
            ("--model", "vit_tiny_patch16_224", "--set", "model.pretrained=false",
             "--set", "data.input_size=40"),
            "vit_tiny_patch16_224 takes no images of 40x40 pixels .*model.args.img_size",
        ),
        (
            ("--model", "bcos_simple_vit_ti_patch16_224", "--set", "model.pretrained=false",
             "--set", "data.input_size=40"),
            "40x40 pixels do not divide into patches of 16",
        ),
        (
            ("--model", "resnet18", "--set", "model.pretrained=false", "--set", "model.args.output_stride=5"),
            "resnet18 with .*output_stride.: 5",
        ),
        (
            ("--model", "resnet18", "--set", "model.pretrained=false", "--set", "model.args.nope=5"),
            "model.args: resnet18 does not take them",
        ),
    ],
)  # fmt: skip
def test_what_no_network_can_be_made_of_is_one_line(finetune, tmp_path, more, expected):
    code, said = finetune(tmp_path / "run", *more)
    assert code == 2 and re.search(expected, said), said
    assert "Traceback" not in said and len(said) < 1000


def test_a_conventional_network_without_weights_of_its_own_says_how_to_begin(finetune, tmp_path):
    name = next(n for n in timm.list_models("resnet*") if not timm.list_pretrained(n))
    code, said = finetune(tmp_path / "run", "--model", name)
    assert code == 2 and f"{name} has no pretrained weights" in said and "model.pretrained=false" in said
