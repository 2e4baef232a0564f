"""One way to name a file: it fits every disk, and one that cannot be written stops no other."""

import errno
import json
import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

import bcos_zoo
from bcos_zoo import InputError, files, pipeline
from bcos_zoo.pipeline import paths

LONG = ["文" * 70 + ".png", "文" * 83 + ".png", "a" * 251 + ".png", "é" * 125 + ".jpg", "😀" * 62 + ".gif"]


def drawn(path):
    path.parent.mkdir(parents=True, exist_ok=True)  # a name such as [/a] is two
    Image.new("RGB", (20, 16), (90, 30, 200)).save(path, format="PNG")
    return path


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("format_", ["png", "npz", "bundle"])
def test_a_name_of_any_length_is_explained(run, tmp_path, name, format_):
    drawn(tmp_path / name)
    code, out, err = run("explain", tmp_path, "-o", tmp_path / "out", "--format", format_, "--json")
    assert (code, err) == (0, "")
    (image,) = json.loads(out)["images"]
    (written,) = (tmp_path / "out").iterdir()
    assert Path(image["picture"]) == written and len(os.fsencode(written.name)) <= 255
    assert written.name.startswith(name[:20])


def test_long_names_that_start_alike_stay_apart():
    sources = [Path("文" * 80 + f"{k}.png") for k in range(12)]
    names = [path.name for path in pipeline.picture_paths(sources, Path("out"))]
    assert len(set(names)) == 12 and max(len(name.encode()) for name in names) <= 255


@pytest.mark.parametrize(
    "names",
    [
        ["Cat.png", "cat.png", "CAT.PNG"],
        ["cat.png", "cat.jpg", "cat.webp"],
        [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")],
        ["a:b.png", "a?b.png", "a_b.png"],
        ["straße.png", "STRASSE.png"],
        ["a.png", "a.2.png", "A.png", "a.2.2.png"],
    ],
)
def test_names_that_some_disk_takes_for_one_are_numbered(names):
    made = [path.name for path in pipeline.picture_paths([Path(name) for name in names], Path("out"))]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in made}) == len(names)


@pytest.mark.parametrize(
    "name", ['a<b>:"|?*.png', "new\nline.png", "tab\t.png", "con.png", "LPT1.x.png", "a\x1b[31m.png"]
)
def test_what_cannot_stand_in_a_name_everywhere_does_not(run, tmp_path, name):
    drawn(tmp_path / name)
    assert run("explain", tmp_path / name, "-o", tmp_path / "out")[0] == 0
    (written,) = os.listdir(tmp_path / "out")
    assert not set(written) & set('<>:"|?*\\') and written.isprintable()
    assert written.partition(".")[0].upper() not in ("CON", "LPT1")


@pytest.mark.parametrize("verb", ["explain", "predict", "units"])
def test_a_name_breaks_no_line_and_commands_no_terminal(run, tmp_path, verb):
    names = ["new\nline.png", "a\x1b[31m.png", "tab\t.png", "\u2028.png", "\x9b2J.png", "👩‍🚀 [é].png"]
    for name in names:
        drawn(tmp_path / "in" / name)
    (tmp_path / "in" / "bad\n.png").write_bytes(b"no picture")
    more = {"predict": [], "explain": ["-o", tmp_path / "out"]}
    more["units"] = [*more["explain"], "--layer", "layer1", "--unit", "0"]
    code, out, err = run(verb, tmp_path / "in", *more[verb])
    lines = [line for line in out.split("\n") if "->" not in line or verb == "explain"]
    assert code == 2 and err.count("\n") == 1 and len([line for line in lines if line]) == len(names)
    assert not {
        character for character in out + err if ord(character) < 32 or ord(character) in (127, 0x9B)
    } - {"\n"}
    assert "👩‍🚀 [é].png" in out and r"new\nline.png" in out and r"a\x1b[31m.png" in out


def test_a_name_that_can_stand_everywhere_is_kept():
    for stem in ("cat [copy]", "two words", "ça", "a.b", "100%", "$x_1^2$", "'quoted'"):
        assert paths.file_name(stem, ".explained.png") == f"{stem}.explained.png"


def test_the_temporary_name_of_any_name_fits(tmp_path):
    for name in ("x" * 255, "文" * 85, "a.png", os.fsdecode(b"\xff" * 200)):
        with files.replacing(tmp_path / name) as temporary:
            assert len(os.fsencode(temporary.name)) <= 255
            temporary.write_text("whole")
        with files.locked(tmp_path / name):
            assert (tmp_path / name).read_text() == "whole"


def failing(monkeypatch, name, error):
    """Whatever is written under that name fails as a disk may."""
    move = files.move_into_place

    def moved(temporary, path):
        if path.name == name:
            raise error
        move(temporary, path)

    monkeypatch.setattr(files, "move_into_place", moved)


@pytest.mark.parametrize("format_", ["png", "npz", "bundle", "svg"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), MemoryError()], ids=["disk", "memory"]
)
def test_what_befalls_one_file_is_told_and_the_others_go_on(run, tmp_path, monkeypatch, format_, error):
    sources = [drawn(tmp_path / f"{k}.png") for k in range(3)]
    (broken := tmp_path / "broken.png").write_bytes(b"no picture")
    ending = {"bundle": "bundle.zip"}.get(format_, format_)
    failing(monkeypatch, f"1.explained.{ending}", error)
    arguments = ["explain", broken, *sources, "-o", tmp_path / "out", "--format", format_]
    code, out, err = run(*arguments, "--json")
    document = json.loads(out)
    assert code == 2 and len(document["images"]) == 2 and len(document["errors"]) == 2
    assert err.count("error: ") == err.count("\n") == 2 and "broken.png" in err and "1." in err
    assert sorted(os.listdir(tmp_path / "out")) == [f"0.explained.{ending}", f"2.explained.{ending}"]


@pytest.mark.parametrize("order", [["--picture", "sheet"], ["--format", "html"]])
def test_a_sheet_that_cannot_be_written_hides_no_earlier_error(run, tmp_path, monkeypatch, order):
    source = drawn(tmp_path / "0.png")
    (broken := tmp_path / "broken.png").write_bytes(b"no picture")
    name = "report.html" if "html" in order else "sheet.png"
    failing(monkeypatch, name, OSError(errno.ENOSPC, "No space left on device"))
    code, out, err = run("explain", broken, source, "-o", tmp_path / "out", *order, "--json")
    assert code == 2 and json.loads(out)["images"] == []
    assert [("broken" in e, "No space" in e) for e in json.loads(out)["errors"]] == [
        (True, False),
        (False, True),
    ]
    assert err.count("\n") == 2 and os.listdir(tmp_path / "out") == []


def test_a_picture_that_needs_more_memory_than_there_is_stops_no_other(run, tmp_path, monkeypatch):
    sources = [drawn(tmp_path / f"{k}.png") for k in range(3)]
    load = bcos_zoo.images.opening.to_rgb

    def short(image):
        if getattr(image, "filename", "") == "" and image.size == (20, 16) and next(calls) == 1:
            raise MemoryError
        return load(image)

    calls = iter(range(99))
    monkeypatch.setattr(bcos_zoo.images.opening, "to_rgb", short)
    code, out, err = run("predict", *sources, "--json")
    assert code == 2 and len(json.loads(out)["images"]) == 2
    assert "needs more memory than there is" in err


NAMES = ["cat [copy].png", "[red]a[/red].png", "x[/a].png", "[bold", ":smile:.png", "[link=x]y.png"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_look_like_markup_are_printed_as_they_are(run, tmp_path, name):
    drawn(tmp_path / name)
    for verb in ("predict", "explain"):
        code, out, err = (
            run(verb, tmp_path / name, "-o", tmp_path / "out")
            if verb == "explain"
            else run(verb, tmp_path / name)
        )
        assert code == 0 and str(tmp_path / name) in out
    (tmp_path / name).write_bytes(b"no picture")
    code, _, err = run("predict", tmp_path / name)
    assert code == 2 and name in err


def test_training_and_evaluation_print_names_as_they_are(run, tmp_path):
    """rich took [/a] for the end of a style that nobody had begun, which ended the run."""
    for kind in ("cat [a]", "dog[/b]"):
        (tmp_path / "set[/a]" / kind).mkdir(parents=True)
        for k in range(3):
            drawn(tmp_path / "set[/a]" / kind / f"{k}[/x].png")
        drawn(tmp_path / "set[/a]" / kind / "z[/y].png").write_bytes(b"no picture")
    code, out, err = run(
        "finetune",
        tmp_path / "set[/a]",
        "-o",
        tmp_path / "run",
        "--set",
        "run.epochs=1",
        "--set",
        "data.bad_share=0",
    )
    assert code == 2 and "z[/y].png" in err
    code, out, err = run("evaluate", tmp_path / "set[/a]")
    assert code == 2 and "error: " in err and "[/" in err


def test_lines_of_the_log_are_printed_as_they_are(capsys):
    from bcos_zoo.cli import training

    training.log("set[/a]/cat [copy].png :smile: [red]x[/red]: cannot be read")
    assert capsys.readouterr().err == "set[/a]/cat [copy].png :smile: [red]x[/red]: cannot be read\n"


def test_an_error_about_a_name_of_two_lines_is_one_line(run, tmp_path):
    (tmp_path / "two\nlines.png").write_bytes(b"no picture")
    assert run("predict", tmp_path / "two\nlines.png")[2].count("\n") == 1
    assert run("explain", tmp_path / "two\nlines.mp4")[2].count("\n") == 1
    with pytest.raises(InputError):
        bcos_zoo.images.load_rgb(tmp_path / "two\nlines.png")
