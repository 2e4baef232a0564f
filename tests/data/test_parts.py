"""One rule for all sources: which part teaches, which validates, which waits for the end; and the classes."""

import numpy as np
import pytest
from photographs import encoded
from sets import QUIET, noise, tarred

from bcos_zoo import InputError
from bcos_zoo.data import open_task, parts

CONTENT = encoded(noise(0), format="PNG")


def as_folder(place, names):
    for i, name in enumerate(names):
        file = place / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(noise(i), format="PNG"))
    return place / "set"


def as_tar(place, names):
    place.mkdir(parents=True, exist_ok=True)
    return tarred(
        place / "set.tar", [(name, encoded(noise(i), format="PNG")) for i, name in enumerate(names)]
    )


def as_image_folder(place, names):
    return "torch/image_folder", {"root": str(as_folder(place, names))}


KINDS = pytest.mark.parametrize("kind", [as_folder, as_tar, as_image_folder])


def opened(kind, place, names, **options):
    source = kind(place, names)
    source, more = source if isinstance(source, tuple) else (source, {})
    return open_task(source, **({"log": lambda line: None} | QUIET | more | options))


def tree(*folders, each=4):
    return [f"{folder}/{i}.png" for folder in folders for i in range(each)]


def ends(samples, root=""):
    """The names of images, from the part on."""
    if samples is None:
        return None
    return sorted(
        samples.name(i).partition("/set")[2].removeprefix(".tar").lstrip("/") for i in range(len(samples))
    )


@KINDS
@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "training"])
@pytest.mark.parametrize("val", ["val", "Val", "valid", "VALIDATE", "validation", "Dev", "eval"])
def test_parts_are_known_by_name_whatever_its_case(tmp_path, kind, train, val):
    names = tree(*(f"{part}/{name}" for part in (train, val) for name in ("cat", "dog")))
    task = opened(kind, tmp_path, names)
    assert task.class_names == ("cat", "dog") and task.test is None and not task.drawn
    assert ends(task.train) == sorted(name for name in names if name.startswith(f"{train}/"))
    assert ends(task.val) == sorted(name for name in names if name.startswith(f"{val}/"))


@KINDS
@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train_set", "val_set", "test_set"),
        ("TrainSet", "ValidSet", "TestSet"),
        ("training-data", "validation-data", "testing-data"),
        ("train images", "dev images", "test images"),
        ("train_split", "val_split", "test_split"),
    ],
)
def test_parts_that_say_that_they_are_sets_are_known_too(tmp_path, kind, train, val, test):
    names = tree(*(f"{part}/{name}" for part in (train, val, test) for name in ("cat", "dog")))
    task = opened(kind, tmp_path, names)
    assert task.class_names == ("cat", "dog")
    for samples, part in ((task.train, train), (task.val, val), (task.test, test)):
        assert ends(samples) == sorted(name for name in names if name.startswith(f"{part}/"))


def test_classes_that_are_called_somewhat_like_parts_are_classes(tmp_path):
    names = tree("headset/a", "dataset/a", "set/a", "data/a", "trained/a", "contest_data/a")
    task = opened(as_folder, tmp_path, names)
    assert task.class_names == ("contest_data", "data", "dataset", "headset", "set", "trained")


@KINDS
@pytest.mark.parametrize("test", ["test", "Test", "testing", "hold-out"])
def test_a_test_part_is_left_for_the_end_unless_it_is_the_only_one(tmp_path, kind, test):
    names = tree(*(f"{part}/{name}" for part in ("train", "dev", test) for name in ("cat", "dog")))
    task = opened(kind, tmp_path / "three", names)
    assert ends(task.val) == sorted(name for name in names if name.startswith("dev/"))
    assert ends(task.test) == sorted(name for name in names if name.startswith(f"{test}/"))
    two = [name for name in names if not name.startswith("dev/")]
    task = opened(kind, tmp_path / "two", two)
    assert task.test is None and ends(task.val) == sorted(n for n in two if n.startswith(f"{test}/"))


def test_the_rows_of_a_table_follow_the_same_rule(tmp_path):
    for i in range(30):
        noise(i).save(tmp_path / f"{i}.png")
    part = ["Train"] * 14 + ["val"] * 8 + ["test"] * 8
    rows = [f"{i}.png,{'cat' if i % 2 else 'dog'},{part[i]}" for i in range(30)]
    (tmp_path / "set.csv").write_text("\n".join(["path,label,split", *rows]))
    task = open_task(tmp_path / "set.csv", **QUIET)
    numbers = [
        [int(one.name(i).rpartition("/")[2][:-4]) for i in range(len(one))] for one in (task.val, task.test)
    ]
    assert numbers == [list(range(14, 22)), list(range(22, 30))]
    (tmp_path / "set.csv").write_text("\n".join(["path,label,split", *rows[:14], *rows[22:]]))
    task = open_task(tmp_path / "set.csv", **QUIET)
    assert task.test is None and len(task.val) == 8


def test_the_splits_of_hugging_face_follow_the_same_rule(tmp_path):
    from test_named import CLASSES, parquet, rows

    source = parquet(
        tmp_path / "set",
        train=rows([0, 1] * 6, CLASSES),
        validation=rows([1, 0], CLASSES, 50),
        test=rows([1, 1, 0], CLASSES, 60),
    )
    task = open_task(source, root=str(tmp_path / "cache"), **QUIET)
    assert task.val.labels.tolist() == [1, 0] and task.test.labels.tolist() == [1, 1, 0]
    secret = parquet(
        tmp_path / "secret",
        train=rows([0, 1] * 6, CLASSES),
        validation=rows([1, 0], CLASSES, 50),
        test=rows([-1, -1], CLASSES, 60),
    )
    task = open_task(secret, root=str(tmp_path / "cache"), **QUIET)  # as ImageNet's test part
    assert task.test is None and any("test is not used" in line for line in task.notes)


def test_shards_follow_the_same_rule(tmp_path):
    from test_archives import shards

    task = open_task(shards(tmp_path / "s", {"training": 2, "dev": 1, "test": 1}), **QUIET)
    assert (len(task.train), len(task.val), len(task.test)) == (8, 4, 4)


def test_classes_are_never_the_parts(tmp_path):
    for names in (tree("Val/cat", "Val/dog", "Test/cat", "Test/dog"), tree("train", "test")):
        place = tmp_path / names[0][0]
        with pytest.raises(InputError, match="none of them a training part"):
            opened(as_folder, place, names)


@KINDS
def test_a_class_may_be_called_as_a_part_is(tmp_path, kind):
    task = opened(kind, tmp_path, tree("train", "bus", "ship"))
    assert task.class_names == ("bus", "ship", "train")


@KINDS
def test_a_class_is_the_first_folder_whatever_is_below(tmp_path, kind):
    names = tree("cat/indoor", "cat/outdoor", "dog/indoor", "dog/outdoor/far")
    task = opened(kind, tmp_path, names)
    assert task.class_names == ("cat", "dog")
    for samples in (task.train, task.val):
        for i in range(len(samples)):
            assert task.class_names[samples.labels[i]] == ends(samples.select([i]))[0].split("/")[0]


@KINDS
def test_a_folder_around_the_whole_set_is_no_class(tmp_path, kind):
    assert opened(kind, tmp_path / "a", tree("pets/cat", "pets/dog")).class_names == ("cat", "dog")
    names = tree("pets/v1/Train/cat", "pets/v1/Train/dog", "pets/v1/Val/cat", "pets/v1/Val/dog")
    task = opened(kind, tmp_path / "b", names)
    assert task.class_names == ("cat", "dog") and len(task.val) == 8 and not task.drawn


@KINDS
def test_what_is_hidden_is_no_class_and_no_image(tmp_path, kind):
    hidden = [
        "dog/.ipynb_checkpoints/x.png",
        ".git/0.png",
        "__MACOSX/cat/0.png",
        "cat/._0.png",
        "cat/@eaDir/0.png",
    ]
    task = opened(kind, tmp_path, tree("cat", "dog") + hidden)
    assert task.class_names == ("cat", "dog") and len(task.train) + len(task.val) == 8
    parted = tree("train/cat", "train/dog", "val/cat", "val/dog")
    hidden = ["train/.ipynb_checkpoints/x.png", "val/.ipynb_checkpoints/x.png", "val/__MACOSX/._x.png"]
    assert opened(kind, tmp_path / "b", parted + hidden).class_names == ("cat", "dog")


def test_hidden_folders_are_no_classes_of_what_is_evaluated(tmp_path):
    from bcos_zoo.data import list_folder

    root = as_folder(
        tmp_path, [*tree("cat", "dog"), "dog/__MACOSX/0.png", "__MACOSX/0.png", "cat/@eaDir/1.png"]
    )
    assert list_folder(root)[2] == ("cat", "dog") and len(list_folder(root)[0]) == 8


@KINDS
def test_classes_that_look_like_something_else_are_warned_of(tmp_path, kind):
    lines = []
    opened(kind, tmp_path / "a", tree("2023/cat", "2023/dog", "2024/cat", "2024/dog"), log=lines.append)
    [warning] = [line for line in lines if line.startswith("warning")]
    assert "(2023, 2024) hold the same folders (cat, dog); are these the classes?" in warning
    lines.clear()
    opened(kind, tmp_path / "b", tree("a/x", "a/y", "b/x", "b/y", "b"), log=lines.append)
    assert not [line for line in lines if line.startswith("warning")]


@KINDS
def test_it_is_said_what_validates_and_what_is_left_aside(tmp_path, kind):
    names = tree(
        *(f"{part}/{name}" for part in ("train", "Dev", "test", "extra", "val2") for name in ("a", "b"))
    )
    task = opened(kind, tmp_path, [*names, "train/loose.png"])
    [said, loose] = task.notes
    assert "train for training; Dev for validation; test for the final test; not used: extra, val2" in said
    assert "1 images are in no class folder, and not used, such as train/loose.png" in loose
    assert "8 for validation, 8 for the final test, 2 classes: a, b" in task.said()
    only = opened(kind, tmp_path / "b", tree("train/a", "train/b", "test/a", "test/b"))
    assert "none is left for a final test" in only.notes[0]
    assert "(held out of them)" in opened(kind, tmp_path / "c", tree("a", "b")).said()


@KINDS
@pytest.mark.parametrize("both", ["learn", "train"])
def test_one_part_is_not_for_training_and_for_validation(tmp_path, kind, both):
    names = tree(*(f"{part}/{name}" for part in (both, "val", "test") for name in ("a", "b")))
    with pytest.raises(InputError, match=f"{both} is named for training and for validation, and what trains"):
        opened(kind, tmp_path, names, train_split=both, val_split=both)
    with pytest.raises(InputError, match=f"{both} is named for training and for validation, and what trains"):
        opened(kind, tmp_path / "b", names, train_split=both.upper(), val_split=both)


@KINDS
def test_the_parts_of_a_set_agree_in_their_classes(tmp_path, kind):
    parted = tree("train/cat", "train/dog", "val/cat", "val/dog")
    with pytest.raises(InputError, match="emu in test and not in train"):
        opened(kind, tmp_path / "a", [*parted, *tree("test/cat", "test/emu")])
    task = opened(kind, tmp_path / "b", [*parted, *tree("test/images")])  # labels kept secret
    assert task.test is None and any("test is not used" in line for line in task.notes)
    assert len(opened(kind, tmp_path / "c", [*parted, *tree("test/cat")]).test) == 4  # fewer can be measured


def test_an_empty_class_is_refused_in_every_kind_of_source(tmp_path):
    import tarfile

    root = as_folder(tmp_path, tree("train/cat", "train/dog", "val/cat", "val/dog"))
    (root / "val" / "emu").mkdir()
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(root, ".")
    for source in (root, tmp_path / "set.tar"):
        with pytest.raises(InputError, match="val/emu' holds no image"):
            open_task(source, **QUIET)


def test_the_first_of_several_names_of_one_use_wins():
    chosen = parts.choose("x", ["eval", "Validation", "val", "train", "other"])
    assert chosen.named("val") == "val" and chosen.aside == ("eval", "Validation", "other")
    assert parts.choose("x", ["a", "b"]) is None
    assert parts.choose("x", ["Learn", "exam", "test"], "learn", "exam").uses == {
        "exam": "val", "Learn": "train", "test": "test",
    }  # fmt: skip


def test_a_split_depends_on_the_seed_of_the_data_alone(tmp_path):
    from bcos_zoo.training import recipe

    fields = {"model": {"name": "bcos_resnet20"}, "run": {"epochs": 1, "seed": 7}, "data": {"seed": 3}}
    made = recipe.parse(fields, where="x")
    assert (made.run.seed, made.data.seed) == (7, 3)
    root = as_folder(tmp_path, tree("cat", "dog", each=20))
    held = [ends(open_task(root, seed=seed, **QUIET).val) for seed in (3, 3, 4)]
    assert held[0] == held[1] != held[2]


def test_the_same_bytes_on_both_sides_are_warned_of(tmp_path):
    root = as_folder(tmp_path, tree("train/cat", "train/dog", "val/cat", "val/dog"))
    (root / "val" / "cat" / "0.png").write_bytes((root / "train" / "dog" / "1.png").read_bytes())
    task = open_task(root, **QUIET)
    assert [line for line in task.notes if "1 of 8 images of val are in train too, byte for byte" in line]
    assert np.intersect1d(*(task.scans[part].contents.numpy() for part in ("train", "val"))).size == 1


def test_the_same_bytes_in_validation_and_test_are_warned_of(tmp_path):
    root = as_folder(tmp_path, tree(*(f"{part}/{one}" for part in ("train", "val", "test") for one in "ab")))
    for i in range(2):
        (root / "test" / "a" / f"{i}.png").write_bytes((root / "val" / "b" / f"{i}.png").read_bytes())
    said = []
    task = open_task(root, threads=1, log=said.append)
    [warning] = [line for line in task.notes if line.startswith("warning")]
    assert "2 of 8 images of test are in val too, byte for byte, such as " in warning and warning in said
    assert "they helped to choose the epoch" in warning
    (root / "val" / "a" / "3.png").write_bytes((root / "train" / "b" / "3.png").read_bytes())
    (root / "test" / "b" / "3.png").write_bytes((root / "train" / "b" / "3.png").read_bytes())
    warned = [line.partition(" are in ") for line in open_task(root, **QUIET).notes if "byte for" in line]
    assert [(before.removeprefix("warning: "), after.split()[0]) for before, _, after in warned] == [
        ("1 of 8 images of val", "train"),
        ("1 of 8 images of test", "train"),
        ("3 of 8 images of test", "val"),
    ]
