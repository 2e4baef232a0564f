"""What a bundle is measured by: the zoo's own networks, and numbers; not what lies about, nor words."""

import copy
import io
import json
import shutil
import zipfile

import pytest
import torch
import torchvision
from PIL import Image

import bcos_zoo
from bcos_zoo import InputError, cli
from bcos_zoo.pipeline import bundle
from bcos_zoo.weights import state_dicts

NAME = "bcos_resnet20.cifar10"


@pytest.fixture(scope="module")
def classifier():
    return bcos_zoo.load(NAME)


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photo.png"
    Image.radial_gradient("L").convert("RGB").save(path)
    return path


@pytest.fixture
def written(classifier, photograph, tmp_path):
    return bundle.write(
        tmp_path / "a.zip", classifier, photograph, classifier.explain(photograph), model=NAME
    )


def said(path, target, change):
    """A copy of a bundle whose metadata are changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    metadata = json.loads(members["metadata.json"])
    change(metadata)
    members["metadata.json"] = json.dumps(metadata).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def fails(path, image, classifier):
    return {line.what for line in bundle.check(bundle.read(path), classifier, image) if not line.holds}


def test_a_folder_called_as_a_bundle_names_it_is_not_taken_for_its_network(
    classifier, photograph, tmp_path, monkeypatch, capsys
):
    """Whoever made the bundle may have made the folder, of a network that says whatever they like."""
    liar = copy.deepcopy(classifier.model)
    with torch.no_grad():
        for weight in liar.get_classifier().parameters():
            weight.neg_()
    monkeypatch.chdir(tmp_path)
    bcos_zoo.export(NAME, tmp_path / "evil")
    state_dicts.save(liar.state_dict(), tmp_path / "evil" / "model.safetensors", {})
    shutil.copytree("evil", "sub/evil")
    evil = bcos_zoo.load("evil")
    assert evil.predict(photograph)[0].label != classifier.predict(photograph)[0].label
    path = bundle.write(tmp_path / "x.zip", evil, photograph, evil.explain(photograph), model="evil")
    for name in (
        "evil",
        "./evil",
        str(tmp_path / "evil"),
        "local-dir:evil",
        "sub/evil",
        "",
        "evil.tag",
        "../a",
    ):
        named = said(path, tmp_path / "y.zip", lambda m, name=name: m["model"].update(name=name))
        with pytest.raises(InputError, match="from outside the zoo; if you trust it, say --model"):
            bundle.verify(named, photograph)
    assert cli.run(["verify", str(path), str(photograph)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert all(line.holds for line in bundle.verify(path, photograph, model="evil"))


def test_a_folder_called_as_a_checkpoint_of_the_zoo_does_not_take_its_place(
    written, photograph, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    bcos_zoo.export("bcos_resnet18_w32.imagenette", tmp_path / NAME)
    assert all(line.holds for line in bundle.verify(written, photograph))


def test_another_wording_of_the_transform_is_no_difference(written, photograph, classifier, monkeypatch):
    for step in classifier.transform.transforms:
        monkeypatch.setattr(type(step), "__repr__", lambda self: "in other words")
    assert fails(written, photograph, classifier) == set()


def test_another_resize_is_a_difference_even_if_the_card_is_the_same(written, photograph):
    other = bcos_zoo.load(NAME)
    resize = next(step for step in other.transform.transforms if hasattr(step, "interpolation"))
    resize.interpolation = torchvision.transforms.InterpolationMode.NEAREST
    assert "preprocessing" in fails(written, photograph, other)


def test_a_bundle_of_before_the_hash_holds_by_what_is_recomputed(written, photograph, classifier, tmp_path):
    """Those had the transform in torchvision's words instead, which no other version need have."""

    def older(metadata):
        del metadata["preprocessing"]["tensor_sha256"]
        metadata["preprocessing"] |= {"steps": ["Resize(size=32, interpolation=bicubic)", "MaybeToTensor()"]}
        metadata["preprocessing"]["card"]["something"] = "of another timm"

    assert fails(said(written, tmp_path / "x.zip", older), photograph, classifier) == set()


def test_what_of_a_class_was_explained_is_recomputed(classifier, photograph, tmp_path):
    """A bundle says which: so a probability is not passed off as a logit, nor a logit as a probability."""
    x = classifier.preprocess(photograph)
    for output in ("logit", "relative", "sigmoid", "probability"):
        one = classifier.head(x, ["cat", "dog"], output=output)
        path = bundle.write(tmp_path / "a.zip", classifier, photograph, one, model=NAME)
        assert fails(path, photograph, classifier) == set(), output
        for other in {"logit", "relative", "probability"} - {output}:
            if {output, other} == {"sigmoid", "probability"}:  # of this network they are one
                continue
            lie = said(path, tmp_path / "b.zip", lambda m, o=other: m["explanation"].update(output=o))
            assert "logits" in fails(lie, photograph, classifier), (output, other)


@pytest.mark.parametrize(
    "settings",
    [None, [], "x"]
    + [{"output": value} for value in (3, "certainty")]
    + [{"smooth": value} for value in ("wide", -1, True)]
    + [{"percentile": value} for value in (None, 0, 101, "99", [], float("nan"))],
)
def test_settings_that_say_nothing_do_not_hold(written, photograph, classifier, tmp_path, settings):
    def change(metadata):
        metadata["explanation"] = (
            metadata["explanation"] | settings if isinstance(settings, dict) else settings
        )

    path = said(written, tmp_path / "x.zip", change)
    try:
        assert fails(path, photograph, classifier) >= {"logits"}
    except InputError as error:
        assert "explanation" in str(error)


def test_a_bundle_of_before_the_settings_holds(written, photograph, classifier, tmp_path):
    path = said(written, tmp_path / "x.zip", lambda metadata: metadata.pop("explanation"))
    assert fails(path, photograph, classifier) == set()


def test_an_image_that_cannot_be_read_fails_its_lines_and_raises_nothing(written, photograph, classifier):
    photograph.write_bytes(b"no picture")
    assert fails(written, photograph, classifier) >= {"image", "preprocessing", "logits"}
    assert io.BytesIO(written.read_bytes()).read(2) == b"PK"
