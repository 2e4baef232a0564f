"""Published files, in each of their layouts, turned into our own or loaded as they are; others refused."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import images
from published import published_names
from safetensors import safe_open
from torch import Tensor

import bcos_zoo
from bcos_zoo import InputError, UnknownModelError, WeightsError, cli, zoo
from bcos_zoo.weights import checksums, manifest, state_dicts

State = dict[str, Tensor]
NAME = "bcos_resnet20"  # small


def save_v1(state: State, path: Path) -> None:
    """As torch wrote files in the days of v1."""
    torch.save(OrderedDict(state), path, _use_new_zipfile_serialization=False)


def save_lightning(state: State, path: Path) -> None:
    content = {"epoch": 3, "state_dict": state, "optimizer_states": [{"state": {}}], "loops": {}}
    torch.save(content, path)


def save_with_teacher(state: State, path: Path) -> None:
    teacher = {"clip_model.logit_scale": torch.ones(()), "clip_model.visual.conv1.weight": torch.ones(4, 3)}
    save_lightning(teacher | state, path)


PUBLISHED: dict[str, tuple[str, Callable[[State, Path], None]]] = {
    "bcos_resnet18.v2_in1k": ("w.pth", torch.save),
    "bcos_plain9.v1_b1p5_cifar10": ("state_dict.pkl", save_v1),
    "bcos_densenet121.v1_in1k": ("download", save_v1),
    "bcos_simple_vit_ti_patch16_224.v2_in1k": ("w.pth", torch.save),
    "bcos_std_vitc_ti_patch1_14.v2_in1k": ("w.pth", torch.save),
    "bcos_resnet18.bcosified_in1k": ("last.ckpt", save_lightning),
    "bcos_densenet121.bcosified_in1k": ("last.ckpt", save_lightning),
    "bcos_vitc_ti_patch1_14.bcosified_in1k": ("last.ckpt", save_lightning),
    "bcos_resnet50_clip.bcosified_cc3m": ("last.ckpt", save_with_teacher),
}


def content(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A network with the weights it was built with, and a file of them as published."""
    name = request.param
    filename, save = PUBLISHED[name]
    torch.manual_seed(0)
    model = bcos_zoo.create_model(name)
    state = model.state_dict()
    names = published_names(state, manifest.get(name).files[0].layout)
    path = tmp_path_factory.mktemp("published") / filename
    save(dict(zip(names, state.values(), strict=True)), path)
    return model, path


def full_name(model: Any) -> str:
    return f"{model.pretrained_cfg['architecture']}.{model.pretrained_cfg['tag']}"


def test_a_published_file_converts_to_one_that_loads_the_same_network(published, tmp_path):
    model, source = published
    name = full_name(model)
    path = zoo.convert(source, name, tmp_path)
    assert path == tmp_path / f"{name}.safetensors" and content(tmp_path) == [path.name]
    x = images(1, 64, 48)
    with torch.inference_mode():
        logits = model(x)
    for file in (path, source):  # the published one loads as it is, too
        overlay = {"file": str(file)}
        again = bcos_zoo.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        for (key, value), expected in zip(
            again.state_dict().items(), model.state_dict().values(), strict=True
        ):
            assert torch.equal(value, expected), key
        with torch.inference_mode():
            assert torch.equal(again(x), logits)


def test_a_file_of_the_official_package_converts(tmp_path):
    resnet = pytest.importorskip("bcos.models.resnet", reason="the official bcos package is not installed")
    from bcos.modules import norms

    official = resnet.cifar10_resnet20(in_chans=6, norm_layer=norms.NoBias(norms.BatchNormUncentered2d))
    torch.save(official.state_dict(), tmp_path / "w.pth")
    path = zoo.convert(tmp_path / "w.pth", NAME, tmp_path)
    got = state_dicts.read(path)
    assert got.keys() == official.state_dict().keys()
    assert all(torch.equal(got[key], value) for key, value in official.state_dict().items())


def saved(folder: Path, **changes: Tensor | None) -> Path:
    """A file of the small network, with tensors changed, added, or left out for None."""
    state = timm.create_model(NAME).state_dict() | changes
    path = folder / "w.pth"
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    return path


def test_the_header_tells_where_the_weights_are_from(tmp_path):
    source = saved(tmp_path)
    with safe_open(zoo.convert(source, NAME, tmp_path), framework="pt") as file:
        header = file.metadata()
    assert header == {
        "format": "pt",
        "name": NAME,
        "source_sha256": checksums.sha256(source),
        "bcos_zoo": bcos_zoo.__version__,
    }


def test_tensors_keep_their_dtype(tmp_path):
    state = {key: value.bfloat16() for key, value in timm.create_model(NAME).state_dict().items()}
    got = state_dicts.read(zoo.convert(saved(tmp_path, **state), NAME, tmp_path))
    assert {value.dtype for value in got.values()} == {torch.bfloat16}


def test_a_converted_file_has_the_permissions_of_any_new_file(tmp_path):
    path = zoo.convert(saved(tmp_path), NAME, tmp_path)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_converted_file_can_be_converted_again(tmp_path):
    first = zoo.convert(saved(tmp_path), NAME, tmp_path)
    second = zoo.convert(first, NAME, tmp_path / "again.safetensors")
    assert state_dicts.read(second).keys() == state_dicts.read(first).keys()


def test_every_fault_of_a_file_of_another_network_is_listed(tmp_path):
    state = timm.create_model(NAME).state_dict()
    gone = [key for key in state if key.startswith("layer1")]
    extra = [f"extra.{i:02}" for i in range(20)]
    changes: dict[str, Any] = dict.fromkeys(gone) | dict.fromkeys(extra, torch.zeros(1))
    changes |= {"fc.linear.weight": torch.zeros(3, 64, 1, 1), "bn1.weight": torch.zeros(3)}
    with pytest.raises(WeightsError, match=f"the file is not of {NAME}: ") as error:
        zoo.convert(saved(tmp_path, **changes), NAME, tmp_path)
    text = str(error.value)
    assert f"{len(gone)} missing ({', '.join(sorted(gone))}), 20 surplus ({', '.join(extra)}), 2 of " in text
    assert (
        "bn1.weight (3,) for (16,), fc.linear.weight (3, 64, 1, 1) for (10, 64, 1, 1)); give a file" in text
    )
    assert "\n" not in text
    assert content(tmp_path) == ["w.pth"]


@pytest.mark.parametrize("channels", [3, 2])
def test_a_stem_for_other_images_is_not_adapted(tmp_path, channels):
    source = saved(tmp_path, **{"conv1.linear.weight": torch.zeros(16, channels, 3, 3)})
    with pytest.raises(WeightsError, match=f"1 of another shape .conv1.linear.weight .16, {channels}, 3, 3."):
        zoo.convert(source, NAME, tmp_path)


class Payload:
    """A pickle that would create a file when loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_does_not_run(tmp_path):
    torch.save({"state_dict": {"weight": Payload(tmp_path / "trace")}}, tmp_path / "evil.ckpt")
    with pytest.raises(WeightsError, match="evil.ckpt is damaged, or holds objects that could run code"):
        zoo.convert(tmp_path / "evil.ckpt", NAME, tmp_path)
    assert content(tmp_path) == ["evil.ckpt"]


def test_a_file_that_is_there_is_replaced_by_force_only(tmp_path):
    source, path = saved(tmp_path), tmp_path / f"{NAME}.safetensors"
    path.write_bytes(b"older")
    with pytest.raises(InputError, match=f"{path} is there already; give another name, or --force"):
        zoo.convert(source, NAME, tmp_path)
    assert path.read_bytes() == b"older"
    assert zoo.convert(source, NAME, path, force=True) == path
    assert state_dicts.read(path)


def test_a_write_that_fails_keeps_the_older_file_and_leaves_nothing_else(tmp_path, monkeypatch):
    def fail(tensors: Any, path: Path, header: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    source, path = saved(tmp_path), tmp_path / "ours.safetensors"
    path.write_bytes(b"older")
    monkeypatch.setattr(state_dicts, "save_file", fail)
    with pytest.raises(WeightsError, match="cannot write .*ours.safetensors .No space left on device"):
        zoo.convert(source, NAME, path, force=True)
    assert path.read_bytes() == b"older" and content(tmp_path) == ["ours.safetensors", "w.pth"]


@pytest.fixture
def run(capsys):
    """Run the command; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_command_writes_the_file_of_that_name_and_says_where(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = saved(tmp_path)
    assert run("weights", "convert", source, "--to", NAME) == (0, f"{NAME}.safetensors\n", "")
    code, out, err = run("weights", "convert", source, "--to", NAME, "-o", "x.safetensors", "--json")
    path = Path("x.safetensors")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "name": NAME,
        "source": str(source),
        "file": "x.safetensors",
        "sha256": checksums.sha256(path),
        "bytes": path.stat().st_size,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FILE", "--to", "bcos_resnet32"], "the file is not of bcos_resnet32: 60 missing (layer1.3.bn1."),
        (["FILE", "--to", "bcos_resnet05"], "no model named 'bcos_resnet05'; closest: bcos_resnet"),
        (["FILE", "--to", f"{NAME}.v9"], f"no checkpoint named '{NAME}.v9'; known: {NAME}.cifar10"),
        (["FILE", "--to", NAME, "-o", "w.pt"], "w.pt: weights are written as .safetensors only"),
        (["FILE", "--to", NAME, "-o", "FILE"], "w.pth is there already; give another name, or --force"),
        (["nothing.pth", "--to", NAME], "no file at nothing.pth; give a .safetensors or .pth file"),
        (["FILE"], "Missing option '--to'"),
        (["--to", NAME], "Missing argument 'FILE'"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_written(
    run, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    source = saved(tmp_path)
    code, out, err = run("weights", "convert", *[source if one == "FILE" else one for one in arguments])
    assert (code, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ") and message in line
    assert content(tmp_path) == ["w.pth"]


@pytest.mark.parametrize("arguments", [[], ["weights"]], ids=str)
def test_without_a_verb_the_help_is_shown_and_no_error(run, arguments):
    code, out, err = run(*arguments)
    assert code == 2
    assert "Usage:" in out + err and "error:" not in out + err


@pytest.mark.parametrize("name", ["bcos_densenet121.v1_in1k", "bcos_resnet18.bcosified_in1k"])
def test_where_a_file_must_be_got_by_hand_the_message_says_how(name):
    record = manifest.get(name)
    where = record.files[0].where
    url = where.url if where else record.origin.url
    by_hand = f"get the file of .* from {url}, then `bcos-zoo weights convert FILE --to {name}` and pass "
    with pytest.raises(WeightsError, match=by_hand + "pretrained_cfg_overlay={'file': PATH} to create_model"):
        bcos_zoo.create_model(name, pretrained=True)


@pytest.mark.parametrize(
    "options",
    [dict(num_classes=5), dict(num_classes=0), dict(features_only=True), dict(aux_logits=False)],
    ids=str,
)
def test_an_auxiliary_head_in_the_file_hinders_no_other_use(options):
    name = "bcos_inception_v3.v1_in1k"
    state = timm.create_model(name, device="meta").state_dict()
    published = dict(zip(published_names(state, "sequential"), state.values(), strict=True))
    overlay = {"state_dict": published}
    timm.create_model(name, pretrained=True, device="meta", pretrained_cfg_overlay=overlay, **options)
    del published["0.AuxLogits.conv0.conv.linear.weight"]
    if "num_classes" in options:
        with pytest.raises(WeightsError, match="1 missing .AuxLogits.conv0.conv.linear.weight., 0 surplus"):
            timm.create_model(name, pretrained=True, device="meta", pretrained_cfg_overlay=overlay, **options)


def test_a_name_that_is_none_is_refused_before_the_file_is_read(tmp_path):
    with pytest.raises(UnknownModelError, match="no model named 'bcos_nothing'"):
        zoo.convert(tmp_path / "absent.pth", "bcos_nothing", tmp_path)


def test_a_tensor_that_is_there_twice_under_two_names_is_surplus():
    name = "bcos_densenet121.bcosified_in1k"
    state = timm.create_model(name, device="meta").state_dict()
    state["features.0.linear.weight"] = state["features.conv0.linear.weight"]
    overlay = {"state_dict": state}
    with pytest.raises(WeightsError, match="0 missing, 1 surplus .features.0.linear.weight."):
        timm.create_model(name, pretrained=True, device="meta", pretrained_cfg_overlay=overlay)
