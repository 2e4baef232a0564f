"""The manifest against its schema, timm's transform and timm's card; manifests that do not fit."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import timm
import timm.data
from PIL import Image
from timm.models import PretrainedCfg
from torchvision.transforms import CenterCrop, Resize

import bcos_zoo
from bcos_zoo.errors import InputError, UnknownModelError
from bcos_zoo.layers import ConventionalSpec
from bcos_zoo.weights import manifest
from bcos_zoo.weights.manifest import Classes, HubFile, LocalFile, Packaged, Preprocessing, Url

ROOT = manifest.PACKAGE.parent
TEXT = (manifest.PACKAGE.parent / manifest.FILENAME).read_text(encoding="utf-8")
RAW = json.loads(TEXT)
SCHEMA = json.loads((manifest.HERE / "schema.json").read_text(encoding="utf-8"))
NAMES = list(RAW["checkpoints"])
HEAD = {"$schema": RAW["$schema"], "version": 1}
EMBEDDINGS = [name for name in NAMES if RAW["checkpoints"][name]["classes"]["labels"] is None]


def preprocessing(side: int, resize: int) -> Preprocessing:
    return Preprocessing((3, side, side), resize, "center", "bilinear", "rgb+inverse")


def eval_transform(card: dict):
    config = timm.data.resolve_data_config(pretrained_cfg=card)
    return timm.data.create_transform(**config, is_training=False)


def write(folder: Path, document: object) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def objects(schema: object):
    """Every sub-schema of an object with named properties."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and "type" in schema:
            yield schema
        schema = list(schema.values())
    for part in schema if isinstance(schema, list) else []:
        yield from objects(part)


def test_the_manifest_fits_its_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(RAW, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_every_object_of_the_schema_refuses_other_keys_and_requires_its_own():
    found = list(objects(SCHEMA))
    assert len(found) > 10
    for part in found:
        assert part["additionalProperties"] is False
        optional = {"init"} if "epochs" in part["properties"] else set()
        assert set(part["required"]) == set(part["properties"]) - optional


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record.update(extra=1),
        lambda record: record.pop("licence"),
        lambda record: record["files"][0].update(sha256="68b4160fff"),
        lambda record: record["files"][0]["where"].update(url="ftp://example.org/w.pth"),
        lambda record: record["files"][0].update(where={"repo": "a/b", "revision": "main", "filename": "c"}),
        lambda record: record["preprocessing"].update(input_size=[6, 224, 224]),
        lambda record: record["metrics"][0].update(kind="measured"),
        lambda record: record["metrics"][0].update(value=None),
    ],
)
def test_the_schema_refuses_a_record_that_says_too_much_too_little_or_something_vague(spoil):
    document = json.loads(json.dumps(RAW))
    spoil(document["checkpoints"][NAMES[0]])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_the_file_is_indented_by_two_as_a_hand_would():
    assert TEXT == json.dumps(RAW, indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_record_says_what_the_file_says(name):
    record, raw = manifest.get(name), RAW["checkpoints"][name]
    as_json = json.loads(json.dumps(dataclasses.asdict(record)))
    assert as_json.pop("name") == name
    assert as_json == raw
    assert name == f"{record.architecture}.{record.tag}"
    assert hash(record) == hash(manifest.load()[name])


def test_no_name_stands_twice_and_each_is_of_an_architecture():
    def unique(pairs):
        keys = [key for key, _ in pairs]
        assert len(set(keys)) == len(keys)
        return dict(pairs)

    json.loads(TEXT, object_pairs_hook=unique)
    assert {record.architecture for record in manifest.checkpoints()} <= set(bcos_zoo.list_models())


def test_every_published_checkpoint_is_there_once():
    published = [record for record in manifest.checkpoints() if record.origin.url]
    projects = Counter(record.origin.project for record in published)
    assert projects == {"B-cos-v2": 34, "B-cos": 12, "B-cosification": 14}
    urls = Counter(f.where.url for record in published for f in record.files if isinstance(f.where, Url))
    assert set(urls.values()) == {1}
    assert len(urls) == 34 + 12  # of the files of the B-cosified networks no address is published


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_as_its_record_says(name):
    record = manifest.get(name)
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == record.params
    assert model.num_classes == record.classes.count
    made = vars(model) | vars(model.spec)
    assert {key: made.get(key, value) for key, value in record.arguments.items()} == record.arguments
    assert not any(isinstance(value, list) for value in record.arguments.values())
    channels = {"rgb": 3, "rgb+inverse": 6}[record.preprocessing.encoding]
    assert model.spec.encoded_channels(3) == channels
    assert (record.explanation is None) == isinstance(model.spec, ConventionalSpec)


@pytest.mark.parametrize("name", NAMES)
def test_the_published_prefix_of_a_hash_is_the_one_in_the_file_name(name):
    for file in manifest.get(name).files:
        if isinstance(file.where, Url) and file.sha256_prefix:
            assert Path(file.where.url).stem.endswith(f"-{file.sha256_prefix}")
            assert file.digest.startswith(file.sha256_prefix)


def test_the_records_are_read_once_and_cannot_be_changed():
    assert manifest.load() is manifest.load()
    with pytest.raises(TypeError):
        manifest.load()["bcos_new.tag"] = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.get(NAMES[0]).params = 0


def test_checkpoints_of_an_architecture_stand_together_and_come_in_the_order_of_the_file():
    architectures = dict.fromkeys(c.architecture for c in manifest.checkpoints())
    assert [c.name for one in architectures for c in manifest.checkpoints(one)] == NAMES
    tags = [c.tag for c in manifest.checkpoints("bcos_resnet50")]
    assert tags == ["v2_in1k", "v2_long_in1k", "bcosified_in1k", "bcosified_tv1_in1k"]
    assert manifest.checkpoints("bcos_nothing") == ()


def test_an_unknown_name_names_the_closest():
    with pytest.raises(UnknownModelError, match=r"'bcos_resnet5O\.v2_in1k'; closest: bcos_resnet50\.v2_in1k"):
        manifest.get("bcos_resnet5O.v2_in1k")
    with pytest.raises(UnknownModelError, match="closest: bcos_resnet152.v2_in1k, bcos_resnet152.v2_long"):
        manifest.get("bcos_resnet152")
    with pytest.raises(UnknownModelError, match="closest: none. `bcos-zoo list --pretrained` shows all"):
        manifest.get("?")


@pytest.mark.parametrize("name", NAMES)
def test_timm_takes_the_card_and_finds_a_place_in_it_if_there_is_one(name):
    record = manifest.get(name)
    card = manifest.timm_card(record)
    cfg = PretrainedCfg(**card)
    assert bool(cfg.has_weights) == any(file.where for file in record.files)
    assert cfg.first_conv is None
    assert (cfg.mean, cfg.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert cfg.num_classes == record.classes.count
    assert not card.keys() & {"first_conv", "classifier"}


def test_the_card_names_the_place_in_the_way_of_each_kind():
    record = manifest.get("bcos_resnet20.cifar10")
    card = manifest.timm_card(record)
    assert card["file"] == str(manifest.HERE / "checkpoints" / "bcos_resnet20.cifar10.safetensors")
    assert card["label_names"][3] == "cat" and card["license"] == "apache-2.0"

    published = manifest.timm_card(manifest.get("bcos_resnet50.v2_in1k"))
    assert published["url"].endswith("/resnet_50-ead259efe4.pth")
    assert published["paper_ids"] == "arXiv:2306.10898"
    assert "license" not in published and "label_names" not in published

    def placed(where):
        file = dataclasses.replace(record.files[0], where=where)
        return manifest.timm_card(dataclasses.replace(record, files=(file,)))

    hub = placed(HubFile("someone/net", "0" * 40, "model.safetensors"))
    assert (hub["hf_hub_id"], hub["hf_hub_filename"]) == (f"someone/net@{'0' * 40}", "model.safetensors")
    assert not placed(None).keys() & {"url", "file", "hf_hub_id"}
    assert isinstance(record.files[0].where, Packaged)


@pytest.mark.parametrize("side, resize", [(224, 256), (224, 232), (299, 320), (32, 32)])
def test_timms_own_transform_resizes_to_the_published_pixel(side, resize):
    record = dataclasses.replace(manifest.get(NAMES[0]), preprocessing=preprocessing(side, resize))
    transform = eval_transform(manifest.timm_card(record))
    resizes = [step for step in transform.transforms if isinstance(step, Resize)]
    assert [step.size for step in resizes] == [resize]
    noise = np.random.default_rng(0).integers(0, 256, (resize + 40, resize + 90, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    # As the publishers did it: torchvision, bilinear, on the image.
    small = CenterCrop(side)(Resize(resize)(image))
    expected = np.asarray(small, dtype=np.float32).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(transform(image).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_transform_of_each_card_is_the_records_preprocessing(name):
    pre = manifest.get(name).preprocessing
    steps = eval_transform(manifest.timm_card(manifest.get(name))).transforms
    assert [step.size for step in steps if isinstance(step, Resize)] == [pre.resize]
    assert [step.size for step in steps if isinstance(step, CenterCrop)] == [pre.input_size[1:]]
    assert [step.interpolation.value for step in steps if isinstance(step, Resize)] == [pre.interpolation]


def test_a_crop_pct_is_found_for_any_pair_of_sizes_and_is_short():
    draw = random.Random(0)
    for _ in range(2000):
        side = draw.randint(8, 1024)
        resize = side + draw.randint(0, 256)
        pct = manifest._crop_pct(side, resize)
        assert math.floor(side / pct) == resize
        assert len(str(pct)) <= 8


def test_sizes_that_no_crop_pct_gives_are_refused():
    with pytest.raises(InputError, match="no crop_pct resizes to .* give sizes of images"):
        manifest._crop_pct(1, 10**17)


def test_class_names_follow_the_logits():
    names = manifest.class_names(manifest.get("bcos_resnet50.v2_in1k"))
    assert len(names) == 1000
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")
    cifar = "airplane automobile bird cat deer dog frog horse ship truck".split()
    assert manifest.class_names(manifest.get("bcos_resnet20.cifar10")) == tuple(cifar)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in EMBEDDINGS])
def test_there_are_as_many_names_as_classes(name):
    record = manifest.get(name)
    assert len(manifest.class_names(record)) == record.classes.count


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_an_embedding_has_no_names(name):
    assert "label_names" not in manifest.timm_card(manifest.get(name))
    with pytest.raises(InputError, match=f"outputs of {name} are an embedding, without names; .*num_classes"):
        manifest.class_names(manifest.get(name))


def test_an_unknown_list_of_classes_is_refused():
    record = dataclasses.replace(manifest.get(NAMES[0]), classes=Classes(3, "imagenet-3"))
    with pytest.raises(InputError, match="no list of classes named 'imagenet-3'; allowed: imagenet-1k"):
        manifest.class_names(record)


def test_another_manifest_can_be_read(tmp_path):
    raw = json.loads(json.dumps(RAW["checkpoints"][NAMES[0]]))
    raw["files"][0]["where"] = {"repo": "a/b", "revision": "0" * 40, "filename": "c.safetensors"}
    path = write(tmp_path, {**HEAD, "checkpoints": {"bcos_resnet18.mine": raw}})
    assert manifest.load(path)["bcos_resnet18.mine"].files[0].where == HubFile(
        "a/b", "0" * 40, "c.safetensors"
    )


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"checkpoints": []}'])
def test_a_file_that_is_no_manifest_is_refused(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"other\.json is not a manifest .*schema"):
        manifest.load(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="absent.json is not a manifest"):
        manifest.load(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record.update(surprise=1),
        lambda record: record.pop("files"),
        lambda record: record["training_images"].pop("terms"),
        lambda record: record["files"][0].update(where={"ftp": "x"}),
        lambda record: record.update(preprocessing=None),
    ],
)
def test_a_record_that_does_not_fit_is_named(tmp_path, spoil):
    raw = json.loads(json.dumps(RAW["checkpoints"][NAMES[0]]))
    spoil(raw)
    path = write(tmp_path, {**HEAD, "checkpoints": {"bcos_odd.tag": raw}})
    with pytest.raises(
        InputError, match="manifest.json is not a manifest .at checkpoints/bcos_odd.tag.*see "
    ):
        manifest.load(path)


def mine(folder: Path, **changes) -> Path:
    """A manifest with one record of one's own."""
    raw = json.loads(json.dumps(RAW["checkpoints"]["bcos_resnet20.cifar10"]))
    raw |= changes
    return write(folder, {**HEAD, "checkpoints": {"bcos_resnet20.mine": raw}})


def test_records_of_ones_own_stand_beside_ours(tmp_path, monkeypatch):
    file = RAW["checkpoints"]["bcos_resnet20.cifar10"]["files"][0]
    place = {"path": "weights/mine.safetensors"}
    monkeypatch.setenv(manifest.MORE, str(mine(tmp_path, files=[file | {"where": place}])))
    known = manifest.load()
    assert list(known) == [*NAMES, "bcos_resnet20.mine"]
    assert known["bcos_resnet20.mine"].files[0].where == LocalFile(tmp_path / "weights" / "mine.safetensors")


def test_a_name_that_is_not_its_architectures_is_refused(tmp_path):
    with pytest.raises(InputError, match="bcos_resnet20.mine is a record of bcos_vgg11; its name must"):
        manifest.load(mine(tmp_path, architecture="bcos_vgg11"))


@pytest.mark.parametrize(
    "where",
    [
        {"packaged": "checkpoints/../errors.py"},
        {"packaged": "/etc/passwd"},
        {"repo": "a/b", "revision": "0" * 40, "filename": "../c.safetensors"},
        {"repo": "a/b", "revision": "main", "filename": "c.safetensors"},
        {"repo": "../b", "revision": "0" * 40, "filename": "c.safetensors"},
    ],
)
def test_a_place_outside_its_folder_is_refused(tmp_path, where):
    file = RAW["checkpoints"]["bcos_resnet20.cifar10"]["files"][0]
    with pytest.raises(InputError, match="is not a manifest .at checkpoints/bcos_resnet20.mine/files/0"):
        manifest.load(mine(tmp_path, files=[file | {"where": where}]))


def test_a_file_that_is_no_manifest_is_one_line_of_the_command(tmp_path):
    path = tmp_path / "other.json"
    path.write_text("{}", encoding="utf-8")
    command = [sys.executable, "-m", "bcos_zoo", "info", "bcos_resnet20.cifar10"]
    run = subprocess.run(
        command, env=os.environ | {manifest.MORE: str(path)}, capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 2
    assert run.stderr.startswith(f"error: {path} is not a manifest") and run.stderr.count("\n") == 1


def test_our_own_urls_are_encrypted():
    places = [file.where for record in manifest.checkpoints() for file in record.files]
    assert all(place.url.startswith("https://") for place in places if isinstance(place, Url))
