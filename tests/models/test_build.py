"""Weights find their way into a network through timm's builder, and the wrong ones do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import images, network
from timm.models import adapt_input_conv

from bcos_zoo import UnknownModelError, WeightsError, weights
from bcos_zoo.weights import state_dicts

NAME = "bcos_resnet20"


@pytest.fixture(scope="module")
def file(shared: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    state_dicts.save(shared.state_dict(), path)
    return path


def load(path: Path, name: str = NAME, **options: Any) -> Any:
    overlay = {"file": str(path), "num_classes": options.pop("classes_in_file", 10)}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options).eval()


def saved(state: dict[str, torch.Tensor], folder: Path) -> Path:
    path = folder / "other.safetensors"
    state_dicts.save(state, path)
    return path


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_a_file_makes_the_network_it_was_saved_from(shared, file, tmp_path, ending):
    path = file
    if ending == ".pth":
        path = tmp_path / "w.pth"
        torch.save({"state_dict": shared.state_dict(), "epoch": 3}, path)
    torch.testing.assert_close(load(path)(images()), shared(images()), rtol=0, atol=0)


def test_a_state_dict_in_memory_is_loaded_too(shared):
    overlay = {"state_dict": shared.state_dict()}
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    torch.testing.assert_close(model(images()), shared(images()), rtol=0, atol=0)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_other_classes_get_a_new_head_on_pretrained_features(shared, file, num_classes):
    model = load(file, num_classes=num_classes)
    torch.testing.assert_close(model.forward_features(images()), shared.forward_features(images()))
    assert model(images()).shape == (2, num_classes or 64)


@pytest.mark.parametrize("in_chans", [1, 2, 3, 4, 6])
def test_a_pretrained_stem_is_adapted_half_by_half(shared, file, in_chans):
    stem = shared.conv1.linear.weight
    expected = torch.cat([adapt_input_conv(in_chans, half) for half in (stem[:, :3], stem[:, 3:])], dim=1)
    model = load(file, in_chans=in_chans)
    torch.testing.assert_close(model.conv1.linear.weight, expected)
    assert model(images(channels=in_chans)).shape == (2, 10)
    if in_chans == 3:
        assert torch.equal(model.conv1.linear.weight, stem)
    if in_chans == 1:
        halves = stem.unflatten(1, (2, 3)).sum(2)
        torch.testing.assert_close(model.conv1.linear.weight, halves)


def test_the_stem_of_a_grey_network_is_adapted_to_rgb(tmp_path):
    grey = network(NAME, in_chans=1)
    model = load(saved(grey.state_dict(), tmp_path))
    expected = grey.conv1.linear.weight.repeat_interleave(3, dim=1) / 3
    torch.testing.assert_close(model.conv1.linear.weight, expected)


def test_features_only_are_pretrained_and_need_no_classifier(shared, tmp_path):
    state = shared.state_dict()
    del state["fc.linear.weight"]
    model = load(saved(state, tmp_path), features_only=True)
    expected = shared.forward_intermediates(images(), intermediates_only=True)
    for got, want in zip(model(images()), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_checkpoint_path_loads_a_file(shared, file):
    model = timm.create_model(NAME, checkpoint_path=str(file)).eval()
    torch.testing.assert_close(model(images()), shared(images()), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="size mismatch for fc.linear.weight"):
        timm.create_model(NAME, num_classes=3, checkpoint_path=str(file))


def test_weights_follow_the_dtype_of_the_network(file):
    model = load(file, dtype=torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(images().double()).dtype == torch.float64


def test_a_file_of_another_network_is_refused(file, tmp_path):
    with pytest.raises(
        WeightsError, match=r"not of bcos_resnet32: 60 missing \(layer1.3.bn1.nu.*, \.\.\.\), 0 sur"
    ):
        load(file, "bcos_resnet32")
    deeper = network("bcos_resnet32")
    with pytest.raises(WeightsError, match=r"not of bcos_resnet20: 0 missing, 60 surplus \(layer1.3.bn1.num"):
        load(saved(deeper.state_dict(), tmp_path))


@pytest.mark.parametrize("options", [{}, {"num_classes": 3}, {"num_classes": 0}, {"features_only": True}])
def test_a_file_with_a_key_too_few_or_of_another_shape_is_refused(shared, tmp_path, options):
    state = shared.state_dict()
    stem = state.pop("conv1.linear.weight")
    with pytest.raises(
        WeightsError, match=r"1 missing \(conv1.linear.weight\), 0 surplus; give a file of this"
    ):
        load(saved(state, tmp_path), **options)
    state |= {"conv1.linear.weight": stem[:, :, :2], "bn1.weight": state["bn1.weight"][:3]}
    shapes = r"\(conv1.linear.weight \(16, 6, 2, 3\) for \(16, 6, 3, 3\), bn1.weight \(3,\) for \(16,\)\)"
    with pytest.raises(
        WeightsError, match=f"is not of bcos_resnet20: 2 of another shape {shapes}; give a file"
    ):
        load(saved(state, tmp_path), **options)


@pytest.mark.parametrize("stem", [torch.ones(16, 5, 3, 3), torch.ones(16)])
def test_a_stem_that_has_no_two_halves_is_refused(shared, tmp_path, stem):
    with pytest.raises(WeightsError, match="1 of another shape .conv1.linear.weight"):
        load(saved(shared.state_dict() | {"conv1.linear.weight": stem}, tmp_path))


def test_a_classifier_is_not_lost_in_silence(shared, tmp_path):
    state = shared.state_dict()
    with pytest.raises(WeightsError, match=r"1 missing \(fc.linear.weight\)"):
        load(saved({k: v for k, v in state.items() if not k.startswith("fc")}, tmp_path))
    with pytest.raises(
        WeightsError, match=r"1 of another shape \(fc.linear.weight \(5, 64, 1, 1\) for \(10, 64, 1, 1\)"
    ):
        load(saved(state | {"fc.linear.weight": state["fc.linear.weight"][:5]}, tmp_path))
    path = saved(state | {"fc.linear.weight": state["fc.linear.weight"][:5]}, tmp_path)
    assert load(path, num_classes=5, classes_in_file=5).fc.linear.weight.shape[0] == 5
    with pytest.raises(
        WeightsError, match="classifier of 5 classes, but the card says 10, so it would be lost; add num"
    ):
        load(path, num_classes=5)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("damage", [lambda b: b[:-1000], lambda b: b"<html>", lambda b: b""])
def test_a_damaged_file_is_refused(shared, file, tmp_path, ending, damage):
    if ending == ".pth":
        file = tmp_path / "whole.pth"
        torch.save(shared.state_dict(), file)
    path = tmp_path / f"w{ending}"
    path.write_bytes(damage(file.read_bytes()))
    with pytest.raises(WeightsError, match=rf"w\{ending} is damaged"):
        load(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no file at .*nowhere.pth; give a"):
        load(tmp_path / "nowhere.pth")


def test_an_architecture_without_weights_has_none():
    with pytest.raises(UnknownModelError, match="no checkpoint named 'bcos_resnet110'"):
        timm.create_model("bcos_resnet110", pretrained=True)


def test_downloaded_weights_are_verified_before_they_are_loaded(monkeypatch, file, tmp_path):
    """The manifest's file of that name, damaged in a mirror, does not get as far as timm."""
    name = next(name for name in timm.list_models("bcos_*", pretrained=True) if name.endswith("v2_in1k"))
    url = timm.get_pretrained_cfg(name).url
    (tmp_path / Path(url).name).write_bytes(file.read_bytes())
    monkeypatch.setenv(weights.MIRROR, str(tmp_path))
    with pytest.raises(WeightsError, match="is not the file expected: sha256 expected"):
        timm.create_model(name, pretrained=True, cache_dir=str(tmp_path / "cache"))
