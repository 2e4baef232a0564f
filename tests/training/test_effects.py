"""No key of a recipe is passed over: each has an effect, or is refused where it would have none."""

from dataclasses import fields
from pathlib import Path

import pytest
from small_runs import paint, quiet

from bcos_zoo import InputError
from bcos_zoo.data import open_task
from bcos_zoo.training import defaults, effects, engine, recipe
from bcos_zoo.training.dry_run import dry_run

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
KEYS = {f"{table}.{one.name}" for table, part in recipe.TABLES.items() for one in fields(part)}
# A key set where it has no effect, and what must change for it to have one.
IDLE = [
    ("data.fold=1", "data.folds=3"),
    ("data.folds=3 data.val_share=0.3", None),
    ("augment.scale=[0.5,1.0] augment.crop=shift", "augment.crop=resized"),
    ("augment.ratio=[1.0,1.0] augment.crop=none", "augment.crop=resized"),
    ("augment.shift=2", "augment.crop=shift"),
    ("augment.mixup_prob=0.5", "augment.cutmix=1.0"),
    ("augment.mixup_switch_prob=0.1 augment.mixup=0.2", "augment.cutmix=1.0"),
    ("optimizer.clip_mode=norm", "optimizer.clip=1.0"),
    ("optimizer.warmup_factor=0.1", "optimizer.warmup_epochs=1.0"),
    ("optimizer.warmup_epochs=1.0 optimizer.schedule=none", "optimizer.schedule=constant"),
    ("optimizer.by_epoch=true optimizer.schedule=none", "optimizer.schedule=cosine"),
    ("model.head=fitted", "model.pretrained=true"),
    ("optimizer.layer_decay=0.5 model.train=head", "model.train=full"),
    ("optimizer.min_lr=1e-5 optimizer.schedule=multistep", "optimizer.schedule=cosine"),
    ("optimizer.milestones=[3]", "optimizer.schedule=multistep"),
    ("optimizer.decay_epochs=3.0", "optimizer.schedule=step"),
    ("optimizer.decay_rate=0.5", "optimizer.schedule=poly"),
    ("optimizer.ema_every=3", "optimizer.ema_decay=0.9"),
    ("run.monitor=f1", "run.patience=3"),
    ("teacher.weights=a.pth", "teacher.name=resnet18"),
    ("teacher.args={drop_rate=0.1}", "teacher.name=resnet18"),
    ("teacher.answers=0.5", "teacher.name=resnet18"),
    ("teacher.temperature=2.0", "teacher.name=resnet18"),
    (
        "teacher.temperature=2.0 teacher.name=resnet18 teacher.answers=0.0 teacher.hints=1.0",
        "teacher.answers=1.0",
    ),
    ("teacher.features=1.0", "teacher.name=resnet18"),
    ("teacher.hints=1.0", "teacher.name=resnet18"),
    ("teacher.labels=0.0", "teacher.name=resnet18"),
    ("teacher.classes=teacher", "teacher.name=resnet18"),
    ("data.labels=false teacher.name=resnet18 teacher.classes=teacher", "teacher.labels=0.0"),
    ("model.weights=a.pth", "model.pretrained=true"),
    ("conversion.constants_epochs=2.0", "conversion.constants=0.5"),
    ("conversion.b_epochs=2", "conversion.b_from=1.0"),
    ("loss.off_label=uniform teacher.name=resnet18 teacher.labels=0.0", "teacher.labels=0.5"),
    ("loss.smoothing=0.1 teacher.name=resnet18 teacher.labels=0.0", "teacher.labels=0.5"),
    ("run.snapshot_every=3 run.snapshots=0", "run.snapshots=2"),
]


def made(changes):
    plain = {"model": {"name": "bcos_resnet20"}, "run": {"epochs": 4}}
    return recipe.parse(recipe.changed(plain, changes), where="test")


def test_every_key_is_declared():
    declared = {rule.key for rule in (*effects.RULES, *effects.TASK_RULES)}
    assert declared | effects.ALWAYS == KEYS
    assert not declared & effects.ALWAYS
    tried = {change.split("=")[0] for idle, _ in IDLE for change in idle.split()}
    assert {rule.key for rule in effects.RULES} <= tried


@pytest.mark.parametrize("idle, cure", IDLE)
def test_a_key_that_would_change_nothing_is_refused(idle, cure):
    with pytest.raises(InputError, match="has an effect only") as got:
        effects.check(made(idle.split()))
    assert "\n" not in str(got.value)
    assert any(str(got.value).startswith(change.split("=")[0]) for change in idle.split())
    if cure is not None:
        effects.check(made([*idle.split(), cure]))


@pytest.mark.parametrize(
    "changes, named",
    [
        (["model.head=fitted", "model.pretrained=true"], "model.head='fitted'"),
        (["loss.class_weights=balanced"], "loss.class_weights='balanced'"),
        (["data.balanced=true"], "data.balanced=True"),
        (
            ["data.balanced=true", "loss.class_weights=balanced"],
            "'balanced', data.balanced=True",
        ),
    ],
)
def test_what_would_read_labels_is_refused_without_them(changes, named):
    taught = ["teacher.name=resnet18"]
    with pytest.raises(InputError, match=rf"labels=0.0 learns without labels, and .*{named} would read them"):
        effects.check(made([*taught, "teacher.labels=0.0", *changes]))
    effects.check(made([*taught, *changes]))
    effects.check(made([*taught, "teacher.labels=0.0"]))


@pytest.mark.parametrize(
    "schedule", ["cosine", "tanh", "step", "multistep", "poly", "wsd", "rsqrt", "constant"]
)
def test_the_rules_of_schedules_are_those_of_timm(schedule):
    """The rates over a run change with a key exactly where the rules say that it has an effect."""
    import torch

    from bcos_zoo.training.optimization import make_schedule

    def rates(**options):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        usual = {"milestones": (30,), "decay_epochs": 20.0, "warmup_epochs": 1.0}
        part = recipe.Optimizer(schedule=schedule, lr=0.1, **(usual | options))
        set_rates = make_schedule(optimizer, part, epochs=40, steps=5)
        found = []
        for step in range(200):
            set_rates(step)
            found.append(optimizer.param_groups[0]["lr"])
        return found

    plain = rates()
    for key, value in {
        "min_lr": 0.01, "milestones": (20,), "decay_epochs": 10.0, "decay_rate": 0.5,
    }.items():  # fmt: skip
        [rule] = [rule for rule in effects.RULES if rule.key == f"optimizer.{key}"]
        works = rule.works(made([f"optimizer.schedule={schedule}"]))
        assert works == (rates(**{key: value}) != plain), key


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_recipes_that_come_with_the_zoo_have_no_idle_key(path):
    effects.check(recipe.read(path))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return paint(tmp_path_factory.mktemp("two"), {".": 12})


@pytest.fixture(scope="module")
def parted(tmp_path_factory):
    return paint(tmp_path_factory.mktemp("parted"), {"train": 12, "val": 3})


@pytest.mark.parametrize(
    "model", ["bcos_resnet20.cifar10", "bcos_resnet18_w32.imagenette"], ids=["small", "large"]
)
@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["augment.crop=none"],
        ["augment.crop=shift", "augment.shift=2"],
        ["augment.crop=resized", "augment.scale=[0.5,1.0]"],
        ["run.snapshots=0"],
    ],
)
def test_what_finetune_does_by_itself_has_no_idle_key(pictures, model, changes):
    task = open_task(pictures, log=quiet)
    effects.check(defaults.for_task(defaults.finetuning(model, "full", changes), task, changes), task)


def test_keys_that_the_images_make_idle_are_refused(pictures, parted, tmp_path):
    files = sorted(pictures.rglob("*.png"))
    rows = [f"{p.relative_to(pictures.parent)},{'a|b' if i % 2 else 'b'}" for i, p in enumerate(files)]
    (pictures.parent / "set.csv").write_text("\n".join(["path,labels", *rows]))
    several = open_task(pictures.parent / "set.csv", log=quiet)
    one, two = open_task(pictures, log=quiet), open_task(parted, log=quiet)
    for changes, task, said in [
        (["loss.off_label=0.1"], several, "loss.off_label=0.1 has an effect only with one label an image"),
        (["loss.off_label=uniform"], several, "loss.off_label='uniform' has an effect only with one label"),
        (["loss.off_label=0.1", "model.args.num_classes=1"], one, "only with an output for each class"),
        (["data.seed=3"], two, "data.seed=3 has an effect only where the set has no validation part"),
        (["data.val_share=0.3"], two, "data.val_share=0.3 has an effect only where"),
    ]:
        with pytest.raises(InputError, match=said):
            dry_run(made(changes), task, tmp_path)
        with pytest.raises(InputError, match=said):
            engine.train(made([*changes, "run.trackers=[]"]), task, tmp_path / "run", log=quiet)
        assert not (tmp_path / "run" / "state").exists()
    effects.check(made(["loss.off_label=0.1", "data.seed=3"]), one)


@pytest.mark.parametrize(
    "options, said",
    [
        (
            {"root": "x"},
            "root='x' applies to hfds/, a stream of hfids/, torch/, and this is a file or folder",
        ),
        ({"download": True}, "download=True applies to torch/, and this is a file or folder"),
        ({"image_key": "photo"}, "image_key='photo' applies to hfds/"),
        ({"label_key": "kind"}, "label_key='kind' applies to hfds/, wds/"),
        ({"fold": 1}, "fold=1 without folds"),
        ({"folds": 3, "val_share": 0.3}, "val_share=0.3 beside folds=3"),
    ],
)
def test_options_of_other_sources_are_refused(pictures, options, said):
    with pytest.raises(InputError, match=said):
        open_task(pictures, log=quiet, **options)


@pytest.mark.parametrize("options", [{"val_share": 0.3}, {"seed": 3}, {"folds": 3}, {"fold": 2}])
def test_options_of_a_division_that_is_not_made_are_refused(parted, options):
    with pytest.raises(InputError, match="has a validation split, so"):
        open_task(parted, log=quiet, **options)


@pytest.mark.parametrize("options", [{"val_share": 0.3}, {"seed": 3}, {"folds": 3}, {"group": "x"}])
def test_a_stream_is_not_divided(options):
    with pytest.raises(InputError, match="is a stream, which is not divided: leave"):
        open_task("hfids/anything", log=quiet, **options)


def test_other_options_of_sources_by_name_are_refused(tmp_path):
    for source, options in [
        ("wds/folder", {"root": "x"}),
        ("wds/folder", {"image_key": "x"}),
        ("torch/cifar10", {"label_key": "x"}),
        ("hfds/name", {"download": True}),
        ("torch/image_folder", {"download": True, "root": str(tmp_path)}),
    ]:
        with pytest.raises(InputError, match="leave (it|download) out"):
            open_task(source, log=quiet, **options)


def test_a_dry_run_raises_what_the_run_would_and_changes_nothing_for_the_process(parted, tmp_path):
    from accelerate import Accelerator

    two = open_task(parted, log=quiet)
    wanted = made(["run.precision=bfloat16"])
    facts = dry_run(wanted, two, tmp_path / "run")
    assert facts["resumable_at_step"] is None and not (tmp_path / "run").exists()
    assert Accelerator(mixed_precision="no").mixed_precision == "no"
    with pytest.raises(InputError, match="holds no run that could go on"):
        dry_run(wanted, two, tmp_path, resume=True)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds a network already"):
        dry_run(wanted, two, tmp_path)
