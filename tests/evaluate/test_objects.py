"""Files of boxes and folders of masks: what is read, what is refused, and what the network sees of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bcos_zoo
from bcos_zoo import Classifier, InputError
from bcos_zoo.evaluate import Boxes, read_boxes, read_masks
from bcos_zoo.evaluate.objects import in_view
from bcos_zoo.metrics import energy_in_boxes, energy_in_mask
from bcos_zoo.weights.class_lists import class_list

ROWS = [("cat/1.png", 3, 5, 40, 60), ("cat/1.png", 50, 0, 90, 20.5), ("dog/2.png", 0, 0, 96, 64)]
CAT, DOG = 3, 5


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return bcos_zoo.load("bcos_resnet20.cifar10")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two photographs of 96x64 pixels, and one without boxes."""
    for name in ("cat/1.png", "dog/2.png", "dog/3.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.radial_gradient("L").convert("RGB").resize((96, 64)).save(path)
    return tmp_path / "data"


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def line(row: tuple[Any, ...], *more: str) -> str:
    return ",".join([*map(str, row), *more])


def coco(path: Path, **changes: Any) -> Path:
    names = ["cat/1.png", "dog/2.png"]
    document = {
        "images": [
            {"id": 7 + i, "file_name": name, "width": 96, "height": 64} for i, name in enumerate(names)
        ],
        "annotations": [
            {"image_id": 7 + names.index(name), "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            for name, x0, y0, x1, y1 in ROWS
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path.write_text(json.dumps(document | changes))
    return path


def edges(boxes: Boxes) -> dict[str, list[tuple[float, ...]]]:
    return {
        f"{path.parent.name}/{path.name}": [(box.x0, box.y0, box.x1, box.y1) for box in of]
        for path, of in boxes.of.items()
    }


def test_the_same_boxes_come_from_every_form_of_file(root: Path, tmp_path: Path) -> None:
    plain = written(tmp_path / "plain.csv", *map(line, ROWS))
    named = written(
        tmp_path / "named.csv",
        "Label, y0, x0, y1, x1, note, image",
        *(f"cat, {y0}, {x0}, {y1}, {x1}, seen, {name}" for name, x0, y0, x1, y1 in ROWS),
    )
    beside = written(tmp_path / "beside.csv", *(line((f"data/{row[0]}", *row[1:]), "dog") for row in ROWS))
    expected = {"cat/1.png": [(3, 5, 40, 60), (50, 0, 90, 20.5)], "dog/2.png": [(0, 0, 96, 64)]}
    for file, label in ((plain, None), (named, "cat"), (beside, "dog"), (coco(tmp_path / "c.json"), "cat")):
        boxes = read_boxes(file, root)
        assert edges(boxes) == expected
        assert {box.label for of in boxes.of.values() for box in of} == {label}
        assert boxes.labelled == (label is not None)


def test_images_elsewhere_have_no_place_among_the_boxes(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other.png").write_bytes((root / "cat/1.png").read_bytes())
    file = written(
        tmp_path / "b.csv", line(ROWS[0]), line(("other.png", 0, 0, 1, 1)), line(("no.png", 0, 0, 1, 1))
    )
    assert list(edges(read_boxes(file, root))) == ["cat/1.png"]


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "b.csv: no box is in it; give at least one"),
        (["image,x0,y0,x1"], "the first line names no column y1; needed are image, x0, y0, x1, y1"),
        (["cat/1.png,1,2,3"], "line 1: '1', '2', '3', '' are no four edges; allowed are x0, y0, x1, y1"),
        ([line(ROWS[0]), "cat/1.png,1,2,3,nan"], "line 2: '1', '2', '3', 'nan' are no four edges"),
        (["cat/1.png,1,2,1,5"], "line 1: the box 1,2,1,5 holds nothing; allowed are x0 < x1 and y0 < y1"),
        (
            [line(ROWS[0], "cat"), line(ROWS[1])],
            "1 boxes have no label though others have; label all or none",
        ),
        (
            ["bird/9.png,1,2,3,4"],
            "none of its 1 images is in .*, such as 'bird/9.png'; names are relative to",
        ),
    ],
)
def test_a_file_of_no_boxes_is_refused(root: Path, tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_boxes(written(tmp_path / "b.csv", *lines), root)


def test_json_that_is_not_cocos_is_refused(root: Path, tmp_path: Path) -> None:
    for changes, fault in (
        ({"annotations": [{"image_id": 9, "category_id": 1, "bbox": [0, 0, 1, 1]}]}, "KeyError: 9"),
        ({"annotations": [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 1]}]}, "ValueError: "),
        ({"images": None}, "TypeError: "),
    ):
        with pytest.raises(InputError, match=f"not as COCO has it .{fault}.*needed are images"):
            read_boxes(coco(tmp_path / "c.json", **changes), root)
    with pytest.raises(InputError, match="annotation 0: the box 5,0,5,1 holds nothing"):
        empty = [{"image_id": 7, "category_id": 1, "bbox": [5, 0, 0, 1]}]
        read_boxes(coco(tmp_path / "c.json", annotations=empty), root)
    with pytest.raises(InputError, match="cannot be read .* give boxes as CSV or COCO JSON"):
        read_boxes(tmp_path / "missing.csv", root)


def test_boxes_of_another_size_than_the_image_are_refused(
    classifier: Classifier, root: Path, tmp_path: Path
) -> None:
    far = read_boxes(written(tmp_path / "far.csv", "cat/1.png,0,0,98,10"), root)
    with pytest.raises(
        InputError, match="far.csv: the box 0,0,98,10 leaves .*1.png, of 96x64 pixels; boxes are"
    ):
        in_view(far, classifier, root / "cat/1.png", CAT)
    image = [{"id": 7, "file_name": "cat/1.png", "width": 64, "height": 96}]
    box = [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]}]
    turned = read_boxes(coco(tmp_path / "c.json", images=image, annotations=box), root)
    with pytest.raises(InputError, match="96x64 pixels, but c.json has its boxes for 64x96; give the image"):
        in_view(turned, classifier, root / "cat/1.png", CAT)


def test_of_several_boxes_those_of_the_class_count(
    classifier: Classifier, root: Path, tmp_path: Path
) -> None:
    labelled = read_boxes(written(tmp_path / "b.csv", line(ROWS[0], "cat"), line(ROWS[1], "dog")), root)
    plain = read_boxes(written(tmp_path / "p.csv", line(ROWS[0]), line(ROWS[1])), root)
    cat, dog = (in_view(labelled, classifier, root / "cat/1.png", c) for c in (CAT, DOG))
    both = in_view(plain, classifier, root / "cat/1.png", CAT)
    assert cat.any() and dog.any() and not torch.equal(cat, dog)
    assert torch.equal(cat | dog, both)
    assert labelled.pairs(classifier) == ([root / "cat/1.png"] * 2, [CAT, DOG])


def test_labels_that_are_no_class_are_left_out_unless_all_are(
    classifier: Classifier, root: Path, tmp_path: Path
) -> None:
    some = read_boxes(written(tmp_path / "b.csv", line(ROWS[0], "cat"), line(ROWS[2], "unicorn")), root)
    assert some.pairs(classifier) == ([root / "cat/1.png"], [CAT])
    none = read_boxes(written(tmp_path / "b.csv", line(ROWS[2], "unicorn")), root)
    with pytest.raises(InputError, match="none of its labels, such as 'unicorn', is a class of this network"):
        none.pairs(classifier)


def test_a_box_is_what_its_mask_is(classifier: Classifier, root: Path, tmp_path: Path) -> None:
    boxes = read_boxes(written(tmp_path / "b.csv", "cat/1.png,20,8,50,64"), root)
    mask = np.zeros((64, 96), np.uint8)
    mask[8:64, 20:50] = 7
    (tmp_path / "masks/cat").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "masks/cat/1.png")
    masks = read_masks(tmp_path / "masks", root)
    seen = in_view(boxes, classifier, root / "cat/1.png", CAT)
    assert torch.equal(in_view(masks, classifier, root / "cat/1.png", CAT), seen)
    # 96x64 becomes 48x32, of which columns 8 to 40 are seen: half as large, 8 to the left.
    values = torch.rand(32, 32)
    by_hand = energy_in_boxes(values, torch.tensor([20 / 2 - 8, 8 / 2, 50 / 2 - 8, 64 / 2]))
    assert float(energy_in_mask(values, seen)) == pytest.approx(float(by_hand))
    assert masks.has(root / "cat/1.png") and not masks.has(root / "dog/2.png")


def test_what_the_crop_pads_is_in_no_object(root: Path, tmp_path: Path) -> None:
    """However far the object reaches: points beside the picture, and some at its four edges."""
    (tmp_path / "masks/cat").mkdir(parents=True)
    Image.new("L", (96, 64), 1).save(tmp_path / "masks/cat/1.png")
    masks = read_masks(tmp_path / "masks", root)
    boxes = read_boxes(written(tmp_path / "b.csv", "cat/1.png,0,0,96,64"), root)
    columns = torch.tensor([-9, -0.5, 0, 50, 95.5, 96, 300]).double()
    rows = torch.tensor([-0.1, 0, 63.9, 64]).double()
    for objects in (masks, boxes):
        seen = objects.inside(root / "cat/1.png", "cat".__eq__, (96, 64), (columns, rows))
        assert seen.nonzero().tolist() == [[row, column] for row in (1, 2) for column in (2, 3, 4)]


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "RGBA", "LA"])
def test_masks_of_every_kind_say_the_same(
    classifier: Classifier, root: Path, tmp_path: Path, mode: str
) -> None:
    (tmp_path / "masks/cat").mkdir(parents=True)
    mask = Image.new(mode if mode != "P" else "L", (96, 64))
    if mode in ("RGBA", "LA"):
        mask.putalpha(255)  # which is no object
    white = {"RGB": (0, 0, 9), "RGBA": (0, 0, 9, 255), "LA": (9, 255)}.get(mode, 1)
    mask.paste(white, (20, 8, 50, 64))
    if mode == "P":
        mask.putpalette([255, 255, 255, 0, 0, 0])  # the first entry is white, and still zero
    mask.save(tmp_path / "masks/cat/1.png")
    got = in_view(read_masks(tmp_path / "masks", root), classifier, root / "cat/1.png", CAT)
    boxes = read_boxes(written(tmp_path / "b.csv", "cat/1.png,20,8,50,64"), root)
    assert torch.equal(got, in_view(boxes, classifier, root / "cat/1.png", CAT))


def test_a_mask_that_does_not_fit_is_refused(classifier: Classifier, root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="masks: no such folder; give one with a PNG for each image"):
        read_masks(tmp_path / "masks", root)
    (tmp_path / "masks/cat").mkdir(parents=True)
    Image.new("L", (64, 96)).save(tmp_path / "masks/cat/1.png")
    masks = read_masks(tmp_path / "masks", root)
    with pytest.raises(InputError, match="1.png: a mask of 64x96 pixels for an image of 96x64; give one of"):
        in_view(masks, classifier, root / "cat/1.png", CAT)
    (tmp_path / "masks/cat/1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="1.png: cannot be read as a mask .* give a whole PNG"):
        in_view(masks, classifier, root / "cat/1.png", CAT)


def test_a_photograph_that_was_turned_is_measured_upright(
    classifier: Classifier, root: Path, tmp_path: Path
) -> None:
    upright = Image.open(root / "cat/1.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(root / "dog/2.png", exif=exif)
    for name in ("cat/1.png", "dog/2.png"):
        shutil.copy(root / name, root / "dog/3.png")
        boxes = read_boxes(written(tmp_path / "b.csv", "dog/3.png,20,8,50,64"), root)
        seen = in_view(boxes, classifier, root / "dog/3.png", DOG)
        assert int(seen.sum()) == 15 * 28


def test_boxes_of_two_classes_of_one_name_are_told_apart_by_their_number(root: Path, tmp_path: Path) -> None:
    """Of ImageNet's cranes, the bird is class 134, n02012849, and the machine class 517, n03126707."""
    network = bcos_zoo.create_model("bcos_resnet20", num_classes=1000, layers=[1])
    classifier = Classifier(network, class_list("imagenet-1k"))
    named = read_boxes(written(tmp_path / "a.csv", line(ROWS[0], "crane"), line(ROWS[2], "goldfish")), root)
    with pytest.raises(InputError, match=r"a.csv: crane is the name of the classes \[134, 517\]; .* WordNet"):
        named.pairs(classifier)
    numbered = read_boxes(
        written(tmp_path / "b.csv", line(ROWS[0], "n03126707"), line(ROWS[1], "n02012849")), root
    )
    assert numbered.pairs(classifier) == ([root / "cat/1.png"] * 2, [134, 517])
    bird, machine = (in_view(numbered, classifier, root / "cat/1.png", c) for c in (134, 517))
    plain = [read_boxes(written(tmp_path / "p.csv", line(row)), root) for row in ROWS[:2]]
    expected = [in_view(one, classifier, root / "cat/1.png", 134) for one in plain]
    assert torch.equal(machine, expected[0]) and torch.equal(bird, expected[1])
    assert not in_view(numbered, classifier, root / "cat/1.png", 1).any()
