"""Recipes: what is in them counts, and what they do not know stops the run, all of it at once."""

from dataclasses import asdict, fields
from pathlib import Path

import pytest

from bcos_zoo import InputError
from bcos_zoo.training import recipe

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
LEAST = {"model": {"name": "bcos_resnet20"}, "run": {"epochs": 1}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_is_one_and_opens_with_its_command(path):
    assert recipe.read(path).run.epochs > 0
    head = path.read_text().split("\n[", 1)[0]
    assert f"train configs/{path.name}" in head
    assert "achine" in head and "core" in head  # what it takes, and what it gives


def test_a_recipe_written_and_read_again_is_the_same(tmp_path):
    wanted = recipe.parse(
        LEAST | {"optimizer": {"lr": 0.25, "milestones": [3, 7], "args": {"betas": [0.9, 0.95]}}},
        where="test",
    )
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml(wanted))
    assert asdict(recipe.read(path)) == asdict(wanted)


def test_changes_win_over_the_file_and_are_read_as_toml(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml(recipe.parse(LEAST, where="test")))
    changes = [
        "optimizer.lr=1e-3", "model.args.drop_path_rate=0.1", "run.trackers=[]", "model.name=bcos_resnet56",
        "run.compile=true", 'augment.auto="trivial"',
    ]  # fmt: skip
    wanted = recipe.read(path, changes)
    assert wanted.optimizer.lr == 1e-3 and wanted.model.args == {"drop_path_rate": 0.1}
    assert wanted.run.trackers == () and wanted.run.compile is True
    assert (wanted.model.name, wanted.augment.auto) == ("bcos_resnet56", "trivial")


def test_all_faults_are_named_at_once():
    raw = {"model": {"nam": "x"}, "run": {"epochs": 1, "epocs": 2}, "optimiser": {"lr": 1}}
    with pytest.raises(InputError) as caught:
        recipe.parse(raw, where="a.toml")
    text = str(caught.value)
    assert text.startswith("a.toml: ") and "\n" not in text
    assert "model.name is not given" in text
    assert "unknown key model.nam; did you mean name?" in text
    assert "unknown key run.epocs; did you mean epochs?" in text
    assert "unknown key optimiser; did you mean optimizer?" in text


@pytest.mark.parametrize(
    ("table", "key", "value", "message"),
    [
        ("run", "epochs", 0, "run.epochs=0: allowed are 1 and more"),
        ("run", "precision", "half", "run.precision='half': allowed are float32"),
        ("run", "batch_size", 2.5, "run.batch_size=2.5"),
        ("run", "compile", "yes", "run.compile='yes'"),
        ("optimizer", "lr", -1.0, "optimizer.lr=-1.0"),
        ("optimizer", "clip_mode", "hard", "optimizer.clip_mode='hard': allowed are agc"),
        ("optimizer", "schedule", "plateau", "follows scores"),
        ("data", "bad_share", 1.5, "data.bad_share=1.5"),
        ("data", "folds", 3, None),
        ("augment", "crop", "middle", "augment.crop='middle': allowed are"),
        ("loss", "kind", "mse", "loss.kind='mse': allowed are"),
        ("loss", "off_label", "even", "loss.off_label='even'"),
    ],
)
def test_values_that_are_not_allowed_are_refused(table, key, value, message):
    raw = {name: dict(part) for name, part in LEAST.items()}
    raw.setdefault(table, {})[key] = value
    if message is None:
        assert getattr(getattr(recipe.parse(raw, where="x"), table), key) == value
        return
    with pytest.raises(InputError) as caught:
        recipe.parse(raw, where="x")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("model = ", "not TOML"),
        ("x = " + "[" * 9999, "not TOML"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, message):
    path = tmp_path / "recipe.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        recipe.read(path)


@pytest.mark.parametrize("text", ["lr=1", "optimizer.lr", "", "model.=1", ".lr=1", "model..x=1"])
def test_a_change_of_another_form_is_refused(text):
    with pytest.raises(InputError, match=r"give table.key=value, such as optimizer.lr=1e-3"):
        recipe.changed(LEAST, [text])


def test_every_table_of_a_recipe_has_its_class():
    assert set(recipe.TABLES) == {field.name for field in fields(recipe.Recipe)}


@pytest.mark.parametrize(
    ("raw", "change", "message"),
    [
        (LEAST, ["model.name.x=1"], "--set model.name.x=1: model.name is 'bcos_resnet20', which has no keys"),
        (LEAST | {"model": 3}, ["model.name=x"], "--set model.name=x: model is 3, which has no keys"),
        (LEAST, ["model.args.b=1", "model.args.b.c=2"], "--set model.args.b.c=2: model.args.b is 1, which"),
        (LEAST | {"run": [{"epochs": 1}]}, ["run.keep=1"], "--set run.keep=1: run is [{'epochs': 1}], which"),
    ],
)
def test_a_key_inside_something_that_is_no_table_is_refused_by_its_name(raw, change, message):
    with pytest.raises(InputError) as caught:
        recipe.changed(raw, change)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_changes_leave_the_tables_they_are_made_to_as_they_were():
    raw = {"model": {"name": "a", "args": {"layers": [1]}}, "run": {"epochs": 1}}
    assert recipe.changed(raw, ["model.args.b=2"])["model"]["args"] == {"layers": [1], "b": 2}
    assert raw == {"model": {"name": "a", "args": {"layers": [1]}}, "run": {"epochs": 1}}


def test_none_takes_a_value_away_and_is_a_text_where_a_text_belongs():
    full = recipe.parse(
        LEAST
        | {"optimizer": {"clip": 0.1, "head_lr": 0.5, "ema_decay": 0.9, "layer_decay": 0.5}}
        | {"data": {"crop_pct": 0.9, "group": "patient"}},
        where="test",
    )
    keys = ("optimizer.clip", "optimizer.head_lr", "optimizer.ema_decay", "optimizer.layer_decay")
    none = recipe.with_changes(full, [f"{key}=none" for key in (*keys, "data.crop_pct", "data.group")])
    assert none == recipe.parse(LEAST, where="test")
    texts = recipe.with_changes(full, ["augment.crop=none", "optimizer.schedule=none", 'data.group="none"'])
    assert (texts.augment.crop, texts.optimizer.schedule, texts.data.group) == ("none",) * 3
    with pytest.raises(InputError, match="optimizer.lr='none'"):
        recipe.with_changes(full, ["optimizer.lr=none"])


def test_a_key_that_may_have_no_value_has_none_by_default():
    """A recipe leaves out what has no value, so that it must come back when the file is read."""
    for name in recipe.optional():
        table, key = name.split(".")
        assert next(one.default for one in fields(recipe.TABLES[table]) if one.name == key) is None
    assert {"optimizer.clip", "run.patience", "data.val_split"} <= recipe.optional()
    assert not {"optimizer.lr", "augment.crop"} & recipe.optional()
