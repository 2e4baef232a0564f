"""The head of a model card, as the Hub reads it."""

from dataclasses import replace

import pytest
import yaml

import bcos_zoo
from bcos_zoo.hub import card as modelcard
from bcos_zoo.outputs import Outputs
from bcos_zoo.weights import manifest


def facts_of(record: manifest.Checkpoint) -> modelcard.Facts:
    model = bcos_zoo.create_model(record.name)
    model.pretrained_from = record.name
    outputs = Outputs.of(manifest.class_names(record))
    return modelcard.Facts(model, "org/net", "0", outputs, record, None, None, 256, True, None, "no reason")


@pytest.mark.parametrize(
    "text, entries",
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC-BY-NC-4.0", {"license": "cc-by-nc-4.0"}),
        (None, {"license": "unknown"}),
        (
            "LicenseRef-MPI-noncommercial",
            {"license": "other", "license_name": "licenseref-mpi-noncommercial"},
        ),
        (
            "Non-commercial research only, as the photographs it was trained on.",
            {"license": "other", "license_name": "non-commercial-research-only"},
        ),
        ('Ask: "us" # first', {"license": "other", "license_name": "ask-us-first"}),
    ],
)
def test_a_licence_is_one_that_the_hub_knows_or_another_with_its_name(text, entries):
    record = manifest.get("bcos_resnet18_w32.imagenette")
    record = replace(record, licence=replace(record.licence, weights=text))
    card = modelcard.make(facts_of(record))
    head = yaml.safe_load(card.content.split("---")[1])  # a parser that is not the card's own
    got = {key: value for key, value in head.items() if key.startswith("license")}
    link = got.pop("license_link", None)
    assert got == entries
    assert (link is None) == (entries["license"] != "other")
    assert link is None or link.startswith("https://")


@pytest.mark.parametrize(
    "identifier", ["fair-noncommercial-research-license", "openmdw-1.0", "eupl-1.2", "gemma"]
)
def test_identifiers_that_the_hub_took_up_later_are_known(identifier):
    record = manifest.get("bcos_resnet18_w32.imagenette")
    record = replace(record, licence=replace(record.licence, weights=identifier.upper()))
    head = yaml.safe_load(modelcard.make(facts_of(record)).content.split("---")[1])
    assert head["license"] == identifier and "license_name" not in head
