"""Every published file would fit: its tensors' names, shapes, dtypes and order are those of our networks.

`published_layouts.json` has the fingerprint of what each file holds, as it follows from the official code:
the number of tensors, and the sha256 of the compact JSON of the list of [name, shape, dtype].
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import timm
from published import published_names

from bcos_zoo.weights import manifest

PUBLISHED = json.loads(Path(__file__).with_name("published_layouts.json").read_text(encoding="utf-8"))


def test_every_checkpoint_but_our_own_is_covered():
    records = manifest.checkpoints()
    others = [record.name for record in records if record.origin.project != "trained by bcos_zoo"]
    assert sorted(PUBLISHED) == sorted(others)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_network_has_the_names_shapes_dtypes_and_order_of_the_published_file(name):
    state_dict = timm.create_model(name, device="meta").state_dict()
    names = published_names(state_dict, manifest.get(name).files[0].layout)
    entries = [
        [key, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in zip(names, state_dict.values(), strict=True)
    ]
    digest = hashlib.sha256(json.dumps(entries, separators=(",", ":")).encode()).hexdigest()
    assert {"keys": len(entries), "sha256": digest} == PUBLISHED[name]
