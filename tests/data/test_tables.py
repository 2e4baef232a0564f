"""Tasks from a CSV: one label or several, checked line by line."""

import re

import pytest
import torch
from photographs import written
from sets import QUIET, noise

from bcos_zoo import InputError
from bcos_zoo.data import open_task

ANIMALS = ["cat", "dog"] * 10


@pytest.fixture
def table(tmp_path):
    """Writes a CSV beside 20 images in a sub-folder."""
    (tmp_path / "images").mkdir()
    for i in range(20):
        noise(i).save(tmp_path / "images" / f"{i}.png")

    def write(text, name="set.csv"):
        return written(tmp_path / name, text.encode())

    return write


def lines(head, row):
    return "\n".join([head, *[f"images/{i}.png,{row(i)}" for i in range(20)]]) + "\n"


def names(samples):
    return {int(samples.name(i).rsplit("/", 1)[1].removesuffix(".png")) for i in range(len(samples))}


def test_a_label_for_each_path(table):
    task = open_task(table(lines("path,label", lambda i: ANIMALS[i])), val_share=0.2, **QUIET)
    assert task.class_names == ("cat", "dog") and not task.multilabel
    assert len(task.train) == 16 and len(task.val) == 4
    for samples in (task.train, task.val):
        for i in range(len(samples)):
            number = int(samples.name(i).rsplit("/", 1)[1].removesuffix(".png"))
            assert samples.labels[i] == number % 2
            assert samples.load(i).tobytes() == noise(number).tobytes()


def test_a_column_of_splits(table):
    split = ["train"] * 14 + ["val", "valid", "validation", "dev", "Val", "VAL"]
    task = open_task(table(lines("path,label,split", lambda i: f"{ANIMALS[i]},{split[i]}")), **QUIET)
    assert names(task.train) == set(range(14)) and names(task.val) == set(range(14, 20))
    assert task.test is None


@pytest.mark.parametrize("between", ["|", ";", " | "])
def test_several_labels_with_a_line_between_them(table, between):
    labels = [["cat"], ["dog", "cat"], ["dog", "emu"], []]
    task = open_task(table(lines("file,labels", lambda i: between.join(labels[i % 4]))), **QUIET)
    assert task.class_names == ("cat", "dog", "emu") and task.multilabel
    assert task.train.labels.dtype == torch.float32
    assert (task.class_counts() + (task.val.labels > 0).sum(0)).tolist() == [10, 10, 5]
    for i in range(len(task.train)):
        number = int(task.train.name(i).rsplit("/", 1)[1].removesuffix(".png"))
        here = {name for name, on in zip(task.class_names, task.train.labels[i], strict=True) if on}
        assert here == set(labels[number % 4])
    assert task.draw_weights().shape == (len(task.train),) and bool((task.draw_weights() > 0).all())


def test_a_column_of_0_and_1_for_each_class(table):
    text = lines(
        "path,striped,wet,split", lambda i: f"{i % 2},{int(i % 3 == 0)},{'val' if i > 14 else 'train'}"
    )
    task = open_task(table(text), **QUIET)
    assert task.class_names == ("striped", "wet") and task.multilabel
    assert task.val.labels.tolist() == [[i % 2, int(i % 3 == 0)] for i in range(15, 20)]


def test_one_column_of_0_and_1_is_a_task_of_a_single_logit(table):
    task = open_task(table(lines("path,striped", lambda i: i % 2)), **QUIET)
    assert task.class_names == ("striped",) and task.multilabel and task.train.labels.shape == (16, 1)


def test_folds_of_several_labels_partition_the_images(table):
    path = table(lines("path,labels", lambda i: ["cat", "dog", "cat|dog"][i % 3]))
    parts = [names(open_task(path, folds=3, fold=fold, **QUIET).val) for fold in range(3)]
    assert set().union(*parts) == set(range(20)) and sum(map(len, parts)) == 20


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_a_byte_order_mark_and_quotes(table, delimiter):
    text = lines("path,label", lambda i: f'"{ANIMALS[i]} "').replace(",", delimiter)
    task = open_task(table("\ufeff" + text, name="set.tsv"), **QUIET)
    assert task.class_names == ("cat", "dog")


def test_files_that_are_not_there_count_as_unreadable(table):
    path = table(lines("path,label", lambda i: ANIMALS[i]) + "images/none.png,cat\n")
    task = open_task(path, bad_share=0.1, **QUIET)
    assert len(task.unreadable) == 1 and task.unreadable[0].endswith("images/none.png: does not exist")


@pytest.mark.parametrize(
    "text, said",
    [
        ("path,label\n", "no line after that of the column names; the columns are path, then label"),
        ("", "no line after that of the column names"),
        ("name,label\na.png,x\n", "no column path; its columns are name, label: the columns are"),
        ("path\na.png\n", "no labels; the columns are"),
        ("path,label\na.png,x\nb.png,\n", "line 3: no label; name a class, or remove the line"),
        ("path,label\na.png,x\n,y\n", "line 3: no path; name an image"),
        (
            "path,label\na.png,x\nb.png,x\na.png,y\n",
            "line 4: a.png is in line 2 too, with something else said of it; keep one",
        ),
        ("path,label\na.png,x\nb.png\n", "line 3: another number of columns than in line 1"),
        ("path,label\na.png,x,y\n", "line 2: another number of columns than in line 1"),
        ("path,label,label\na.png,x,y\n", "two columns are named 'label'"),
        ("path,label,split\na.png,x,later\n", "line 2: split is 'later'; it can be train, val or test"),
        ("path,wet\na.png,2\n", "line 2: wet is '2'; it can be 0 or 1"),
        ("path,wet\na.png,\n", "line 2: wet is ''; it can be 0 or 1"),
        ('path,label\na.png,"x\n', "cannot be read as CSV in UTF-8 .unexpected end of data"),
        ("path,label,split\na.png,x,train\nb.png,y,val\n", "x, y in one of train and val only"),
        ("path,label\na.png,x\nb.png,x\n", "one class only, 'x'"),
    ],
)
def test_what_is_wrong_in_a_table_is_said_with_its_line(table, text, said):
    with pytest.raises(InputError, match=said) as got:
        open_task(table(text), **QUIET)
    assert "\n" not in str(got.value)


def test_a_table_in_another_encoding_is_refused(tmp_path):
    path = written(tmp_path / "set.csv", "path,label\nä.png,größe\n".encode("latin-1"))
    with pytest.raises(InputError, match="cannot be read as CSV in UTF-8"):
        open_task(path, **QUIET)


def rows_of(samples):
    return sorted(samples.name(i).rpartition("/")[2] for i in range(len(samples)))


@pytest.mark.parametrize(
    "again",
    ["./images/0.png", "images/../images/0.png", r"images\0.png", "images//0.png", "link.png", "{root}"],
)
def test_an_image_is_one_however_its_lines_write_it(table, tmp_path, again):
    (tmp_path / "link.png").symlink_to(tmp_path / "images" / "0.png")
    again = again.format(root=tmp_path / "images" / "0.png") if "{" in again else again
    path = table(lines("path,label", lambda i: ANIMALS[i]) + f"{again},cat\n")
    task = open_task(path, **QUIET)
    assert len(task.train) + len(task.val) == 20
    assert any("1 lines name an image that another has named" in line for line in task.notes)
    path = table(lines("path,label", lambda i: ANIMALS[i]) + f"{again},dog\n")
    with pytest.raises(InputError, match="line 22: .* is in line 2 too.*, with something else said of it"):
        open_task(path, **QUIET)


def test_an_image_is_not_in_two_parts(table):
    text = lines("path,label,split", lambda i: f"{ANIMALS[i]},{'val' if i > 14 else 'train'}")
    with pytest.raises(InputError, match="line 22: ./images/0.png is in line 2 too as images/0.png"):
        open_task(table(text + "./images/0.png,cat,val\n"), **QUIET)


def test_images_that_are_not_there_are_one_by_their_plainest_name(table):
    text = lines("path,label", lambda i: ANIMALS[i]) + "none/a.png,cat\nnone/../none/a.png,cat\n"
    assert len(open_task(table(text), bad_share=0.5, **QUIET).unreadable) == 1


@pytest.mark.parametrize("head", ["", "Unnamed: 0"])
@pytest.mark.parametrize("labels", ["label", "ones", "labels"])
def test_the_index_that_pandas_writes_is_passed_over(table, head, labels):
    names = {"label": "label", "labels": "labels", "ones": "cat,dog"}[labels]
    row = {
        "label": lambda i: ANIMALS[i],
        "labels": lambda i: "cat|dog",
        "ones": lambda i: f"{i % 2},{1 - i % 2}",
    }
    text = "\n".join([f"{head},path,{names}", *[f"{i},images/{i}.png,{row[labels](i)}" for i in range(20)]])
    task = open_task(table(text), **QUIET)
    assert task.class_names == ("cat", "dog") and len(task.train) + len(task.val) == 20


def test_a_column_without_a_name_that_is_no_index_is_named(table):
    text = "\n".join([",path,cat,dog", *[f"{i + 1},images/{i}.png,{i % 2},{1 - i % 2}" for i in range(20)]])
    with pytest.raises(InputError, match="column 1 has no name, and does not count the lines from 0"):
        open_task(table(text), **QUIET)


HABITS = {
    "a byte order mark and Windows' line ends": lambda text: "\ufeff" + text.replace("\n", "\r\n"),
    "semicolons": lambda text: text.replace(",", ";"),
    "spaces after commas": lambda text: text.replace(",", ", "),
    "quotes": lambda text: "\n".join(",".join(f'"{c}"' for c in row.split(",")) for row in text.split("\n")),
    "quotes after spaces": lambda text: "\n".join(
        ", ".join(f'"{c}"' for c in row.split(",")) for row in text.split("\n")
    ),
    "upper case": lambda text: text.replace("path,label,split", "PATH,Label,SPLIT"),
    "empty last lines": lambda text: text + "\n\n,,\n  \n",
    "backslashes": lambda text: text.replace("images/", "images\\"),
}


@pytest.mark.parametrize("habit", HABITS)
def test_habits_of_other_programs_change_nothing(table, habit):
    text = lines("path,label,split", lambda i: f"{ANIMALS[i]},{'val' if i > 14 else 'train'}").rstrip("\n")
    plain = open_task(table(text), **QUIET)
    task = open_task(table(HABITS[habit](text), name="other.csv"), **QUIET)
    assert task.class_names == plain.class_names == ("cat", "dog")
    assert rows_of(task.train) == rows_of(plain.train) and rows_of(task.val) == rows_of(plain.val)
    assert all(task.val.load(i).tobytes() == plain.val.load(i).tobytes() for i in range(len(task.val)))


def test_absolute_paths_and_truth_values_are_taken(table, tmp_path):
    text = "\n".join(["path,wet", *[f"{tmp_path}/images/{i}.png,{i % 2 == 0}" for i in range(20)]])
    task = open_task(table(text), **QUIET)
    assert task.class_names == ("wet",) and int(task.class_counts()) + int(task.val.labels.sum()) == 10


@pytest.mark.parametrize(
    "column, said", [("label", "line 2: no label"), ("labels", "line 2: labels is 'NaN'")]
)
def test_labels_that_were_lost_are_no_classes(table, column, said):
    with pytest.raises(InputError, match=said):
        open_task(table(lines(f"path,{column}", lambda i: ["NaN", "cat", "dog"][i % 3])), **QUIET)


def test_names_of_splits_are_given_for_tables_too(table):
    text = lines("path,label,split", lambda i: f"{ANIMALS[i]},{['fit', 'check', 'test'][i % 3]}")
    task = open_task(table(text), train_split="fit", val_split="check", **QUIET)
    assert (len(task.train), len(task.val), len(task.test)) == (7, 7, 6)
    with pytest.raises(InputError, match="no column split, whose parts train_split and val_split"):
        open_task(table(lines("path,label", lambda i: ANIMALS[i])), train_split="fit", **QUIET)
    with pytest.raises(InputError, match="no line whose split is train"):
        open_task(table(lines("path,label,split", lambda i: f"{ANIMALS[i]},val")), **QUIET)


@pytest.mark.parametrize("two", [("caf\u00e9", "cafe\u0301"), ("1", "1.0"), ("-3.0", "-3")])
def test_one_name_in_two_ways_is_not_two_classes(table, two):
    said = re.escape(" and ".join(map(ascii, sorted(two))))
    with pytest.raises(
        InputError, match=f"{said} are one name written in two ways, and would become two classes"
    ):
        open_task(table(lines("path,label", lambda i: two[i % 2])), **QUIET)
    other = ("1.5", "1.05", "v1.0", "v1", "Cat", "cat")
    assert len(open_task(table(lines("path,label", lambda i: other[i % 6])), **QUIET).class_names) == 6
