"""What may be used how: manifest, NOTICE, the package's metadata, `info`, the card and the wheel agree."""

from __future__ import annotations

import re
import zipfile
from dataclasses import replace
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder

import bcos_zoo
from bcos_zoo.hub import card
from bcos_zoo.outputs import Outputs
from bcos_zoo.weights import manifest

ROOT = Path(bcos_zoo.__file__).parents[1]
NOTICE = " ".join((ROOT / "NOTICE").read_text(encoding="utf-8").split())
TEXT = {"type": "string", "minLength": 1}
PACKAGED = [c for c in manifest.checkpoints() if c.file and isinstance(c.file.where, manifest.Packaged)]


def strict(**properties: Any) -> dict[str, Any]:
    """A JSON schema of an object that has these, and nothing else."""
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    (path,) = WheelBuilder(str(ROOT)).build(
        directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"]
    )
    return zipfile.ZipFile(path)


def test_the_wheel_carries_licence_notice_manifest_schema_templates_and_checkpoints(
    wheel: zipfile.ZipFile,
) -> None:
    names = wheel.namelist()
    for ending in (
        "licenses/LICENSE", "licenses/NOTICE", "bcos_zoo/weights_manifest.json",
        "bcos_zoo/weights/schema.json", "bcos_zoo/hub/card.md", "bcos_zoo/hub/conventional_card.md",
        "bcos_zoo/samples/chelsea.jpg", *(f"/{c.name}.safetensors" for c in PACKAGED),
    ):  # fmt: skip
        assert any(name.endswith(ending) for name in names), ending
    (licence,) = (name for name in names if name.endswith("licenses/LICENSE"))
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
    weights = [name for name in names if name.endswith((".safetensors", ".pth", ".ckpt"))]
    assert len(weights) == len(PACKAGED), "weights of which the manifest says nothing"


def test_the_metadata_names_every_licence_of_the_wheel(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    head = HeaderParser().parsestr(wheel.read(name).decode())
    said = set(head["License-Expression"].split(" AND "))
    identifiers = {c.licence.weights for c in PACKAGED if re.fullmatch(r"[\w.-]+", c.licence.weights or "")}
    in_words = {c.licence.weights for c in PACKAGED} - identifiers
    assert in_words, "then no LicenseRef is needed"
    assert said == {"Apache-2.0", "CC0-1.0", "LicenseRef-noncommercial-weights"} and identifiers <= said
    assert "LicenseRef-noncommercial-weights" in NOTICE
    assert head.get_all("License-File") == ["LICENSE", "NOTICE"]


@pytest.mark.parametrize("checkpoint", PACKAGED, ids=lambda c: c.name)
def test_the_notice_says_of_each_packaged_checkpoint_what_the_manifest_says(checkpoint: Any) -> None:
    _, _, rest = NOTICE.partition(f"bcos_zoo/weights/checkpoints/{checkpoint.name}.safetensors ")
    images = checkpoint.training_images
    wanted = (
        f"Trained by bcos_zoo. Weights: {checkpoint.licence.weights} Images: {images.name}. {images.terms}"
    )
    assert rest.startswith(wanted)


def test_every_record_names_the_images_or_says_that_they_are_unknown() -> None:
    for checkpoint in manifest.checkpoints():
        images = checkpoint.training_images
        assert images.name is not None or images.terms is None, "terms of what?"
        if checkpoint.classes.labels == "imagenet-1k":
            assert str(images.name).startswith("ImageNet-1k") and "non-commercial" in str(images.terms)


def test_info_shows_images_and_terms_and_unknown_ones_as_unknown(run: Any) -> None:
    code, out, _ = run("info", "bcos_resnet18_w32.imagenette")
    assert code == 0
    lines = {word: value for word, value in re.findall(r"^  (\S.*?)  +(\S.*)$", out, re.MULTILINE)}
    images = manifest.get("bcos_resnet18_w32.imagenette").training_images
    assert (lines["trained on"], lines["terms of the images"]) == (images.name, images.terms)
    code, out, _ = run("info", "bcos_resnet50_clip.bcosified_cc3m")
    assert (
        code == 0
        and re.search(r"trained on +CC3M\n", out)
        and re.search(r"terms of the images +unknown\n", out)
    )


def test_the_card_shows_images_and_terms_and_unknown_ones_as_unknown() -> None:
    record = manifest.get("bcos_resnet20.cifar10")
    model = bcos_zoo.create_model(record.name)
    outputs = Outputs.of(manifest.class_names(record))
    facts = card.Facts(model, "a/b", "0", outputs, record, None, None, 32, True, None, "no reason")
    made = card.make(facts)
    assert "- Images it was trained on: CIFAR-10\n" in made.text
    assert f"- Terms of these images: {record.training_images.terms}\n" in made.text
    assert made.data.datasets == ["cifar10"]
    unknown = replace(record, training_images=manifest.TrainingImages(None, None))
    made = card.make(replace(facts, record=unknown))
    assert made.text.count("unknown to bcos_zoo; ask who made them") == 2 and not made.data.datasets


def test_the_citation_has_what_the_format_asks_for_and_nothing_else() -> None:
    """Of the Citation File Format 1.2.0 what this file uses (cffconvert wants an older jsonschema)."""
    author = {"anyOf": [strict(name=TEXT), strict(**{"family-names": TEXT, "given-names": TEXT})]}
    authors = {"type": "array", "minItems": 1, "items": author}
    work = strict(type={"const": "article"}, title=TEXT, authors=authors, year={"type": "integer"}, url=TEXT)
    asked = dict(title=TEXT, message=TEXT, abstract=TEXT, authors=authors)
    asked |= {
        "cff-version": {"const": "1.2.0"},
        "type": {"const": "software"},
        "license": {"const": "Apache-2.0"},
    }
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    schema = strict(**asked, references={"type": "array", "items": work})
    jsonschema.validate(yaml.safe_load(text), schema, jsonschema.Draft202012Validator)
    for paper in ("2205.10268", "2306.10898"):
        assert f"https://arxiv.org/abs/{paper}" in text and paper in card.TEMPLATE.read_text()


def test_the_versions_that_are_supported_are_those_of_the_package(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    head = HeaderParser().parsestr(wheel.read(name).decode())
    least = {"Python": head["Requires-Python"].removeprefix(">=")}
    for requirement in head.get_all("Requires-Dist", []):
        if found := re.match(r"(torch|timm)\b.*?>=([\d.]+)", requirement):
            least[found[1]] = found[2]
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert set(least) == {"Python", "torch", "timm"}
    for package, version in least.items():
        assert f"{package} {version} or later" in text
