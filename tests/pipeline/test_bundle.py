"""Bundles: what was written holds; whatever is changed afterwards, in the file or around it, does not."""

import copy
import io
import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.pipeline import bundle
from bcos_zoo.weights import state_dicts

NAME = "bcos_resnet20.cifar10"
RECOMPUTED = {"logits", "weights", "contributions", "bias"}


@pytest.fixture(scope="module")
def classifier():
    return bcos_zoo.load(NAME)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bundle")


@pytest.fixture(scope="module")
def photograph(folder):
    path = folder / "photo.png"
    Image.radial_gradient("L").convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def written(classifier, folder, photograph):
    explanation = classifier.explain(photograph, ["cat", "dog"])
    return bundle.write(folder / "whole.zip", classifier, photograph, explanation, model=NAME)


def fails(path, image, classifier):
    """The names of the lines that do not hold."""
    return {line.what for line in bundle.check(bundle.read(path), classifier, image) if not line.holds}


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def npy(array, **options):
    np.save(buffer := io.BytesIO(), array, **options)
    return buffer.getvalue()


def forged(written, path, *, change=None, say=None, rehash=True):
    """A copy of a bundle with one array changed, or its metadata, its hashes made to fit."""
    content = members(written)
    metadata = json.loads(content["metadata.json"])
    if change:
        name, edit = change
        array = np.load(io.BytesIO(content[f"{name}.npy"])).copy()
        array = edit(array)
        content[f"{name}.npy"] = npy(array)
        if rehash:
            metadata["arrays"][f"{name}.npy"] = bundle.hashlib.sha256(content[f"{name}.npy"]).hexdigest()
    if say:
        say(metadata)
    content["metadata.json"] = json.dumps(metadata).encode()
    return rewrite(path, content)


def one_more(array):
    """The largest value of an array, doubled; of targets, another class."""
    if array.dtype == np.int64:
        return array + 1
    at = np.unravel_index(np.abs(array).argmax(), array.shape)
    array[at] *= 2
    return array


def test_what_was_written_holds_line_by_line(written, photograph):
    lines = bundle.verify(written, photograph)
    assert [line.what for line in lines if not line.holds] == []
    assert {line.what for line in lines} >= {"image", "network", "preprocessing", "arrays", "completeness"}
    assert {line.what for line in lines} >= RECOMPUTED


def test_a_bundle_is_one_file_that_numpy_reads(written, classifier, photograph):
    explanation = classifier.explain(photograph, ["cat", "dog"])
    with np.load(written, allow_pickle=False) as arrays:
        assert np.array_equal(arrays["contributions"], explanation.contributions.numpy())
        metadata = json.loads(arrays["metadata.json"])
    assert metadata["labels"] == ["cat", "dog"]
    assert metadata["targets"] == [3, 5]
    assert metadata["dtype"] == "float32"
    assert metadata["completeness_gap"] < 1e-4
    assert metadata["versions"]["torch"] == torch.__version__
    assert metadata["preprocessing"]["card"]["input_size"] == [3, 32, 32]
    x = classifier.preprocess(photograph)[0].numpy()
    assert metadata["preprocessing"]["tensor_sha256"] == bundle.hashlib.sha256(npy(x)).hexdigest()


def test_the_same_explanation_gives_the_same_bytes(written, classifier, photograph, tmp_path):
    explanation = classifier.explain(photograph, ["cat", "dog"])
    again = bundle.write(tmp_path / "again.npz", classifier, photograph, explanation, model=NAME)
    assert again.read_bytes() == written.read_bytes()


@pytest.mark.parametrize("name", list(bundle.AXES))
def test_an_array_that_was_changed_is_noticed(written, photograph, classifier, tmp_path, name):
    changed = forged(written, tmp_path / "x.zip", change=(name, one_more), rehash=False)
    assert "arrays" in fails(changed, photograph, classifier)


@pytest.mark.parametrize("name", list(bundle.AXES))
def test_a_change_with_hashes_made_to_fit_is_noticed_by_recomputing(
    written, photograph, classifier, tmp_path, name
):
    found = fails(forged(written, tmp_path / "x.zip", change=(name, one_more)), photograph, classifier)
    assert "arrays" not in found
    assert found & (RECOMPUTED | {"labels"})


def test_an_array_of_nan_does_not_hold(written, photograph, classifier, tmp_path):
    nan = forged(written, tmp_path / "x.zip", change=("weights", lambda a: a * np.nan))
    assert "weights" in fails(nan, photograph, classifier)


def test_contributions_that_do_not_sum_to_the_logit_are_incomplete(written, photograph, classifier, tmp_path):
    halved = forged(written, tmp_path / "x.zip", change=("contributions", lambda a: a / 2))
    assert fails(halved, photograph, classifier) == {"contributions", "completeness"}


@pytest.mark.parametrize(
    ("line", "say"),
    [
        ("image", lambda m: m["image"].update(sha256="0" * 64)),
        ("network", lambda m: m["model"].update(weights_sha256="0" * 64)),
        ("preprocessing", lambda m: m["preprocessing"]["card"].update(crop_pct=0.5)),
        ("preprocessing", lambda m: m["preprocessing"].update(tensor_sha256="0" * 64)),
        ("preprocessing", lambda m: m.update(preprocessing={"card": []})),
        ("labels", lambda m: m.update(labels=["dog", "cat"])),
        ("labels", lambda m: m.update(targets=[3, 4])),
        ("labels", lambda m: m.update(logits=[9.0, 9.0])),
        ("completeness", lambda m: m.update(completeness_gap=0.5)),
        ("completeness", lambda m: m.update(completeness_gap=10**400)),
        ("logits", lambda m: m.update(dtype="float16")),
    ],
)
def test_metadata_that_were_changed_are_noticed(written, photograph, classifier, tmp_path, line, say):
    assert line in fails(forged(written, tmp_path / "x.zip", say=say), photograph, classifier)


def test_another_image_is_noticed_and_so_is_what_it_changes(written, classifier, tmp_path):
    other = tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").save(other)
    assert fails(written, other, classifier) >= {"image", "logits", "weights", "contributions"}


def test_the_same_pixels_in_another_file_are_another_image(written, photograph, classifier, tmp_path):
    with Image.open(photograph) as picture:
        picture.save(tmp_path / "saved.png", compress_level=0)
    assert fails(written, tmp_path / "saved.png", classifier) == {"image"}


def test_other_weights_are_noticed(written, photograph, classifier):
    model = copy.deepcopy(classifier.model)
    with torch.no_grad():
        next(model.parameters())[0] *= 2
    other = bcos_zoo.Classifier(model, classifier.class_names)
    assert "network" in fails(written, photograph, other)


def test_a_network_of_other_classes_is_noticed(written, photograph):
    model = bcos_zoo.create_model("bcos_resnet20", num_classes=3)
    other = bcos_zoo.Classifier(model, ["a", "b", "c"])
    assert fails(written, photograph, other) >= {"network", "labels"} | RECOMPUTED


def test_the_hash_of_weights_is_of_their_values_whatever_their_order_and_layout(classifier):
    model = copy.deepcopy(classifier.model)
    before = state_dicts.sha256(model.state_dict())
    assert state_dicts.sha256(model.to(memory_format=torch.channels_last).state_dict()) == before
    state = model.state_dict()
    reordered = torch.nn.Module()
    reordered.state_dict = lambda: dict(reversed(state.items()))
    assert state_dicts.sha256(reordered.state_dict()) == before
    model(torch.rand(1, 3, 32, 32))
    assert state_dicts.sha256(model.state_dict()) == before
    next(iter(state.values())).mul_(1.000001)
    assert state_dicts.sha256(model.state_dict()) != before


def test_a_name_from_outside_the_zoo_is_not_fetched_unasked(written, photograph, tmp_path):
    elsewhere = forged(
        written, tmp_path / "x.zip", say=lambda m: m["model"].update(name="hf-hub:someone/something")
    )
    with pytest.raises(InputError, match="from outside the zoo; if you trust it, say --model"):
        bundle.verify(elsewhere, photograph)
    assert all(line.holds for line in bundle.verify(elsewhere, photograph, model=NAME))


def test_a_pickle_in_a_bundle_is_not_unpacked(written, tmp_path):
    content = members(written) | {"bias.npy": npy(np.array([[object()]]), allow_pickle=True)}
    with pytest.raises(InputError, match="says bias is object"):
        bundle.read(rewrite(tmp_path / "x.zip", content))


def test_sizes_are_checked_before_anything_is_unpacked(written, tmp_path, monkeypatch):
    content = members(written)
    lying = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        lying, {"descr": "<f4", "fortran_order": False, "shape": (1, 1, 10**6, 10**6)}
    )
    with pytest.raises(InputError, match="says contributions is .* which is not its size"):
        bundle.read(rewrite(tmp_path / "x.zip", content | {"contributions.npy": lying.getvalue()}))
    monkeypatch.setattr(bundle, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="at most 1000 are allowed"):
        bundle.read(written)


@pytest.mark.parametrize("keep", [0, 10, 1000, -30])
def test_a_damaged_bundle_is_one_clear_line(written, tmp_path, keep):
    path = tmp_path / "x.zip"
    path.write_bytes(written.read_bytes()[:keep])
    with pytest.raises(InputError, match="is not a bundle, or is damaged") as caught:
        bundle.read(path)
    assert "\n" not in str(caught.value)


def test_any_flipped_byte_is_an_error_or_a_line_that_fails(written, photograph, classifier, tmp_path):
    data, path = written.read_bytes(), tmp_path / "x.zip"
    for at in torch.randint(len(data), (40,), generator=torch.Generator().manual_seed(0)).tolist():
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :])
        try:
            content = bundle.read(path)
        except InputError:
            continue
        whole = bundle.read(written)  # the flip hit a part of the zip that says nothing, such as a date
        assert content.metadata == whole.metadata
        assert all(np.array_equal(content.arrays[name], whole.arrays[name]) for name in bundle.AXES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more.npy": b""}, "a bundle holds metadata.json, logits.npy"),
        ({"metadata.json": b"{}"}, "not a bundle of version 1"),
        ({"metadata.json": b"[" * 100_000}, "is not a bundle, or is damaged"),
        ({"metadata.json": b"\xff"}, "is not a bundle, or is damaged"),
        ({"logits.npy": b""}, "is not a bundle, or is damaged"),
        ({"logits.npy": npy(np.zeros((1, 10), np.complex64))}, "has logits of complex64"),
        ({"logits.npy": npy(np.zeros(10, np.float32))}, "of 2 axes"),
    ],
)
def test_other_contents_are_refused(written, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        bundle.read(rewrite(tmp_path / "x.zip", members(written) | change))


def test_metadata_without_what_verify_needs_are_refused(written, tmp_path):
    lacking = forged(written, tmp_path / "x.zip", say=lambda m: m["model"].pop("weights_sha256"))
    with pytest.raises(InputError, match="metadata without model.weights_sha256"):
        bundle.read(lacking)


def test_what_cannot_be_written_is_refused(written, classifier, photograph, tmp_path):
    explanation = classifier.explain(photograph, ["cat", "dog"])
    with pytest.raises(InputError, match=r"x.json: a bundle ends in .zip or .npz"):
        bundle.write(tmp_path / "x.json", classifier, photograph, explanation, model=NAME)
    with pytest.raises(InputError, match="explain the image by itself, no contrast"):
        bundle.write(
            tmp_path / "x.zip", classifier, photograph, explanation.contrast("cat", "dog"), model=NAME
        )
    with pytest.raises(InputError, match="missing.png' cannot be read"):
        bundle.write(tmp_path / "x.zip", classifier, tmp_path / "missing.png", explanation, model=NAME)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        bundle.write(tmp_path / "file" / "x.zip", classifier, photograph, explanation, model=NAME)
    with pytest.raises(InputError, match="missing.zip: no such file"):
        bundle.read(tmp_path / "missing.zip")
    with pytest.raises(InputError, match="tolerance=-1"):
        bundle.verify(written, photograph, tolerance=-1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_explanation_in_float64_is_recomputed_in_float64(classifier, photograph, tmp_path):
    x = classifier.preprocess(photograph)
    explanation = bcos_zoo.explain(classifier.model, x, ["cat"], dtype=torch.float64)
    path = bundle.write(tmp_path / "x.zip", classifier, photograph, explanation, model=NAME)
    assert all(line.holds for line in bundle.verify(path, photograph, tolerance=1e-9))
    rounded = replace(explanation, weights=explanation.weights.float().double())
    bundle.write(path, classifier, photograph, rounded, model=NAME)
    lines = bundle.verify(path, photograph, tolerance=1e-12)
    assert [line.what for line in lines if not line.holds] == ["weights"]


def test_an_explanation_in_half_precision_is_refused(classifier, photograph, tmp_path):
    x = classifier.preprocess(photograph)
    explanation = bcos_zoo.explain(classifier.model, x, ["cat"], dtype=torch.bfloat16)
    with pytest.raises(InputError, match="the explanation is in bfloat16; a bundle holds float32 or float64"):
        bundle.write(tmp_path / "x.zip", classifier, photograph, explanation, model=NAME)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_may_be_moved(written, photograph, tmp_path):
    moved = shutil.copy(written, tmp_path / "renamed.npz")
    assert all(line.holds for line in bundle.verify(moved, photograph))
