"""Tasks from Hugging Face data sets and torchvision's, all of them local."""

import struct

import numpy as np
import pytest
from photographs import encoded, written
from sets import QUIET, class_folders, noise

from bcos_zoo import InputError
from bcos_zoo.data import open_task

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()


def rows(labels, feature, first=0):
    pictures = [{"bytes": encoded(noise(first + i), format="PNG"), "path": None} for i in range(len(labels))]
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    return datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)


def parquet(root, **splits):
    root.mkdir()
    for split, one in splits.items():
        one.to_parquet(root / f"{split}.parquet")
    return f"hfds/{root}"


CLASSES = datasets.ClassLabel(names=["emu", "cat"])


@pytest.fixture
def opened(tmp_path):
    return lambda source, **options: open_task(source, root=str(tmp_path / "cache"), **QUIET, **options)


def test_class_labels_give_names_and_their_order(tmp_path, opened):
    source = parquet(tmp_path / "set", train=rows([0, 1] * 6, CLASSES), test=rows([1, 1, 0], CLASSES, 50))
    task = opened(source)
    assert task.class_names == ("emu", "cat") and not task.multilabel
    assert task.train.labels.tolist() == [0, 1] * 6 and task.val.labels.tolist() == [1, 1, 0]
    assert task.train.load(3).tobytes() == noise(3).tobytes()
    assert task.val.load(2).tobytes() == noise(52).tobytes()
    assert task.val.name(2) == f"{source} test, row 2"


def test_a_set_of_one_split_is_divided_by_seed(tmp_path, opened):
    source = parquet(tmp_path / "set", train=rows([0, 1] * 10, CLASSES))
    assert len(opened(source, val_share=0.3).val) == 6
    assert len(opened(source, folds=5, fold=1).val) == 4


def test_a_folder_of_images_is_a_data_set_too(tmp_path, opened):
    class_folders(tmp_path / "set" / "train", {"a": 4, "b": 5})
    class_folders(tmp_path / "set" / "validation", {"a": 2, "b": 1}, first=50)
    task = opened(f"hfds/{tmp_path}/set")
    assert task.class_names == ("a", "b") and task.class_counts().tolist() == [4, 5] and len(task.val) == 3


@pytest.mark.parametrize(
    "labels, feature", [("words", datasets.Value("string")), ("numbers", datasets.Value("int64"))]
)
def test_labels_without_a_list_of_classes_make_one(tmp_path, opened, labels, feature):
    values = ["dog", "cat"] if labels == "words" else [7, 3]
    task = opened(
        parquet(tmp_path / "set", train=rows(values * 6, feature), validation=rows(values, feature))
    )
    assert task.class_names == tuple(sorted(map(str, values)))
    assert task.val.labels.tolist() == [1, 0]


def test_lists_of_labels_make_a_task_of_several(tmp_path, opened):
    feature = datasets.List(CLASSES)
    task = opened(parquet(tmp_path / "set", train=rows([[0], [0, 1], [1], []] * 5, feature)))
    assert task.multilabel and task.class_names == ("emu", "cat")
    assert task.train.labels.shape[1] == 2 and len(task.train) + len(task.val) == 20


def test_other_columns_are_given_by_name(tmp_path, opened):
    one = rows([0, 1] * 6, CLASSES).rename_columns({"image": "photo", "label": "kind"})
    task = opened(parquet(tmp_path / "set", train=one), image_key="photo", label_key="kind")
    assert task.class_names == ("emu", "cat")


def test_columns_of_0_and_1_make_a_task_of_several(tmp_path, opened):
    one = rows([0, 1] * 6, CLASSES).add_column("wet", [0, 0, 1] * 4).add_column("striped", [1, 0] * 6)
    task = opened(parquet(tmp_path / "set", train=one), label_key="wet,striped")
    assert task.multilabel and task.class_names == ("wet", "striped")


def test_broken_rows_are_left_out_and_listed(tmp_path, opened):
    class_folders(tmp_path / "set" / "train", {"a": 9, "b": 9})
    written(tmp_path / "set" / "train" / "a" / "x.png", b"nothing")
    task = opened(f"hfds/{tmp_path}/set", bad_share=0.1)
    assert len(task.unreadable) == 1 and "row 9: is not an image" in task.unreadable[0]
    (tmp_path / "set" / "train" / "b" / "0.png").unlink()
    with pytest.raises(InputError, match="row 10' has no image .*No such file"):
        task.train.source.load(10)


def test_faults_of_hugging_face_sets_are_refused(tmp_path, opened):
    source = parquet(tmp_path / "set", train=rows([0, 1] * 6, CLASSES))
    for said, options in [
        ("no split learn in it; train_split must name one of train", {"train_split": "learn"}),
        ("no split exam in it; val_split must name one of train", {"val_split": "exam"}),
        ("cannot be opened .no images in column photo.; check name, splits, and the", {"image_key": "photo"}),
        ("cannot be opened .*kind", {"label_key": "kind"}),
    ]:
        with pytest.raises(InputError, match=said) as got:
            opened(source, **options)
        assert "\n" not in str(got.value)
    with pytest.raises(InputError, match="it cannot be opened"):
        opened(f"hfds/{tmp_path}/nothing")
    unlabelled = parquet(tmp_path / "u", train=rows([0, 1] * 6, CLASSES), validation=rows([-1, -1], CLASSES))
    with pytest.raises(InputError, match="row 0: label -1 is not in the training images"):
        opened(unlabelled)


def digits(root, split, count):
    """MNIST's own files, small."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = (np.arange(count) % 10).astype(np.uint8)
    written(raw / f"{split}-images-idx3-ubyte", struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes())
    written(raw / f"{split}-labels-idx1-ubyte", struct.pack(">II", 2049, count) + labels.tobytes())
    return pixels


def test_torchvision_sets_come_by_name(tmp_path):
    train, test = digits(tmp_path, "train", 40), digits(tmp_path, "t10k", 20)
    task = open_task("torch/mnist", root=str(tmp_path), **QUIET)
    assert len(task.class_names) == 10 and task.train.labels.tolist() == [i % 10 for i in range(40)]
    for samples, pixels in ((task.train, train), (task.val, test)):
        image = np.asarray(samples.load(7))
        assert image.shape == (28, 28, 3) and (image == pixels[7][:, :, None]).all()


def test_a_torchvision_set_without_a_validation_part_says_that_its_test_part_chooses(tmp_path):
    digits(tmp_path, "train", 40), digits(tmp_path, "t10k", 20)
    for options in ({}, {"val_split": "test"}):
        [note] = open_task("torch/mnist", root=str(tmp_path), **QUIET, **options).notes
        assert note == (
            "torch/mnist: train for training; test for validation; there is no other part to choose the best "
            "epoch by, so none is left for a final test"
        )
    task = open_task("torch/mnist", root=str(tmp_path), train_split="test", **QUIET)  # in tens, for a trial
    assert (len(task.train), len(task.val), task.drawn) == (10, 10, True)
    assert task.notes == ("torch/mnist: test for training; not used: train",)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"train_split": "trian"}, "no split trian in it; train_split must name one of train, test"),
        ({"val_split": "validaton"}, "no split validaton in it; val_split must name one of train, test"),
        ({"val_split": "validation"}, "no split validation in it; val_split must name one of train, test"),
        ({"val_split": "train"}, "split train is named for training and for validation, and what trains"),
    ],
)
def test_a_torchvision_split_that_is_not_there_is_not_another_one(tmp_path, options, message):
    digits(tmp_path, "train", 40), digits(tmp_path, "t10k", 20)
    with pytest.raises(InputError, match="torch/mnist: " + message):
        open_task("torch/mnist", root=str(tmp_path), **QUIET, **options)


def test_torchvisions_image_folder_comes_by_name(tmp_path):
    class_folders(tmp_path / "set" / "train", {"a": 4, "b": 5})
    task = open_task("torch/image_folder", root=str(tmp_path / "set" / "train"), **QUIET)
    assert len(task.train) + len(task.val) == 9
    class_folders(tmp_path / "set" / "val", {"a": 2, "b": 2})
    task = open_task("torch/image_folder", root=str(tmp_path / "set"), **QUIET)
    assert (len(task.train), len(task.val)) == (9, 4)


def test_torchvision_sets_that_are_not_there_are_refused(tmp_path):
    for name, root, said in [
        ("torch/cifar10", None, "torch/cifar10: give root, the folder that holds it"),
        (
            "torch/cifar10",
            tmp_path,
            "cannot be opened in .* .Dataset not found or corrupted",
        ),
        ("torch/cifar11", tmp_path, "torch/cifar11: no set of torchvision's that is known here; .* cifar100"),
    ]:
        with pytest.raises(InputError, match=said):
            open_task(name, root=root and str(root), **QUIET)


def test_a_set_without_labels_is_one_line(tmp_path, opened):
    (tmp_path / "flat").mkdir()
    for i in range(4):
        noise(i).save(tmp_path / "flat" / f"{i}.png")
    with pytest.raises(InputError, match="no labels in column label: there is no other column") as got:
        opened(f"hfds/{tmp_path}/flat")
    assert "\n" not in str(got.value)
    other = rows([0, 1] * 6, CLASSES).rename_column("label", "kind")
    with pytest.raises(InputError, match="no labels in column label: the others are kind"):
        opened(parquet(tmp_path / "set", train=other))
