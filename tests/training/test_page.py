"""The page of a run: what it shows is true, all of it is inside, and nothing of the machine is."""

from __future__ import annotations

import csv
import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_pages import Page, check, decoded
from small_runs import Stop, make, paint, quiet, stop_at

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.data import open_task
from bcos_zoo.hub import export as hub
from bcos_zoo.pictures import panels
from bcos_zoo.training import engine, mistakes, page
from bcos_zoo.training.best_epoch import BestEpoch
from bcos_zoo.training.dry_run import dry_run
from bcos_zoo.training.records import Records
from bcos_zoo.training.snapshots import Snapshots

HOSTILE = '<script>alert("x") & co'


def set_with_wrong_labels(root: Path, hostile: str = "red") -> Path:
    """Some validation images of each class lie in the folder of the other one; two files are no images."""
    paint(root, {"train": 16, "val": 9, "test": 3})
    for part in ("train", "val", "test"):
        (root / part / "red").rename(root / part / hostile)
    blue, red = root / "val" / "blue", root / "val" / hostile
    for i, (source, target) in {2: (blue, red), 5: (blue, red), 7: (red, blue)}.items():
        (source / f"{i}.png").rename(target / f"was-elsewhere-{i}.png")
    (blue / "0.png").write_bytes(b"no image")  # the first of all: the others would move up
    (red / "4.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return set_with_wrong_labels(tmp_path_factory.mktemp("images") / "set", HOSTILE)


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("place") / "a run"
    engine.train(wanted(), open_set(root), folder, source="set", log=quiet)
    return folder


def wanted(**changes):
    return make(data__check=False, data__bad_share=0.5, **{"run__epochs": 3} | changes)


def open_set(root):
    return open_task(root, check=False, log=quiet)


def answers(run: Path, part: Path):
    """What the network in a run's folder says about each file that can be read, by itself."""
    classifier = bcos_zoo.load(run)
    for path in sorted(part.rglob("*.png")):
        try:
            yield path, classifier.predict(path, 2)
        except bcos_zoo.InputError:
            continue


def test_the_mistakes_are_the_wrong_ones_surest_first_and_no_unreadable_image_shifts_them(root, finished):
    found = [
        (best.logit, f"{path.parent.name}/{path.name}", best, other)
        for path, (best, other) in answers(finished, root / "val")
        if best.label != path.parent.name
    ]
    found.sort(key=lambda one: -one[0])
    assert 3 <= len(found) <= mistakes.MOST
    shown = check(finished, root)
    assert [article["h3"] for article in shown.articles] == [name for _, name, _, _ in found]
    for article, (_, _, best, other) in zip(shown.articles, found, strict=True):
        said = re.fullmatch(r"answered (.+) ([<>\d.]+), but it is (.+) ([<>\d.]+)", article["p"])
        assert said and said[1] == best.label and said[3] == other.label
        assert float(said[2]) == pytest.approx(best.probability, abs=2e-3)
        assert float(said[4].strip("<")) == pytest.approx(other.probability, abs=2e-3)
    assert f"Of 16 images for validation, {len(found)} have a wrong answer." in shown.text
    assert "2 images could not be read" in shown.text


def test_a_mistake_is_explained_for_the_wrong_class_and_the_true_one(root, finished):
    classifier, shown = bcos_zoo.load(finished), check(finished, root)
    for article in shown.articles:
        path = root / "val" / article["h3"]
        answered = classifier.predict(path)[0].label
        explanation = classifier.explain(path, [answered, path.parent.name])
        limit = panels.color_limit(explanation.contributions[0])
        photograph, *pictures = map(decoded, article["pictures"])
        close(photograph, classifier.view(path).resize(photograph.size), 30)
        for k in range(2):
            colour = panels.on_white(panels.rgba_image(explanation.rgba()[0, k]))
            close(pictures[2 * k], panels.contribution_map(explanation.contributions[0, k], limit=limit), 2)
            close(pictures[2 * k + 1], colour, 2)
        assert not np.array_equal(np.asarray(pictures[0]), np.asarray(pictures[2]))


def close(one: Image.Image, other: Image.Image, most: float) -> None:
    """On average, for photographs are stored with losses."""
    pair = (np.asarray(picture.convert("RGB")).astype(float) for picture in (one, other))
    assert np.abs(np.subtract(*pair)).mean() < most


def test_sections_stand_in_order_with_scores_of_both_parts_and_hostile_names_as_text(root, finished):
    shown = check(finished, root)
    assert list(shown.sections) == [
        "Scores",
        "Learning curves",
        "Confusion matrix",
        "The worst mistakes",
        "Explanations over the epochs",
        "The recipe",
        "How to go on",
    ]
    assert HOSTILE in shown.sections["Confusion matrix"]  # as text, not as a tag
    scores = shown.sections["Scores"]
    assert "validation, 16 images" in scores and "test, 6 images" in scores
    right = [best.label == path.parent.name for path, (best, _) in answers(finished, root / "val")]
    assert f"{100 * sum(right) / 16:.2f} %" in scores
    assert 'name = "bcos_resnet20"' in shown.sections["The recipe"]
    assert "<title>a run</title>" in shown.text


def test_the_commands_work_in_the_folder_that_holds_the_run(root, finished, run, monkeypatch):
    monkeypatch.chdir(finished.parent)
    (finished.parent / "photo.jpg").write_bytes((root / "val" / "blue" / "1.png").read_bytes())
    if not (finished.parent / "DATA").exists():
        paint(finished.parent / "DATA", {".": 10})
        (finished.parent / "DATA" / "red").rename(finished.parent / "DATA" / HOSTILE)
    pushed = []
    monkeypatch.setattr(hub, "push_to_hub", lambda *a, **k: pushed.append(a) or "address")
    commands = Page(finished / "index.html").commands
    verbs = []
    for command in commands[:-1]:
        words = shlex.split(command)
        assert words[0] == "bcos-zoo"
        verbs.append(words[1])
        more = ["--dry-run"] if words[1] == "finetune" else []
        code, _, err = run(*words[1:], *more)
        assert code == 0, err
    assert verbs == ["explain", "evaluate", "finetune", "push"]
    assert pushed[0][0] == "./a run" and (finished.parent / "out").is_dir()
    scope: dict[str, object] = {}
    exec(commands[-1], scope)
    assert scope["clf"].class_names == bcos_zoo.load(finished).class_names


def test_what_is_exported_has_no_page(finished, tmp_path):
    folder = bcos_zoo.export(str(finished), tmp_path / "out")
    assert (finished / "index.html").exists() and not (folder / "index.html").exists()


def test_a_run_that_was_killed_before_its_page_writes_the_same_page_when_it_is_resumed(
    root, finished, tmp_path
):
    def log(line):
        if line.startswith("test, network of epoch"):
            raise Stop

    run = tmp_path / "a run"
    with pytest.raises(Stop):
        engine.train(wanted(), open_set(root), run, source="set", log=log)
    assert not (run / "index.html").exists()
    engine.train(wanted(), open_set(root), run, resume=True, source="set", log=quiet)
    assert (run / "index.html").read_bytes() == (finished / "index.html").read_bytes()
    (run / "index.html").unlink()
    engine.train(wanted(), open_set(root), run, resume=True, source="set", log=quiet)
    assert (run / "index.html").read_bytes() == (finished / "index.html").read_bytes()


def test_without_mistakes_one_sentence_says_so(tmp_path):
    task = open_task(paint(tmp_path / "set", {"train": 16, "val": 4}, spread=10), log=quiet)
    result = engine.train(make(run__epochs=3, run__snapshots=0), task, tmp_path / "run", log=quiet)
    assert result.scores["top1"] == 100
    shown = check(tmp_path / "run")
    assert "None: all 8 images for validation are answered rightly." in shown.sections["The worst mistakes"]
    assert not shown.articles and "run.snapshots is 0" in shown.sections["Explanations over the epochs"]


UNREADABLE = os.fsdecode(b"caf\xe9")  # Latin-1, as older machines wrote it


@pytest.mark.skipif(sys.platform == "darwin", reason="its disks take only UTF-8")
def test_files_whose_names_are_no_text_do_not_end_a_finished_run(tmp_path):
    """They are images, a mistake among them and a broken one, and the folder of the set."""
    root = set_with_wrong_labels(tmp_path / UNREADABLE)
    for path in sorted(root.rglob("*.png")):
        path.rename(path.with_name(f"{UNREADABLE} {path.name}"))
    engine.train(wanted(), open_set(root), tmp_path / "run", source=root.name, log=quiet)
    shown = check(tmp_path / "run")
    assert {"red/caf? was-elsewhere-2.png", "blue/caf? was-elsewhere-7.png"} <= {
        a["h3"] for a in shown.articles
    }
    lines = (tmp_path / "run" / "unreadable.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 and all("caf? " in line for line in lines)
    assert "caf?" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "darwin", reason="its disks take only UTF-8")
def test_names_that_must_be_text_are_refused_before_the_first_step(root, tmp_path):
    with pytest.raises(
        InputError, match=r"caf\?': a name that is not UTF-8, .*; give another folder with -o"
    ):
        engine.train(wanted(), open_set(root), tmp_path / UNREADABLE, log=quiet)
    with pytest.raises(InputError, match=r"caf\?': a name that is not UTF-8"):
        dry_run(wanted(), open_set(root), tmp_path / UNREADABLE)
    assert not list(tmp_path.iterdir())
    other = set_with_wrong_labels(tmp_path / "set", UNREADABLE)
    with pytest.raises(InputError, match=r"class 'caf\?': a name that is not UTF-8; rename its folder"):
        open_set(other)
    with pytest.raises(InputError, match=r"test: 'caf\?.pth' is not UTF-8, which no recipe can hold; rename"):
        wanted(teacher__weights=f"{UNREADABLE}.pth")


def test_of_several_labels_the_worst_one_is_shown(tmp_path):
    rng, colours = np.random.default_rng(0), ["red", "green", HOSTILE]
    rows = [["path", "labels", "split"]]
    for i in range(48):
        shows = [k for k in range(3) if rng.random() < 0.5]
        pixels = rng.normal(90, 40, (32, 32, 3))
        for k in shows:
            pixels[10 * k : 10 * k + 9, :, k] += 90
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(tmp_path / f"{i}.png")
        rows.append([f"{i}.png", "|".join(colours[k] for k in shows), "train" if i < 32 else "val"])
    with (tmp_path / "set.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    task = open_task(tmp_path / "set.csv", log=quiet)
    engine.train(make(run__epochs=3), task, tmp_path / "run", log=quiet)
    shown, classifier = check(tmp_path / "run"), bcos_zoo.load(tmp_path / "run")
    expected = []
    for name, labels, split in rows[1:]:
        if split != "val":
            continue
        truth = set(labels.split("|")) - {""}
        answers = classifier.predict(tmp_path / name, 3)
        wrong = [one for one in answers if (one.logit > 0) != (one.label in truth)]
        if wrong:
            worst = max(wrong, key=lambda one: abs(one.logit))
            role = "missed" if worst.label in truth else "predicted"
            expected.append((-abs(worst.logit), name, f"{role} {worst.label} ", truth))
    expected = sorted(expected, key=lambda one: one[0])[: mistakes.MOST]
    assert len(expected) > 3
    assert [article["h3"] for article in shown.articles] == [name for _, name, _, _ in expected]
    for article, (_, _, said, truth) in zip(shown.articles, expected, strict=True):
        assert article["p"].startswith(said)
        shows = article["p"].partition("; it shows ")[2]
        assert set(shows.split(", ")) == (truth or {"none of the classes"})
        assert len(article["pictures"]) == 3
    assert "Classes" in shown.sections and "Confusion matrix" not in shown.sections


def test_a_single_logit_is_two_classes(root, tmp_path):
    args = {"layers": [1, 1, 1], "num_classes": 1}
    engine.train(wanted(model__args=args), open_set(root), tmp_path / "run", log=quiet)
    shown = check(tmp_path / "run", root)
    wrong = {
        f"{path.parent.name}/{path.name}": best
        for path, (best, _) in answers(tmp_path / "run", root / "val")
        if best.label != path.parent.name
    }
    assert {article["h3"] for article in shown.articles} == wrong.keys() and len(wrong) >= 3
    for article in shown.articles:
        assert article["p"].startswith(f"answered {wrong[article['h3']].label} ")
        assert len(article["pictures"]) == 5


def test_a_conventional_network_has_photographs_and_the_page_says_why(root, tmp_path):
    changes = {"model__name": "resnet18", "model__args": {"channels": [8, 8, 8, 8]}, "data__input_size": 32}
    engine.train(wanted(**changes, run__epochs=1), open_set(root), tmp_path / "run", log=quiet)
    shown = check(tmp_path / "run", root)
    why = "a conventional network has no exact explanation to show"
    assert why in shown.sections["The worst mistakes"]
    assert why in shown.sections["Explanations over the epochs"]
    assert shown.articles and all(len(article["pictures"]) == 1 for article in shown.articles)
    assert "timm.create_model" in shown.commands[-1] and "bcos-zoo explain" not in shown.text


def test_the_recipe_shows_no_folder_of_the_machine(root, finished, tmp_path):
    """Of a run that began with a folder; its start is measured, drawn, and drawn again if it was killed."""
    changes = {
        "model__name": str(finished), "model__pretrained": True, "model__head": "fitted", "model__args": {},
        "run__epochs": 2, "run__snapshot_every": 2,
    }  # fmt: skip
    run = tmp_path / "run"

    def dies(self, *arguments):
        raise Stop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Records, "epoch", dies)
        engine.train(wanted(**changes), open_set(root), run, log=quiet)
    assert not (run / "snapshots").exists()
    engine.train(wanted(**changes), open_set(root), run, resume=True, log=quiet)
    assert sheets(run) == [0, 2]
    shown = check(run, root, finished.parent)
    assert 'name = "…/a run"' in shown.sections["The recipe"]
    assert "begun with a network that is not published" in shown.text


def sheets(run: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("epoch-")) for path in (run / "snapshots").glob("epoch-*.png"))


def test_the_kept_epoch_and_the_last_are_drawn_however_rarely_others_are(root, tmp_path, monkeypatch):
    update, films, end = BestEpoch.update, [], Snapshots.end
    monkeypatch.setattr(
        BestEpoch, "update", lambda self, epoch, value, loss: update(self, epoch, float(epoch == 3), loss)
    )
    monkeypatch.setattr(Snapshots, "end", lambda self, *a: films.append(end(self, *a)) or films[-1])
    changes = {"run__keep_best": True, "run__snapshot_every": 4, "optimizer__ema_decay": None}
    result = engine.train(wanted(run__epochs=5, **changes), open_set(root), tmp_path / "run", log=quiet)
    assert result.best_epoch == 3 and sheets(tmp_path / "run") == [3, 4, 5]
    assert list(films[0].epochs) == [3, 4, 5]
    shown = check(tmp_path / "run", root)
    assert any("in the epochs 3, 4, 5" in picture["alt"] for picture in shown.pictures)
    assert "The network of epoch 3 of 5 is kept" in shown.sections["Scores"]
    every = {"run__keep_best": True, "optimizer__ema_decay": None}
    engine.train(wanted(run__epochs=5, **every), open_set(root), tmp_path / "every", log=quiet)
    tiles = [(tmp_path / run / "snapshots" / "tiles-0003.png").read_bytes() for run in ("run", "every")]
    assert tiles[0] == tiles[1]  # drawn at the end from the network that is kept, as it was then


def test_a_run_without_snapshots_draws_none_at_its_end_either(root, tmp_path):
    engine.train(wanted(run__epochs=1, run__snapshots=0), open_set(root), tmp_path / "run", log=quiet)
    assert not (tmp_path / "run" / "snapshots").exists()
    assert not (tmp_path / "run" / "snapshots.png").exists()


def test_a_page_that_cannot_be_written_leaves_nothing_half_done(root, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / page.PAGE).mkdir()
    with pytest.raises(bcos_zoo.InputError, match=r"index\.html cannot be written"):
        engine.train(wanted(run__epochs=1), open_set(root), tmp_path / "run", log=quiet)
    assert not list((tmp_path / "run").glob(".index*"))


def test_one_killed_while_it_trains_has_no_page_yet(root, tmp_path):
    with pytest.raises(Stop):
        engine.train(wanted(), open_set(root), tmp_path / "run", log=quiet, progress=stop_at(3))
    assert not (tmp_path / "run" / "index.html").exists()
