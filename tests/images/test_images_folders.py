"""Folders: what of them is read, what is passed over and why, and that our own results are."""

import json
import logging
import shutil

import pytest
from PIL import Image

from bcos_zoo import InputError, data, images
from bcos_zoo.images import find_images, formats, gather

MODEL = "bcos_resnet20.cifar10"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "same"
    path.mkdir()
    for k, name in enumerate(("a.png", "b.jpg")):
        Image.new("RGB", (40, 30), (90 * k, 50, 200)).save(path / name)
    return path


ORDERS = [
    [],
    ["--picture", "rgba"],
    ["--picture", "overlay", "--shared-scale"],
    ["--picture", "sheet"],
    ["--format", "npz"],
    ["--format", "bundle"],
    ["--format", "html"],
]


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_explaining_a_folder_into_itself_twice_gives_the_same(run, folder, order):
    def once():
        code, out, _ = run("explain", folder, "-o", folder, "--json", *order)
        found = json.loads(out)
        return code, found["images"], found["errors"]

    first = once()
    files = sorted(path.name for path in folder.iterdir())
    assert first[0] == 0 and len(first[1]) == 2 and not first[2]
    assert once() == first
    assert sorted(path.name for path in folder.iterdir()) == files


def test_no_verb_finds_what_a_verb_wrote(run, folder, tmp_path):
    unit = ["--layer", "layer3.1.conv2", "--unit", 3]
    for order in ([], ["--picture", "sheet"]):
        assert run("explain", folder, "-o", folder, *order)[0] == 0
    assert run("units", folder, *unit, "-o", folder)[0] == 0
    assert run("export", MODEL, "-o", folder / "exported")[0] == 0
    names = {path.name for path in folder.rglob("*.png")}
    assert {"sheet.png", "layer3.1.conv2.3.png", "explanation.png", "a.explained.png"} <= names
    assert [path.name for path in find_images([folder])] == ["a.png", "b.jpg"]
    assert len(json.loads(run("predict", folder, "--json")[1])["images"]) == 2
    assert len(json.loads(run("units", folder, *unit, "-o", folder, "--json")[1])["images"]) == 2
    shutil.copytree(folder, tmp_path / "set" / "cat")
    assert len(data.list_folder(tmp_path / "set")[0]) == 2


def test_pictures_of_others_are_found_whatever_their_names(folder):
    for name in ("sheet.png", "confusion.png", "photo.2.png", "explained.png"):
        Image.new("RGB", (4, 4)).save(folder / name)
    assert len(find_images([folder])) == 6


def test_a_result_that_is_named_itself_is_explained(run, folder):
    assert run("explain", folder / "a.png", "-o", folder)[0] == 0
    assert run("predict", folder / "a.explained.png")[0] == 0


def test_what_is_passed_over_is_one_line(run, folder):
    for name in ("x.heic", "y.HEIC", "scan", "IMG_1", "notes.txt", ".hidden", "clip.mp4"):
        (folder / name).write_bytes(b"...")
    heif = formats.register_heif()
    code, out, err = run("predict", folder)
    assert code == (2 if heif else 0) and out.count("\n") == 2
    (note,) = [line for line in err.splitlines() if not line.startswith("error: ")]
    assert note.startswith(f"note: {folder}: {4 if heif else 6} passed over: ")
    assert "1 .mp4" in note and "2 without suffix" in note and "1 .txt" in note
    assert heif or "2 .heic (`pip install pillow-heif` brings its decoder)" in note
    assert run("predict", folder / "a.png")[2] == ""


def test_a_folder_of_classes_says_it_once(folder, tmp_path, caplog):
    for name in ("cat", "dog"):
        shutil.copytree(folder, tmp_path / "set" / name)
        (tmp_path / "set" / name / "z.xyz").touch()
    with caplog.at_level(logging.WARNING, logger="bcos_zoo.images"):
        paths, *_ = data.list_folder(tmp_path / "set")
    assert len(paths) == 4
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'set'}: 2 passed over: 2 .xyz"
    ]


def test_heic_is_read_if_pillow_heif_is_there_and_names_it_if_not(folder, monkeypatch):
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    (folder / "x.heic").write_bytes(content)
    monkeypatch.setattr("bcos_zoo.images.opening.register_heif", lambda: False)
    with pytest.raises(InputError, match=r"x\.heic' is a HEIC picture; `pip install pillow-heif`"):
        images.load_rgb(folder / "x.heic")
    with pytest.raises(InputError, match="HEIC picture"):
        images.decode_rgb(content, "x.jpg")


def test_a_heic_photograph_is_read_where_pillow_heif_is(folder):
    heif = pytest.importorskip("pillow_heif")
    photo = Image.new("RGB", (64, 48), "red")
    photo.paste("blue", (0, 0, 64, 8))
    heif.register_heif_opener()
    photo.save(folder / "x.heic", quality=95)
    loaded = images.load_rgb(folder / "x.heic")
    assert loaded.size == (64, 48) and loaded.getpixel((30, 2))[2] > 200 > 60 > loaded.getpixel((30, 40))[2]
    assert folder / "x.heic" in find_images([folder])


def test_a_folder_of_nothing_else_says_what_it_holds(tmp_path):
    (tmp_path / "x.cr3").touch()
    with pytest.raises(InputError, match=r"holds no image; .* \(1 passed over: 1 \.cr3\)"):
        find_images([tmp_path])


def test_one_wrong_path_does_not_stop_the_others(run, folder, tmp_path):
    (empty := tmp_path / "empty").mkdir()
    code, out, err = run("predict", tmp_path / "none.png", folder, empty, "--json")
    document = json.loads(out)
    assert code == 2 and len(document["images"]) == 2
    assert len(document["errors"]) == 2 and err.count("error: ") == err.count("\n") == 2
    assert "does not exist" in document["errors"][0] and "holds no image" in document["errors"][1]
    found, errors = gather([folder, tmp_path / "none.png"])
    assert len(found) == 2 and len(errors) == 1


def test_json_is_printed_also_where_nothing_could_be_read(run, tmp_path):
    for verb in ("predict", "explain"):
        code, out, err = run(verb, tmp_path / "none.png", "--json")
        assert code == 2 and json.loads(out)["images"] == [] and len(json.loads(out)["errors"]) == 1
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    "address",
    [
        "https://host/cat.jpg",
        "http://127.0.0.1:9/x.png?token=abc",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "s3://b/x.png",
    ],
)
@pytest.mark.parametrize("verb", ["predict", "explain"])
def test_an_address_is_refused_in_one_line_and_nothing_is_fetched(run, verb, address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(verb, address)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "is an address; only files are read, and nothing is fetched: download it first" in err
    assert "abc" not in err
    with pytest.raises(InputError, match="is an address"):
        images.load_rgb(address)
