"""Explanations written and read: to the bit, with their settings, and nothing foreign taken on trust."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import images, network
from PIL import Image

import bcos_zoo
from bcos_zoo import Explanation, ExplanationHead, InputError, explain, explain_unit
from bcos_zoo.explanations import saved

FIELDS = ("logits", "targets", "weights", "contributions", "bias")
LABELS = tuple("cat,dog,fröschchen,猫,a b,,f,g,h,i".split(","))


def same(got: Explanation, expected: Explanation) -> None:
    for name in FIELDS:
        ours, theirs = getattr(got, name), getattr(expected, name).detach()
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    for name in ("labels", "smooth", "percentile", "output"):
        assert getattr(got, name) == getattr(expected, name)


@pytest.fixture(scope="module")
def kinds(shared: Any) -> dict[str, Explanation]:
    x = images()
    head = ExplanationHead(shared, class_names=LABELS, smooth=3, percentile=90.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is lost in half precision
        half = {str(d): explain(shared, x, [1, 2], dtype=d) for d in (torch.float16, torch.bfloat16)}
    return half | {
        "plain": explain(shared, x),
        "float64": explain(shared, x, [0, 1], dtype=torch.float64),
        "labels and settings": head(x, ["fröschchen", "猫", ""]),
        "relative": head(x, [3, 1], output="relative"),
        "sigmoid": head(x, [3, 1], output="sigmoid"),
        "contrast": head(x, [3, 1]).contrast(3, 1),
        "unit": explain_unit(shared, x, "layer2", 5),
        "graph": explain(shared, x, 0, create_graph=True),
    }


KINDS = (
    ("torch.float16", "torch.bfloat16", "plain", "float64", "labels and settings")
    + ("relative", "sigmoid", "contrast", "unit", "graph")
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_is_loaded_to_the_bit(kinds: Any, kind: str, tmp_path: Path) -> None:
    again = Explanation.load(kinds[kind].save(tmp_path / "e.npz"))
    same(again, kinds[kind])
    same(Explanation.load(str(again.save(tmp_path / "f.npz"))), kinds[kind])
    torch.testing.assert_close(again.rgba(), kinds[kind].rgba().detach(), equal_nan=True)


def test_the_output_is_kept_with_an_explanation(kinds: Any) -> None:
    assert [kinds[kind].output for kind in ("plain", "relative", "sigmoid", "contrast", "unit")] == [
        "logit",
        "relative",
        "sigmoid",
        "contrast",
        "activation",
    ]


def test_explanations_are_compared_by_identity(kinds: Any) -> None:
    one, other = kinds["plain"], kinds["float64"]
    assert one == one and one != other
    assert len({one, other, one}) == 2 and one in [other, one]


def test_files_of_before_have_default_settings(kinds: Any, tmp_path: Path) -> None:
    arrays = {name: getattr(kinds["plain"], name).numpy() for name in FIELDS}
    np.savez_compressed(tmp_path / "old.npz", **arrays, labels=np.array([["a"], ["b"]]))
    old = Explanation.load(tmp_path / "old.npz")
    assert (old.smooth, old.percentile, old.output, old.labels) == (15, 99.5, "logit", (("a",), ("b",)))


def test_a_bundle_is_loaded_too(tmp_path: Path) -> None:
    from bcos_zoo.pipeline import bundle

    clf = bcos_zoo.load("bcos_resnet20.cifar10")
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "cat.png")
    expected = clf.explain(tmp_path / "cat.png", ["cat", "dog"])
    for name in ("b.zip", "b.npz"):
        path = bundle.write(
            tmp_path / name, clf, tmp_path / "cat.png", expected, model="bcos_resnet20.cifar10"
        )
        same(Explanation.load(path), expected)


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("run!",))


def written(path: Path, **changed: Any) -> Path:
    """An explanation of one image and two targets with some of its arrays changed; None leaves one out."""
    arrays: dict[str, Any] = {
        "logits": np.zeros((1, 4), np.float32),
        "targets": np.array([[0, 3]]),
        "weights": np.zeros((1, 2, 6, 5, 4), np.float32),
        "contributions": np.zeros((1, 2, 5, 4), np.float32),
        "bias": np.zeros((1, 2), np.float32),
    }
    arrays = {name: value for name, value in (arrays | changed).items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.savez_compressed(path, **arrays)
    return path


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "no arrays": ({"weights": None}, "holds no weights, so no explanation"),
    "objects": ({"bias": np.array([[Evil(), 1]], dtype=object)}, "says bias is object"),
    "objects as labels": ({"labels": np.array([[Evil()]], dtype=object)}, "says labels is object"),
    "objects as settings": ({"settings": np.array(Evil(), dtype=object)}, "says settings is object"),
    "another dtype": ({"weights": np.zeros((1, 2, 6, 5, 4), np.int16)}, "has weights of int16"),
    "complex": ({"bias": np.zeros((1, 2), complex)}, "has bias of complex128"),
    "another rank": ({"contributions": np.zeros((2, 5, 4), np.float32)}, "has contributions of float32"),
    "another size": ({"bias": np.zeros((1, 3), np.float32)}, "has bias that do not fit the rest"),
    "other targets": ({"targets": np.array([[0, 4]])}, "has targets that do not fit the rest"),
    "negative targets": ({"targets": np.array([[0, -1]])}, "has targets that do not fit the rest"),
    "labels of fewer": ({"labels": np.array([["a"]])}, "has labels that do not fit the rest"),
    "settings of a wrong kind": ({"settings": np.array('{"smooth": "x"}')}, "has settings that do not fit"),
    "settings that are no JSON": ({"settings": np.array("{")}, "is not an explanation, or is damaged"),
    "settings that are a list": ({"settings": np.array("[1]")}, "is not an explanation, or is damaged"),
    "dtypes that are none": ({"settings": np.array('{"dtypes": {"weights": "system"}}')}, "has dtypes that"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_arrays_are_refused_in_one_line(name: str, tmp_path: Path, capsys: Any) -> None:
    changed, message = FOREIGN[name]
    with pytest.raises(InputError, match=message) as caught:
        Explanation.load(written(tmp_path / "e.npz", **changed))
    assert "\n" not in str(caught.value) and str(tmp_path / "e.npz") in str(caught.value)
    assert "run!" not in capsys.readouterr().out


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    files: dict[str, bytes] = {
        "text.npz": b"hello",
        "empty.npz": b"",
        "pickle.npz": pickle.dumps({"weights": 1}),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    for name in (*files, "one.npy", "other.zip"):
        with pytest.raises(InputError, match=f"{name} (is not an|holds no) ") as caught:
            Explanation.load(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file; give one that Explanation.save wrote"):
        Explanation.load(tmp_path / "none.npz")
    with pytest.raises(InputError, match="is not an explanation, or is damaged"):
        Explanation.load(tmp_path)


def test_any_cut_and_any_changed_byte_is_noticed_or_harmless(kinds: Any, tmp_path: Path) -> None:
    """Never a traceback, never other numbers without a word."""
    expected = kinds["labels and settings"]
    whole = expected.save(tmp_path / "e.npz").read_bytes()
    damaged = tmp_path / "d.npz"
    for place in range(0, len(whole), max(1, len(whole) // 150)):
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]):
            damaged.write_bytes(content)
            try:
                same(Explanation.load(damaged), expected)
            except InputError as error:
                assert "\n" not in str(error)


def test_a_header_that_lies_about_its_size_asks_for_no_memory(tmp_path: Path) -> None:
    path = written(tmp_path / "e.npz")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1, 2, 6, 10**6, 10**6)}
    )
    members["weights.npy"] = header.getvalue() + bytes(8)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match="which is not its size"):
        Explanation.load(path)


def test_what_load_would_refuse_is_not_written(tmp_path, monkeypatch):
    e = bcos_zoo.explain(network("bcos_resnet20"), images(1, 32, 32), 0)
    monkeypatch.setattr(saved, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match=r"e\.npz would hold \d+ bytes; at most 1000 are allowed"):
        e.save(tmp_path / "e.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [{"smooth": -3}, {"percentile": 500}, {"percentile": 0}])
def test_a_head_takes_no_settings_that_no_picture_can_have(settings):
    model = network("bcos_resnet20")
    for make in (bcos_zoo.ExplanationHead, partial(bcos_zoo.Classifier, class_names=[*"0123456789"])):
        with pytest.raises(InputError, match="allowed are smooth >= 0 and 0 < percentile <= 100"):
            make(model, **settings)
