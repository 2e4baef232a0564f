"""A converted network that learns: from its original, with labels or without, its constants fading."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_runs import Stop, paint, quiet, same, stop_at, weights
from small_runs import converted_recipe as recipe_of

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.data import Samples, open_task
from bcos_zoo.training import changing, classes, constants, converting, effects, engine, learner, networks
from bcos_zoo.training.course import Course
from bcos_zoo.training.trainer import Trainer
from bcos_zoo.weights import config_json

NAMED = ("blue", "red")
ALONE = SimpleNamespace(device=torch.device("cpu"), num_processes=1)  # what a run asks accelerate for


def constants_of(model: Any) -> float:
    return max(float(constant.detach().abs().max()) for constant in model.constants())


def test_it_keeps_what_the_original_knows_and_loses_its_constants(
    colours: Path, original: Path, tmp_path: Path
) -> None:
    before = weights(original)
    run = tmp_path / "run"
    result = engine.train(recipe_of(original), open_task(colours, log=quiet), run, log=quiet)
    assert result.scores["top1"] == 100
    assert same(weights(original), before)
    clf = bcos_zoo.load(run)
    assert not list(clf.model.constants()) and clf.model.conversion["centring"] == "dropped"
    said = config_json.read(f"local-dir:{run}").training
    assert said is not None and said.constants == 0 and said.teacher_scores["top1"] == 100
    card = (run / "README.md").read_text()
    assert "- Converted from `test_resnet` by bcos_zoo's rules:" in card
    assert "constants, which no pixel has, are 0.0 % of the logit in the median" in card
    assert "\nlicense: unknown\n" in card  # of a network that nobody published
    assert "'plan'" not in card and str(original) not in card
    e = clf.explain(next((colours / "val" / "red").iterdir()))
    assert e.labels[0][0] == "red" and float(e.bias.abs().max()) == 0
    assert float(e.completeness().abs().max()) < 1e-4 * float(e.logits.abs().max())


def test_without_labels_it_learns_the_originals_classes_from_loose_images(
    colours: Path, original: Path, tmp_path: Path
) -> None:
    loose = tmp_path / "loose"
    for i, path in enumerate(sorted(colours.glob("*/*/*.png"))):
        (loose / f"{i % 3}").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, loose / f"{i % 3}" / f"{i}.png")
    wanted = recipe_of(original, data__labels=False, teacher__labels=0.0, teacher__classes="teacher")
    assert classes.of_teacher(wanted.teacher) == NAMED
    task = open_task(loose, answers=NAMED, log=quiet)
    assert not task.train.labels.any() and not task.val.labels.any()  # nothing is known of them
    run = tmp_path / "run"
    result = engine.train(wanted, task, run, log=quiet)
    assert result.scores["top1"] == 100  # agreement with the original, on images of both classes
    assert tuple(bcos_zoo.load(run).class_names) == NAMED
    card = (run / "README.md").read_text()
    assert "agreement with its teacher: top-1 accuracy | 100" in card and "model-index" not in card
    trainer = Trainer(wanted, task, tmp_path / "again")
    copied = [_copied_from(colours, task.val.name(i)) for i in range(len(task.val))]
    truth = ["red" if "red" in name else "blue" for name in copied]
    assert [NAMED[i] for i in trainer.task.val.labels.tolist()] == truth
    assert trainer.task.fingerprint == task.fingerprint  # so that the run can go on anywhere


def _copied_from(colours: Path, copied: str) -> str:
    content = Path(copied).read_bytes()
    return next(str(path) for path in colours.glob("*/*/*.png") if path.read_bytes() == content)


@pytest.mark.parametrize(
    "changes", [{}, {"conversion__b_from": 1.0, "conversion__b_epochs": 2}], ids=["b", "rising b"]
)
def test_a_cut_run_goes_on_to_the_same_bits(
    colours: Path, original: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    task, wanted = open_task(colours, log=quiet), recipe_of(original, **changes)
    engine.train(wanted, task, tmp_path / "whole", log=quiet)
    for step in (3, 9):
        with pytest.raises(Stop):
            engine.train(wanted, task, tmp_path / f"cut{step}", log=quiet, progress=stop_at(step))
        engine.train(wanted, task, tmp_path / f"cut{step}", resume=True, log=quiet)
        assert same(weights(tmp_path / f"cut{step}"), weights(tmp_path / "whole"))


def test_labels_are_found_among_the_teachers_classes_by_name(tmp_path: Path) -> None:
    root = paint(tmp_path / "images", {"train": 4, "val": 2})
    for part in ("train", "val"):  # folders named as ImageNet's are
        (root / part / "blue").rename(root / part / "n01440764")
        (root / part / "red").rename(root / part / "n03888257")
    task = open_task(root, log=quiet)
    names = ["parachute", "house", "tench"]
    found = classes.among(task, names)
    assert found.class_names == tuple(names)
    for part in ("train", "val"):
        of = [Path(getattr(found, part).name(i)).parent.name for i in range(len(getattr(found, part)))]
        expected = [2 if name == "n01440764" else 0 for name in of]
        assert getattr(found, part).labels.tolist() == expected
        assert found.found[part].labels.tolist() == expected
    assert classes.among(found, names) is found
    with pytest.raises(InputError, match="knows 2 classes, but not n03888257") as caught:
        classes.among(task, ["tench", "house"])
    assert "\n" not in str(caught.value)


def converted(b: float = 2.0) -> Any:
    return bcos_zoo.bcosify("test_resnet", b=b, num_classes=3)


def test_constants_shrink_linearly_to_the_share_asked_for() -> None:
    model = converted()
    begun = [constant.detach().clone() for constant in model.constants()]
    course = Course(constants=0.25, constants_epochs=1.5)
    course_of = changing.Changing(course, model, epochs=4, steps=4)
    reached = 1.0
    for done, left in enumerate([1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.25, 0.25]):
        if done:
            reached = course_of.after(done, reached)
            assert reached == pytest.approx(left)
        for now, before in zip(model.constants(), begun, strict=True):
            torch.testing.assert_close(now.detach(), left * before)
    assert changing.Changing(Course(constants=0.0), model, epochs=3, steps=4).left(12) == 0  # by the end


def test_the_exponent_rises_after_each_epoch() -> None:
    model = converted(b=2.0)
    course = changing.Changing(Course(b_from=1.0, b_epochs=2), model, epochs=4, steps=3)
    for done, b in [(0, 1.0), (2, 1.0), (3, 1.5), (5, 1.5), (6, 2.0), (11, 2.0), (1, 1.0)]:
        course.before(done)
        assert {layer.b for layer in model.bcos_layers().values()} == {b}


def test_constants_wait_where_a_run_turns_out_longer_and_then_go_on() -> None:
    model = converted()
    begun = [constant.detach().clone() for constant in model.constants()]
    course_of = changing.Changing(Course(constants=0.0), model, epochs=4, steps=4)
    reached = 1.0
    for done, left in [(4, 0.75), (8, 0.5), (6, 0.5), (7, 0.5), (12, 0.25), (16, 0.0), (17, 0.0)]:
        reached = course_of.after(done, reached)
        assert reached == left
        for now, before in zip(model.constants(), begun, strict=True):
            torch.testing.assert_close(now.detach(), left * before)


def test_what_a_step_adds_to_constants_that_are_gone_goes_too() -> None:
    model = converted()
    course_of = changing.Changing(Course(constants=0.0, constants_epochs=0.0), model, epochs=1, steps=4)
    reached = course_of.after(1, 1.0)
    with torch.no_grad():
        for constant in model.constants():
            constant.add_(1.0)
    assert course_of.after(2, reached) == 0 and constants_of(model) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"conversion__constants_epochs": 3.5},
            r"constants_epochs=3.5 of run.epochs=3: constants would be left",
        ),
        (
            {"conversion__b_from": 1.0, "conversion__b_epochs": 3},
            r"b_epochs=3 of run.epochs=3: nothing would",
        ),
        (
            {"conversion__b_from": 1.0, "run__keep_best": True},
            r"b_from=1.0 with run.keep_best=True: scores of",
        ),
        ({"conversion__b_from": 1.0, "run__patience": 2}, r"b_from=1.0 with run.patience=2: scores of"),
    ],
    ids=["constants", "exponent", "best", "patience"],
)
def test_a_course_that_does_not_fit_its_run_is_refused(original: Path, changes: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        effects.check(recipe_of(original, **changes))
    assert "\n" not in str(caught.value)
    effects.check(recipe_of(original, conversion__constants_epochs=3.0, conversion__b_from=1.0))


@pytest.mark.parametrize("images", [1, 5, 63, 64, 65, 100, 127, 128, 1000])
def test_constants_are_measured_all_over_the_set(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gaps between neighbours, and to both ends, differ by one at most."""
    seen: list[int] = []

    def loader(some: Any, *_: Any, **__: Any) -> list[Any]:
        seen.extend(some.indices.tolist())
        return []

    monkeypatch.setattr(constants, "val_loader", loader)
    index = torch.arange(images)
    constants.median_share(converted(), Samples(None, index, index))  # type: ignore[arg-type]
    assert len(seen) == min(images, 64) and seen[0] == 0 and seen[-1] == images - 1
    gaps = {b - a for a, b in zip(seen, seen[1:], strict=False)}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


def test_only_converted_networks_have_a_conversion() -> None:
    with pytest.raises(InputError, match=r"\[conversion\] is for networks that bcosify made"):
        changing.Changing(Course(constants=0.5), timm.create_model("bcos_resnet20"), epochs=1, steps=1)


def test_statistics_are_estimated_on_the_first_training_images(colours: Path, original: Path) -> None:
    wanted, task = recipe_of(original, conversion__estimate=16), open_task(colours, log=quiet)
    model, _ = networks.build(wanted, task)
    before = copy.deepcopy(model.state_dict())
    changing.estimate(model, wanted, task, ALONE)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all(
        key.endswith(("running_mean", "running_var", "num_batches_tracked")) for key in changed
    )


def test_the_recipe_follows_the_original_and_the_images(colours: Path, original: Path) -> None:
    task = open_task(colours, log=quiet)
    wanted = converting.for_task(converting.converting(str(original), None), task)
    assert wanted.model.args["centring"] == "fading" and wanted.conversion.estimate
    assert wanted.model.args["antialias"] == "blur"
    assert (wanted.teacher.answers, wanted.teacher.features) == (1, 1)
    other = converting.for_task(
        converting.converting(
            "test_vit", None, b=2.0, changes=["model.pretrained=false", "model.head='random'"]
        ),
        task,
    )
    assert not {"antialias", "centring"} & other.model.args.keys()  # it has no strides and no batch norms
    assert not other.conversion.estimate
    assert (other.teacher.answers, other.teacher.features) == (0, 1)  # it does not know these classes
    assert other.model.args["b"] == 2
    mine = converting.for_task(
        converting.converting(str(original), None, changes=["run.epochs=7"]), task, ["run.epochs=7"]
    )
    plain = converting.for_task(
        converting.converting(str(original), None), task, ["model.args.antialias=none", "run.shard=true"]
    )
    assert plain.model.args["antialias"] == "none" and plain.teacher.features == 0
    assert mine.run.epochs == 7 and mine.conversion.constants_epochs == pytest.approx(4.2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__labels": False}, "data.labels=False has an effect only"),
        ({"teacher__classes": "all"}, "teacher.classes='all': allowed are 'task', 'teacher'"),
        ({"conversion__constants": 1.5}, "conversion.constants=1.5: allowed are"),
        ({"conversion__b_from": 0.5}, "conversion.b_from=0.5: allowed are"),
        ({"conversion__constants": 1.0}, "conversion.constants_epochs=1.5 has an effect only"),
        ({"model__weights": "there/is.none"}, "there/is.none"),
        ({"model__args": {"original": "nope"}}, "nope"),
        ({"model__args": {"original": "test_vit", "centring": "fading"}}, "test_vit"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_does_not_fit_is_refused_in_one_line_before_the_first_step(
    colours: Path, original: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(bcos_zoo.BcosZooError, match=said) as caught:
        engine.train(
            recipe_of(original, **changes),
            open_task(colours, log=quiet),
            tmp_path / "run",
            log=quiet,
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_classifier_is_kept_only_of_classes_that_are_known(original: Path, tmp_path: Path) -> None:
    root = paint(tmp_path / "images", {"train": 4, "val": 2})
    for part in ("train", "val"):
        (root / part / "red").rename(root / part / "green")
    wanted = recipe_of(original, teacher__answers=0.0, teacher__features=1.0)
    with pytest.raises(InputError, match=r"model.head='kept', but .* knows 1 of 2 classes"):
        engine.train(wanted, open_task(root, log=quiet), tmp_path / "run", log=quiet)


def test_statistics_of_no_batch_norm_are_not_estimated(colours: Path, original: Path) -> None:
    task = open_task(colours, log=quiet)
    model = bcos_zoo.bcosify("test_vit", num_classes=2)
    with pytest.raises(
        InputError, match=r"estimate=16 is of batch norms, and the network has none; leave"
    ) as e:
        changing.check(model, recipe_of(original), task)
    assert "\n" not in str(e.value)
    changing.check(model, recipe_of(original, conversion__estimate=0), task)


def test_statistics_are_those_of_the_first_process_and_come_before_norms_meet(
    colours: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms that meet would wait, at each batch, for a process that reads other images or is done."""
    wanted, task = recipe_of(original), open_task(colours, log=quiet)
    several = SimpleNamespace(device=torch.device("cpu"), num_processes=2)
    seen: list[Any] = []

    def meet(model: Any) -> list[str]:
        seen.append({key: value.clone() for key, value in model.named_buffers()})
        raise Stop

    monkeypatch.setattr("accelerate.utils.broadcast", lambda buffer: torch.full_like(buffer, 7))
    monkeypatch.setattr(learner, "synchronise_norms", meet)
    with pytest.raises(Stop):
        learner.make_learner(wanted, task, several, 4)
    assert seen[0] and all((value == 7).all() for value in seen[0].values())


def test_constants_that_stay_have_no_epochs_to_shrink_in(colours: Path, original: Path) -> None:
    task = open_task(colours, log=quiet)
    for changes in ([], ["conversion.constants=1"], ["conversion.constants=0.5"]):
        wanted = converting.for_task(
            converting.converting(str(original), None, changes=changes), task, changes
        )
        effects.check(wanted, task)
        assert (wanted.conversion.constants_epochs is None) == (wanted.conversion.constants == 1)


def test_nothing_is_loaded_to_plan_a_run(colours: Path, original: Path, tmp_path: Path) -> None:
    """Only the structure and the names are asked for: the file of weights is damaged, and nobody minds."""
    shutil.copytree(original, tmp_path / "original")
    (tmp_path / "original" / "model.safetensors").write_bytes(b"no weights")
    wanted, task = converting.prepared(
        str(tmp_path / "original"), None, colours, labels=False, changes=["data.input_size=32"], log=quiet
    )
    assert wanted.data.labels and task.class_names == NAMED and wanted.model.args["centring"] == "fading"
    album = colours.parent / "album"
    if not album.exists():
        shutil.copytree(colours / "train" / "red", album / "2019")
        shutil.copytree(colours / "train" / "blue", album / "2020")
    wanted, task = converting.prepared(str(tmp_path / "original"), None, album, labels=False, log=quiet)
    assert not wanted.data.labels and task.class_names == NAMED
    effects.check(wanted, task)


def test_an_original_of_timms_is_not_a_folder_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_resnet").mkdir()
    file = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    model = networks.create("bcos_converted", True, {"original": "test_resnet"}, str(file))
    assert model.num_classes == 1000 and networks.public_name("test_resnet") == "test_resnet"


def test_a_misspelt_original_is_refused_with_names_of_timm_before_images_are_read() -> None:
    with pytest.raises(
        bcos_zoo.UnknownModelError, match=r"timm has no network named 'resnt18'; closest: .*resnet18"
    ):
        converting.converting("resnt18", None)
