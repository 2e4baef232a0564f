"""Groups of images: those of one patient, animal or video are on one side of every split."""

import numpy as np
import pytest
import torch
from sets import QUIET, noise

from bcos_zoo import InputError
from bcos_zoo.data import open_task, splits


def random_set(seed):
    """Labels, (M,) or (M, C), and groups, of sizes and classes of all kinds; of 12 groups a class or more."""
    draw = np.random.default_rng(seed)
    classes, kind = int(draw.integers(2, 6)), seed % 3
    count = classes * int(draw.integers(12, 20))
    sizes = draw.geometric(1 / draw.integers(1, 9), count)
    groups = np.repeat([f"patient {i}" for i in draw.permutation(count)], sizes).astype(object)
    if kind == 0:  # each group is of one class, as an animal is of its species
        labels = torch.from_numpy(np.repeat(np.arange(count) % classes, sizes))
    elif kind == 1:
        labels = torch.from_numpy(draw.integers(0, classes, len(groups)))
        labels[np.unique(groups.astype(str), return_index=True)[1]] = torch.arange(count) % classes
    else:
        labels = torch.from_numpy((draw.random((len(groups), classes)) < 0.5).astype(np.float32))
    mixed = draw.permutation(len(groups))
    return labels[mixed], groups[mixed], [f"class {i}" for i in range(classes)]


def check(sides, labels, groups, names):
    train, val = sides
    assert sorted(train + val) == list(range(len(groups)))
    assert not set(groups[train]) & set(groups[val])
    for index in range(len(names)):
        for side in (train, val):
            assert ((labels[side] == index) if labels.ndim == 1 else labels[side, index] > 0).any()


@pytest.mark.parametrize("seed", range(30))
def test_no_group_is_on_both_sides_and_every_class_is(seed):
    labels, groups, names = random_set(seed)
    for share in (0.1, 0.25, 0.5):
        sides = splits.held_out(labels, share, seed=seed, class_names=names, groups=groups)
        check(sides, labels, groups, names)
        largest = max(np.unique(groups.astype(str), return_counts=True)[1])
        assert abs(len(sides[1]) - share * len(groups)) <= max(largest, 0.1 * len(groups))
    held = []
    for fold in range(3):
        sides = splits.fold_of(labels, 3, fold, seed=seed, class_names=names, groups=groups)
        check(sides, labels, groups, names)
        held += sides[1]
    assert sorted(held) == list(range(len(groups)))


def test_groups_of_one_image_are_split_as_well_as_images_are():
    labels = torch.arange(200) % 4
    _, val = splits.held_out(
        labels, 0.25, seed=1, class_names=list("abcd"), groups=np.array([f"{i}" for i in range(200)], object)
    )
    assert torch.bincount(labels[val]).tolist() == [12, 12, 12, 12] or len(val) == 48


def test_the_shares_of_classes_are_about_those_of_scikit_learn():
    """One fold of five beside StratifiedGroupKFold's, by how far the classes' shares are from a fifth."""
    sklearn = pytest.importorskip("sklearn.model_selection")
    ours, theirs = [], []
    for seed in range(0, 30, 3):
        labels, groups, names = random_set(seed)
        total = torch.bincount(labels).float()
        _, val = splits.held_out(labels, 0.2, seed=seed, class_names=names, groups=groups)
        ours.append(float((torch.bincount(labels[val], minlength=len(names)) / total - 0.2).abs().mean()))
        folds = sklearn.StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for _, held in folds.split(np.zeros(len(labels)), labels.numpy(), groups):
            theirs.append(
                float((torch.bincount(labels[held], minlength=len(names)) / total - 0.2).abs().mean())
            )
    assert np.mean(ours) <= np.mean(theirs) + 0.01


def test_a_class_of_one_group_cannot_be_split():
    groups = np.array(["p1"] * 5 + ["p2"] * 5 + ["p3"] * 5, dtype=object)
    labels = torch.tensor([0] * 10 + [1] * 5)
    with pytest.raises(InputError, match="class 'dog' has 1 groups; a split for validation needs at least 2"):
        splits.held_out(labels, 0.2, seed=1, class_names=["cat", "dog"], groups=groups)
    with pytest.raises(InputError, match="class 'cat' has 2 groups; 3 folds need at least 3"):
        splits.fold_of(labels, 3, 0, seed=1, class_names=["cat", "dog"], groups=groups)


@pytest.fixture
def animals(tmp_path):
    """Six pictures of each of ten animals, five of a class, named after them."""
    for i in range(60):
        kind, animal = ("cat", "dog")[i // 6 % 2], i // 6
        (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
        noise(i).save(tmp_path / "set" / kind / f"animal{animal:02d}_{i % 6}.png")
    return tmp_path / "set"


def groups_in(samples):
    return {samples.name(i).rpartition("animal")[2][:2] for i in range(len(samples))}


@pytest.mark.parametrize("pattern", [r"animal(\d+)", r"(cat|dog)/animal(?P<group>\d+)", r"animal\d+"])
def test_groups_are_found_in_paths(animals, pattern):
    task = open_task(animals, group=pattern, **QUIET)
    assert len(groups_in(task.val)) == 2 and not groups_in(task.val) & groups_in(task.train)
    assert {task.val.group(i)[-2:] for i in range(len(task.val))} == groups_in(task.val)
    folds = [open_task(animals, group=pattern, folds=5, fold=fold, **QUIET) for fold in range(5)]
    assert sorted(g for task in folds for g in groups_in(task.val)) == [f"{i:02d}" for i in range(10)]


def test_groups_are_a_column_of_a_table_or_a_pattern_on_its_paths(animals):
    files = sorted(animals.rglob("*.png"))
    rows = [f"set/{p.parent.name}/{p.name},{p.parent.name},{p.name[6:8]}" for p in files]
    table = animals.parent / "set.csv"
    table.write_text("\n".join(["path,label,Patient", *rows]))
    for group in ("patient", r"animal(\d+)_"):
        task = open_task(table, group=group, **QUIET)
        assert not groups_in(task.val) & groups_in(task.train) and len(groups_in(task.val)) == 2
    ones = [
        f"{row.split(',')[0]},{int('cat' in row)},{int('dog' in row)},{row.split(',')[2]}" for row in rows
    ]
    table.write_text("\n".join(["path,cat,dog,patient", *ones]))
    task = open_task(table, group="patient", **QUIET)
    assert task.class_names == ("cat", "dog") and task.multilabel
    assert not groups_in(task.val) & groups_in(task.train)


def test_groups_are_a_column_of_a_hugging_face_set(tmp_path):
    from test_named import CLASSES, parquet, rows

    one = rows([0, 1] * 15, CLASSES).add_column("patient", [i // 3 for i in range(30)])
    task = open_task(parquet(tmp_path / "s", train=one), group="patient", root=str(tmp_path / "c"), **QUIET)
    assert not set(task.val.groups) & set(task.train.groups) and len(set(task.val.groups)) == 2


def test_groups_are_found_in_shards(tmp_path):
    from test_archives import shards

    source = shards(tmp_path / "s", {"train": 4})
    with pytest.raises(InputError, match="finds nothing in 16 of 16 paths"):
        open_task(source, group=r"patient(\d)", **QUIET)
    task = open_task(source, group=r"000(\d\d)", **QUIET)
    assert task.train.group(0) == "00"


@pytest.mark.parametrize(
    "group, said",
    [
        (r"patient(\d+)", "finds nothing in 60 of 60 paths, such as cat/animal00_0.png; give a pattern"),
        (r"cat/animal(\d+)", "finds nothing in 30 of 60 paths, such as dog/animal01_0.png"),
        (r"animal(\d+", "is no regular expression"),
        (r"(animal)", "has 1 groups; a split for validation needs at least 2"),
        (r"animal(x?)", "finds nothing in 60 of 60 paths"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(animals, group, said):
    with pytest.raises(InputError, match=said) as got:
        open_task(animals, group=group, **QUIET)
    assert "\n" not in str(got.value)


def test_columns_of_groups_that_do_not_fit_are_refused(animals):
    table = animals.parent / "set.csv"
    table.write_text("path,label,patient\nset/cat/animal00_0.png,cat,1\nset/dog/animal01_0.png,dog,\n")
    with pytest.raises(
        InputError, match="no column person; its columns are path, label, patient: name one of them"
    ):
        open_task(table, group="person", **QUIET)
    with pytest.raises(InputError, match="line 3: no patient; say which group"):
        open_task(table, group="patient", **QUIET)


def test_a_group_in_parts_that_a_set_came_with_is_refused(animals):
    for part in ("train", "val"):
        for kind in ("cat", "dog"):
            (animals.parent / "parts" / part / kind).mkdir(parents=True)
    for i, path in enumerate(sorted(animals.rglob("*.png"))):
        path.rename(
            animals.parent / "parts" / ("val" if i % 6 == 0 else "train") / path.parent.name / path.name
        )
    root = animals.parent / "parts"
    assert open_task(root, **QUIET).train.groups is None
    with pytest.raises(InputError, match="10 groups are in train and in val, such as '00'; move each"):
        open_task(root, group=r"animal(\d+)", **QUIET)
