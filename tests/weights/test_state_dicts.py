"""State dicts written and read back; damaged, hostile and odd files refused; failed writes leave nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from bcos_zoo.errors import InputError, WeightsError
from bcos_zoo.weights import state_dicts


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"conv.weight": torch.randn(4, 3, 2, 2), "bn.num_batches_tracked": torch.tensor(7)}


def content(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_what_was_written_is_read(tmp_path, ending):
    path = tmp_path / f"w{ending}"
    if ending == ".pth":
        torch.save(state(), path)
    else:
        state_dicts.save(state(), path)
    got = state_dicts.read(str(path))
    assert type(got) is dict and got.keys() == state().keys()
    for name, value in state().items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=0)


class Payload:
    """A pickle that would create a file when loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", [torch.save, lambda data, path: path.write_bytes(pickle.dumps(data, 2))])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, writer):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    writer({"weight": Payload(trace)}, path)
    with pytest.raises(WeightsError, match="evil.pth is damaged, or holds objects that could run code") as e:
        state_dicts.read(path)
    assert "\n" not in str(e.value)
    assert not trace.exists()


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-100], lambda b: b"<html>", lambda b: b[9:]])
def test_a_damaged_file_is_one_clear_line(tmp_path, ending, damage):
    whole, path = tmp_path / f"whole{ending}", tmp_path / f"w{ending}"
    if ending == ".pth":
        torch.save(state(), whole)
    else:
        state_dicts.save(state(), whole)
    path.write_bytes(damage(whole.read_bytes()))
    with pytest.raises(WeightsError, match=f"w{ending} is damaged") as e:
        state_dicts.read(path)
    assert "\n" not in str(e.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match="no file at .*w.pth; give a .safetensors or .pth file"):
        state_dicts.read(tmp_path / "w.pth")


def test_the_tensors_of_a_lightning_checkpoint_are_read(tmp_path):
    torch.save({"state_dict": state(), "epoch": 3, "optimizer_states": [{}]}, tmp_path / "last.ckpt")
    assert state_dicts.read(tmp_path / "last.ckpt").keys() == state().keys()


@pytest.mark.parametrize("prefix", ["", "0.", "model.", "model.model."])
def test_what_wraps_the_names_of_a_network_is_taken_off(prefix):
    wrapped = {f"{prefix}{name}": value for name, value in state().items()}
    assert list(state_dicts.unwrap(wrapped, state().keys())) == list(state())
    teacher = wrapped | {"clip_model.visual.weight": torch.zeros(1)} if prefix else wrapped
    assert list(state_dicts.unwrap(teacher, state().keys())) == list(state())


def test_names_that_begin_with_a_number_of_their_own_are_kept():
    plain = {"0.weight": torch.zeros(1), "1.weight": torch.zeros(1)}
    assert state_dicts.unwrap(plain, plain.keys()) == plain


NOT_FLAT = [
    ([torch.zeros(1)], "a list"),
    (torch.zeros(1), "a Tensor"),
    ({}, "an empty dict"),
    ({"weights": {"w": torch.zeros(1)}, "epoch": 3}, "entries that .* tensors .'weights', 'epoch'."),
    ({1: torch.zeros(1)}, "entries that are not named tensors .1."),
]


@pytest.mark.parametrize("data, what", NOT_FLAT)
def test_anything_but_a_flat_dict_of_tensors_is_refused(tmp_path, data, what):
    torch.save(data, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=f"w.pth holds {what}; give a flat dict of tensors"):
        state_dicts.read(tmp_path / "w.pth")


@pytest.mark.parametrize("data, what", NOT_FLAT)
def test_only_a_flat_dict_of_tensors_is_written(tmp_path, data, what):
    with pytest.raises(InputError, match=f"w.safetensors would hold {what}; give a flat dict of tensors"):
        state_dicts.save(data, tmp_path / "w.safetensors")
    assert content(tmp_path) == []


def test_shared_transposed_expanded_and_learnt_tensors_are_written_as_they_look(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    data = {
        "base": torch.nn.Parameter(base),
        "same": base,
        "turned": base.T,
        "row": base[1],
        "wide": torch.ones(1).expand(3),
        "last": torch.rand(1, 2, 3, 4).to(memory_format=torch.channels_last),
    }
    state_dicts.save(data, tmp_path / "w.safetensors")
    for name, value in state_dicts.read(tmp_path / "w.safetensors").items():
        assert torch.equal(value, data[name].detach())


def test_metadata_goes_into_the_header(tmp_path):
    state_dicts.save(state(), tmp_path / "w.safetensors", {"architecture": "bcos_resnet20"})
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "architecture": "bcos_resnet20"}


def test_writing_replaces_an_older_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"older")
    state_dicts.save(state(), path)
    assert state_dicts.read(path).keys() == state().keys()
    assert content(tmp_path) == ["w.safetensors"]


def test_a_failed_write_keeps_the_older_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "w.safetensors"
    path.mkdir()  # cannot be replaced by a file
    with pytest.raises(WeightsError, match="cannot write .*w.safetensors .*give a writable folder"):
        state_dicts.save(state(), path)
    assert content(tmp_path) == ["w.safetensors"]


def test_a_folder_that_is_not_there_is_made_unless_a_file_is_in_its_place(tmp_path):
    state_dicts.save(state(), tmp_path / "absent" / "w.safetensors")
    assert content(tmp_path / "absent") == ["w.safetensors"]
    with pytest.raises(WeightsError, match="cannot write .*w.safetensors/x.safetensors .*writable folder"):
        state_dicts.save(state(), tmp_path / "absent" / "w.safetensors" / "x.safetensors")


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(InputError, match="w.pth: weights are written as .safetensors only; give a name"):
        state_dicts.save(state(), tmp_path / "w.pth")


@pytest.mark.parametrize("loop", ["itself", "in turns", "deep"])
def test_dicts_inside_each_other_without_end_are_one_line(tmp_path, loop):
    inside: dict[str, object] = {"epoch": 3}
    content = inside
    if loop == "deep":
        content = {"model": {"ema": {"module": {"state_dict": {"net": {"model": state()}}}}}}
    else:
        inside["model"] = inside if loop == "itself" else {"ema": inside, "epoch": 3}
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(
        WeightsError, match="w.pth holds dicts inside .*, and sets of weights are looked"
    ) as e:
        state_dicts.read(path)
    assert "\n" not in str(e.value) and len(str(e.value)) < 400


def test_a_set_of_weights_is_found_four_keys_deep(tmp_path):
    torch.save({"model": {"ema": {"module": {"state_dict": state()}}}}, tmp_path / "w.pth")
    assert state_dicts.read(tmp_path / "w.pth").keys() == state().keys()
