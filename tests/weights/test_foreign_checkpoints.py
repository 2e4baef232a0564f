"""Files as other programs leave them: the same tensors come in at every door, however wrapped."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import bcos_zoo
from bcos_zoo import WeightsError, cli
from bcos_zoo.weights import state_dicts

NAME = "bcos_resnet20"


def weights_of(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = bcos_zoo.create_model(NAME, num_classes=10)
    return {key: torch.randn_like(v) if v.is_floating_point() else v for key, v in model.state_dict().items()}


RAW, AVERAGE = weights_of(1), weights_of(2)


def prefixed(prefix: str, tensors: dict[str, Tensor] = RAW) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in tensors.items()}


def half(prefix: str) -> dict[str, Tensor]:
    """Every other key with a prefix."""
    return {(prefix if i % 2 else "") + key: value for i, (key, value) in enumerate(RAW.items())}


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
HOLDS: dict[str, tuple[Any, dict[str, Tensor]]] = {
    "flat": (RAW, RAW),
    "state_dict": ({"state_dict": RAW, "epoch": 3, "optimizer": OPTIMIZER}, RAW),
    "model": ({"model": RAW, "optimizer": OPTIMIZER, "args": {"lr": 1.0}}, RAW),
    "module": ({"module": RAW}, RAW),
    "model inside": ({"checkpoint": None, "model": {"state_dict": RAW, "epoch": 1}}, RAW),
    "timm": ({"state_dict": RAW, "state_dict_ema": AVERAGE, "arch": NAME}, AVERAGE),
    "torchvision": ({"model": prefixed("module."), "model_ema": prefixed("module.", AVERAGE)}, AVERAGE),
    "ema": ({"model": RAW, "ema": {"module": AVERAGE, "decay": 0.999}}, AVERAGE),
    "an empty ema": ({"model": RAW, "model_ema": None}, RAW),
    "ddp": (prefixed("module."), RAW),
    "compiled": (prefixed("_orig_mod."), RAW),
    "compiled ddp": (prefixed("module._orig_mod."), RAW),
    "ddp of compiled": (prefixed("_orig_mod.module."), RAW),
    "fsdp": (prefixed("_fsdp_wrapped_module."), RAW),
    "compiled layers": ({k.replace("layer1.", "layer1._orig_mod."): v for k, v in RAW.items()}, RAW),
    "lightning": ({"state_dict": prefixed("model."), "pytorch-lightning_version": "2", "callbacks": {}}, RAW),
    "lightning compiled": ({"state_dict": prefixed("model._orig_mod.")}, RAW),
    "lightning ema": ({"state_dict": prefixed("model.") | prefixed("ema_model.module.", AVERAGE)}, AVERAGE),
    "net": (prefixed("net."), RAW),
    "torch's averaged model": ({"n_averaged": torch.tensor(3)} | prefixed("module."), RAW),
    "an averaged model inside": ({"model": {"n_averaged": torch.tensor(3)} | prefixed("module.")}, RAW),
    "backbone": ({"model": prefixed("module.backbone.")}, RAW),
    "deep": (prefixed("module.model.net._orig_mod."), RAW),
    "mixed": (half("module."), RAW),
    "mixed models": (half("model."), RAW),
}


@pytest.mark.parametrize("kind", HOLDS)
@pytest.mark.parametrize("door", ["convert", "overlay"])
def test_every_door_takes_the_same_tensors(kind: str, door: str, tmp_path: Path) -> None:
    content, expected = HOLDS[kind]
    torch.save(content, file := tmp_path / "their.pth.tar")
    if door == "convert":
        assert cli.run(["weights", "convert", str(file), "--to", NAME + ".cifar10", "-o", str(tmp_path)]) == 0
        got = load_file(tmp_path / f"{NAME}.cifar10.safetensors")
    else:
        overlay = {"file": file, "num_classes": 10}
        model = bcos_zoo.create_model(NAME, pretrained=True, num_classes=10, pretrained_cfg_overlay=overlay)
        assert "state_dict" not in model.pretrained_cfg
        got = model.state_dict()
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], value) for key, value in expected.items())


def test_prefixes_are_taken_off_safetensors_too(tmp_path: Path) -> None:
    save_file(prefixed("module.model."), tmp_path / "w.safetensors")
    path = bcos_zoo.zoo.convert(tmp_path / "w.safetensors", f"{NAME}.cifar10", tmp_path)
    assert all(torch.equal(value, RAW[key]) for key, value in load_file(path).items())


def test_the_log_says_which_set_it_was_and_another_can_be_taken(tmp_path: Path, caplog: Any) -> None:
    torch.save(HOLDS["timm"][0], file := tmp_path / "t.pth")
    with caplog.at_level(logging.INFO, "bcos_zoo.weights.state_dicts"):
        state_dicts.read(file)
    assert "the weights are those of 'state_dict_ema'" in caplog.text
    got = state_dicts.read(file, take="state_dict")
    assert all(torch.equal(got[key], value) for key, value in RAW.items())
    command = ["weights", "convert", str(file), "--to", f"{NAME}.cifar10", "--take", "state_dict"]
    assert cli.run([*command, "-o", str(tmp_path)]) == 0
    got = load_file(tmp_path / f"{NAME}.cifar10.safetensors")
    assert all(torch.equal(got[key], value) for key, value in RAW.items())


@pytest.mark.parametrize(
    "content, said",
    [
        ({"model": RAW, "net": AVERAGE}, "several sets of weights: model, net; choose one, with --take"),
        ({"model_ema": RAW, "ema": AVERAGE, "model": RAW}, "several sets of weights: model_ema, ema, model"),
    ],
)
def test_several_sets_of_which_none_is_preferred(content: Any, said: str, tmp_path: Path) -> None:
    torch.save(content, file := tmp_path / "t.pth")
    with pytest.raises(WeightsError, match=said) as caught:
        state_dicts.read(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match="no set of weights named 'nope'; it holds: mod"):
        state_dicts.read(file, take="nope")


def test_two_tensors_of_one_name_are_no_guess(tmp_path: Path) -> None:
    torch.save(RAW | prefixed("module.", AVERAGE), file := tmp_path / "t.pth")
    with pytest.raises(WeightsError, match="two tensors for one name"):
        bcos_zoo.zoo.convert(file, f"{NAME}.cifar10", tmp_path)


def test_a_checkpoint_that_could_run_code_is_refused_at_every_door(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    (file := tmp_path / "evil.ckpt").write_bytes(pickle.dumps({"state_dict": Evil()}, 2))
    for call in (
        lambda: bcos_zoo.zoo.convert(file, f"{NAME}.cifar10", tmp_path),
        lambda: bcos_zoo.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": file}),
    ):
        with pytest.raises(WeightsError, match="could run code"):
            call()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda weight: weight.to_sparse(), "sparse"),
        (lambda weight: weight.to(torch.complex64), "complex64 for float32"),
        (lambda weight: (weight * 100).to(torch.int8), "int8 for float32"),
        (lambda weight: weight.to("meta"), "meta"),
    ],
)
def test_numbers_of_another_kind_are_one_line(change: Any, says: str, tmp_path: Path) -> None:
    """torch would take the real part, or whole numbers as they are, or end in a traceback."""
    file = tmp_path / "odd.pth"
    torch.save({**RAW, "fc.linear.weight": change(RAW["fc.linear.weight"])}, file)
    with pytest.raises(WeightsError, match=says):
        bcos_zoo.create_model(
            "bcos_resnet20.cifar10", pretrained=True, pretrained_cfg_overlay={"file": str(file)}
        )
    out = tmp_path / "out.safetensors"
    assert cli.run(["weights", "convert", str(file), "--to", "bcos_resnet20.cifar10", "-o", str(out)]) == 2
    assert not out.exists()
