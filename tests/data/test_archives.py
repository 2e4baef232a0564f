"""Tasks from tars: of class folders, and webdataset's shards."""

import json

import pytest
import torch
from photographs import encoded, written
from sets import BROKEN, QUIET, noise, tarred

from bcos_zoo import InputError
from bcos_zoo.data import Augment, SeededBatchSampler, open_task, train_loader, train_transform


def file(number, kind="PNG"):
    return encoded(noise(number), format=kind)


def members(prefix, classes, first=0, kind="png"):
    return [
        (f"{prefix}{name}/{i}.{kind}", file(first + 10 * c + i, kind))
        for c, name in enumerate(classes)
        for i in range(5)
    ]


def test_a_tar_of_class_folders_is_split_by_seed(tmp_path):
    path = tarred(tmp_path / "set.tar", [*members("", ["b", "a"]), ("readme.txt", b"x"), ("a/._0.png", b"y")])
    task = open_task(path, **QUIET)
    assert task.class_names == ("a", "b") and (len(task.train), len(task.val)) == (8, 2)
    for i in range(8):
        _, name, number = task.train.name(i).removesuffix(".png").rsplit("/", 2)
        assert task.class_names[task.train.labels[i]] == name
        assert task.train.load(i).tobytes() == noise(10 * (name == "a") + int(number)).tobytes()


@pytest.mark.parametrize("prefix", ["", "set/", "./"])
def test_folders_above_those_of_the_classes_are_splits(tmp_path, prefix):
    files = [
        *members(f"{prefix}train/", "ab"),
        *members(f"{prefix}val/", "ab", 50),
        *members(f"{prefix}more/", "ab", 90),
    ]
    task = open_task(tarred(tmp_path / "set.tar", files), **QUIET)
    assert (len(task.train), len(task.val)) == (10, 10)
    assert task.val.load(0).tobytes() == noise(50).tobytes()
    with pytest.raises(InputError, match="folds=2 cannot be made"):
        open_task(tmp_path / "set.tar", folds=2, **QUIET)


def test_a_tar_in_a_tar_is_read(tmp_path):
    inner = tarred(tmp_path / "a.tar", [(f"a/{i}.png", file(i)) for i in range(4)]).read_bytes()
    outer = tarred(tmp_path / "set.tar", [("x.txt", b"1" * 700), ("a.tar", inner), *members("", "b")])
    task = open_task(outer, **QUIET)
    assert task.class_names == ("a", "b") and len(task.train) == 7
    assert any(task.train.load(i).tobytes() == noise(2).tobytes() for i in range(7))


def test_every_format_that_pillow_reads_is_found_in_a_tar(tmp_path):
    task = open_task(tarred(tmp_path / "set.tar", members("", "ab", kind="webp")), **QUIET)
    assert len(task.train) + len(task.val) == 10


def test_broken_images_in_a_tar_are_listed(tmp_path):
    files = members("", "ab") + [(f"a/{name}", data) for name, data in BROKEN.items()]
    task = open_task(tarred(tmp_path / "set.tar", files), bad_share=0.9, **QUIET)
    assert {line.split(": ")[0] for line in task.unreadable} == {f"{tmp_path}/set.tar/a/{n}" for n in BROKEN}


def test_workers_read_a_tar_as_one_process_does(tmp_path):
    """Workers that share an open file would share its position."""
    task = open_task(tarred(tmp_path / "set.tar", members("", "abcdef")), **QUIET)
    card = {"input_size": (3, 8, 8), "interpolation": "bilinear", "crop_pct": 1.0}
    transform = train_transform(card | {"mean": (0.0,) * 3, "std": (1.0,) * 3}, Augment())
    batches = []
    for workers in (0, 2):
        order = SeededBatchSampler(len(task.train), 2, seed=1)
        batches.append(list(train_loader(task.train, transform, order, seed=1, workers=workers)))
    assert all(torch.equal(a.images, b.images) for a, b in zip(*batches, strict=True))


@pytest.mark.parametrize("cut", [0, 300, 2000])
def test_a_broken_tar_is_refused(tmp_path, cut):
    path = tarred(tmp_path / "set.tar", members("", "ab"))
    written(path, path.read_bytes()[:cut])
    with pytest.raises(InputError, match="no(t a complete tar archive of images| image in this tar)"):
        open_task(path, **QUIET)


def test_a_tar_without_images_or_folders_is_refused(tmp_path):
    with pytest.raises(InputError, match="no(t a complete tar archive of images| image in this tar)"):
        open_task(tarred(tmp_path / "none.tar", [("a.txt", b"x")]), **QUIET)
    with pytest.raises(InputError, match="a.png is in no folder; put the images of each class into one"):
        open_task(tarred(tmp_path / "flat.tar", [("a.png", file(1))]), **QUIET)


def shards(root, splits, label="cls", info=True):
    """Shards of four samples each, half of class 0, half of class 1; an _info.json of the splits."""
    root.mkdir(exist_ok=True)
    listed, number = {}, 0
    for split, count in splits.items():
        names = [f"x-{split}-{i:03d}.tar" for i in range(count)]
        for name in names:
            files = []
            for i in range(4):
                key = f"{number:05d}"
                target = (
                    str(i % 2).encode() if label == "cls" else json.dumps({"label": "ab"[i % 2]}).encode()
                )
                files += [
                    (f"{key}.{label}", target),
                    (f"{key}.png", file(number)),
                    (f"{key}.txt", b"a caption"),
                ]
                number += 1
            tarred(root / name, files)
        lengths = [4] * count
        listed[split] = {
            "name": split,
            "num_samples": 4 * count,
            "filenames": names,
            "shard_lengths": lengths,
        }
    if info:
        (root / "_info.json").write_text(json.dumps({"splits": listed}))
    return f"wds/{root}"


def test_shards_are_read_at_any_place(tmp_path):
    task = open_task(shards(tmp_path / "s", {"train": 3, "validation": 1}), **QUIET)
    assert task.class_names == ("0", "1") and not task.multilabel
    assert task.train.labels.tolist() == [0, 1] * 6 and len(task.val) == 4
    for i in (11, 0, 5):
        assert task.train.load(i).tobytes() == noise(i).tobytes()
    assert task.val.load(1).tobytes() == noise(13).tobytes()
    assert task.train.name(5) == f"{tmp_path}/s/x-train-001.tar/00005.png"


def test_shards_named_by_a_pattern_are_split_by_seed(tmp_path):
    source = shards(tmp_path / "s", {"all": 3}, info=False)
    task = open_task(source, train_split="x-all-{000..002}.tar", **QUIET)
    assert (len(task.train), len(task.val)) == (10, 2)


def test_labels_of_shards_may_be_in_json_and_names_in_a_file(tmp_path):
    assert open_task(shards(tmp_path / "s", {"train": 2}, "json"), **QUIET).class_names == ("a", "b")
    source = shards(tmp_path / "t", {"train": 2})
    (tmp_path / "t" / "classnames.txt").write_text("emu\nibis\n")
    assert open_task(source, **QUIET).class_names == ("emu", "ibis")


def test_faults_of_shards_are_refused(tmp_path):
    source = shards(tmp_path / "s", {"train": 2})
    with pytest.raises(InputError, match="no split learn .*; name one of its _info.json, or shards, such as"):
        open_task(source, train_split="learn", **QUIET)
    shard = tmp_path / "s" / "x-train-001.tar"
    whole = shard.read_bytes()
    written(shard, whole[:900])
    with pytest.raises(InputError, match="x-train-001.tar: no whole tar"):
        open_task(source, **QUIET)
    tarred(shard, [("7.cls", b"1")])
    with pytest.raises(InputError, match="sample 7 has no image; remove it, or add one"):
        open_task(source, **QUIET)
    for target in ("cls", "json"):
        tarred(shard, [("7.png", file(1)), (f"7.{target}", b"one")])
        with pytest.raises(InputError, match="sample 7 has no label; give a number in a .cls, or label in"):
            open_task(source, **QUIET)
    shard.unlink()
    with pytest.raises(InputError, match="x-train-001.tar: no whole tar"):
        open_task(source, **QUIET)
