"""Images without labels: every image below a folder, at any depth, and the classes of another network."""

from __future__ import annotations

from pathlib import Path

import pytest
from sets import QUIET, noise

from bcos_zoo.data import Task, open_task
from bcos_zoo.data.unlabelled import class_folders
from bcos_zoo.errors import InputError

CLASSES = ("tench", "church", "golf ball")


def loose(root: Path, *names: str) -> Path:
    """Pictures below root, each of another content."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise(i).save(root / name)
    return root


def opened(root: Path, **options: object) -> Task:
    return open_task(root, answers=CLASSES, **QUIET, **options)  # type: ignore[arg-type]


def names_of(part: object) -> set[str]:
    return {Path(part.name(i)).name for i in range(len(part))}  # type: ignore[attr-defined, arg-type]


def test_all_images_below_a_folder_are_found_at_any_depth(tmp_path: Path) -> None:
    files = [f"{i}.png" for i in range(6)] + ["a/6.png", "a/b/c/7.png", "d/8.png", "d/9.png"]
    task = opened(loose(tmp_path, *files, ".cache/10.png"))
    assert names_of(task.train) | names_of(task.val) == {f"{i}.png" for i in range(10)}
    assert len(task.val) == 2 and task.drawn  # a fifth
    assert task.class_names == CLASSES and not task.multilabel


def test_folders_named_like_parts_are_parts_and_the_test_part_is_not_used(tmp_path: Path) -> None:
    root = loose(tmp_path, "train/1.png", "train/x/2.png", "val/3.png", "test/4.png")
    task = opened(root)
    assert (names_of(task.train), names_of(task.val), task.test) == ({"1.png", "2.png"}, {"3.png"}, None)
    assert not task.drawn


def test_the_same_images_are_held_out_again_and_others_by_another_seed(tmp_path: Path) -> None:
    root = loose(tmp_path, *(f"{i}.png" for i in range(40)))
    held = [names_of(opened(root, seed=seed).val) for seed in (1, 1, 2)]
    assert held[0] == held[1] != held[2]


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    root = loose(tmp_path, *(f"p{i % 5}_{i}.png" for i in range(20)))
    task = opened(root, group=r"(p\d+)_")
    sides = [{name.partition("_")[0] for name in names_of(part)} for part in (task.train, task.val)]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("files", "said"),
    [([], "holds no image"), (["1.png"], "at least 2")],
    ids=["none", "one"],
)
def test_too_few_images_are_refused_in_one_line(tmp_path: Path, files: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        opened(loose(tmp_path, *files))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["torch/cifar10", "wds/http://x/y.tar", "there is none"])
def test_anything_but_a_folder_is_refused(source: str) -> None:
    with pytest.raises(InputError, match="without labels, give a folder"):
        open_task(source, answers=CLASSES, **QUIET)  # type: ignore[arg-type]


def test_what_may_be_class_folders_is_named(tmp_path: Path) -> None:
    assert class_folders(loose(tmp_path / "classes", "dog/2.png", "cat/1.png")) == ["cat", "dog"]
    assert class_folders(loose(tmp_path / "parts", "train/cat/1.png", "val/dog/2.png")) == ["cat", "dog"]
    assert class_folders(loose(tmp_path / "wrapped", "set/cat/1.png", "set/dog/2.png")) == ["cat", "dog"]
    assert class_folders(loose(tmp_path / "loose", "1.png", "2.png", ".hidden/3.png")) == []
    assert class_folders(loose(tmp_path / "loose parts", "train/1.png", "val/2.png")) == []
    assert class_folders(tmp_path / "nothing") == []
