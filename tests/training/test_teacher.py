"""Learning from another network: the distances, what reaches whom, and that a student needs no labels."""

from __future__ import annotations

import json
import math
import random
import shutil

import pytest
import timm
import torch
from conftest import network
from safetensors.torch import save_file
from small_runs import Stop, make, paint, quiet, same, stop_at, weights
from torchvision.transforms.functional import normalize

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.data import open_task
from bcos_zoo.training import engine, losses, networks, runtime, states, teacher, teacher_name
from bcos_zoo.training.distillation import feature_distance, map_distance, pairs, probabilities
from bcos_zoo.training.trainer import Trainer

SMALL = {"layers": [1, 1, 1]}


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b)
    )


def test_features_of_one_width_are_compared_by_direction():
    ours, theirs = torch.randn(5, 7), torch.randn(5, 7)
    expected = sum(1 - cosine(a, b) for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)) / 5
    assert float(feature_distance(ours, theirs)) == pytest.approx(expected, abs=1e-6)
    assert float(feature_distance(ours, 3 * ours)) == pytest.approx(0, abs=1e-6)


def test_features_of_other_widths_are_compared_by_how_alike_the_images_are():
    ours, theirs = torch.randn(4, 7), torch.randn(4, 3)
    a, b = ours.tolist(), theirs.tolist()
    gaps = [(cosine(a[i], a[j]) - cosine(b[i], b[j])) ** 2 for i in range(4) for j in range(4)]
    assert float(feature_distance(ours, theirs)) == pytest.approx(sum(gaps) / 16, abs=1e-6)
    turned = torch.linalg.qr(torch.randn(7, 7))[0]
    wider = torch.cat([2 * ours @ turned, torch.zeros(4, 2)], 1)  # the same images, seen another way
    assert float(feature_distance(ours, wider)) == pytest.approx(0, abs=1e-6)


def test_maps_are_compared_by_direction_or_by_where_they_are_strong():
    ours, theirs = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    each = [
        1 - cosine(ours[n, :, i, j].tolist(), theirs[n, :, i, j].tolist())
        for n in range(2)
        for i in range(4)
        for j in range(5)
    ]
    assert float(map_distance(ours, theirs)) == pytest.approx(sum(each) / 40, abs=1e-6)
    other = torch.randn(2, 6, 4, 5)
    expected = 0.0
    for n in range(2):
        a, b = (values[n].square().mean(0) for values in (ours, other))
        expected += float((a / a.norm() - b / b.norm()).square().sum()) / 2
    assert float(map_distance(ours, other)) == pytest.approx(expected, abs=1e-6)
    assert float(map_distance(ours, torch.cat([ours, ours], 1))) == pytest.approx(0, abs=1e-6)


def test_levels_are_compared_where_strides_are_the_same():
    assert pairs([2, 4, 8, 16, 32], [4, 4, 8, 32]) == [(1, 1), (2, 2), (4, 3)]
    assert pairs([1, 2, 4], [8]) == []


def test_what_a_teacher_says():
    logits = torch.tensor([[1.0, 3.0], [0.0, -2.0]])
    expected = [[1 / (1 + math.e), math.e / (1 + math.e)], [math.e / (1 + math.e), 1 / (1 + math.e)]]
    torch.testing.assert_close(probabilities(logits, 2.0, multilabel=False), torch.tensor(expected))
    torch.testing.assert_close(probabilities(logits, 2.0, multilabel=True), (logits / 2).sigmoid())


@pytest.fixture(scope="module")
def taught(colours, tmp_path_factory):
    """A run that has learnt the colours."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    result = engine.train(make(run__epochs=4), open_task(colours, log=quiet), folder, log=quiet)
    assert result.scores["top1"] == 100
    return folder


def shuffled(colours, root):
    """The same images, in training under labels by lot."""
    shutil.copytree(colours / "val", root / "val")
    chosen = random.Random(0)
    for path in sorted((colours / "train").glob("*/*.png")):
        folder = root / "train" / chosen.choice(["blue", "red"])
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    return open_task(root, log=quiet)


@pytest.mark.parametrize(
    "settings",
    [
        {"answers": 1.0},
        {"answers": 1.0, "temperature": 4.0, "features": 1.0, "hints": 1.0},
    ],
    ids=["answers", "all"],
)
def test_a_student_learns_without_labels_what_its_teacher_knows(colours, taught, tmp_path, settings):
    task = shuffled(colours, tmp_path / "images")
    wanted = {f"teacher__{key}": value for key, value in settings.items()}
    wanted |= {"teacher__name": str(taught), "teacher__labels": 0.0, "run__epochs": 8}
    before = weights(taught)
    result = engine.train(make(**wanted), task, tmp_path / "run", log=quiet)
    assert result.scores["top1"] == 100
    assert same(weights(taught), before)
    alone = engine.train(make(run__epochs=8), task, tmp_path / "alone", log=quiet)
    assert alone.scores["top1"] < 95  # from such labels, nobody learns the colours


def test_a_run_with_a_teacher_resumes_to_the_same_bits(colours, taught, tmp_path):
    task = open_task(colours, log=quiet)
    wanted = make(
        teacher__name=str(taught), teacher__features=1.0, teacher__hints=0.5, augment__mixup=0.3,
        run__accumulate=2,
    )  # fmt: skip
    engine.train(wanted, task, tmp_path / "whole", log=quiet)
    with pytest.raises(Stop):
        engine.train(wanted, task, tmp_path / "cut", log=quiet, progress=stop_at(3))
    engine.train(wanted, task, tmp_path / "cut", resume=True, log=quiet)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    card = (tmp_path / "whole" / "README.md").read_text()
    said = "a network that is not published (bcos_resnet20)"
    assert f"with {said} as its teacher" in card and str(tmp_path) not in card
    assert f"- Weights of its teacher, {said}: unknown to bcos_zoo" in card
    assert f"taught by {said}" in (tmp_path / "whole" / "index.html").read_text()


def guide(task, tmp_path, student=None, *, loss=(), **settings):
    keys = {f"teacher__{key}": value for key, value in settings.items()}
    wanted = make(**keys, **{f"loss__{key}": value for key, value in dict(loss).items()})
    accelerator = runtime.accelerator(wanted, tmp_path)
    student = student or network("bcos_resnet20", num_classes=2, **SMALL)
    criterion = losses.for_task(wanted.loss, task, student.num_classes)
    return teacher.make_guide(wanted, task, student, criterion, accelerator)


def test_the_loss_is_the_sum_of_its_parts_and_reaches_the_student_alone(colours, taught, tmp_path):
    task = open_task(colours, log=quiet)
    student = network("bcos_resnet20", num_classes=2, **SMALL).train()
    parts = dict(answers=0.7, temperature=2.0, features=0.4, hints=0.3, labels=0.2)
    made = guide(task, tmp_path, student, name=str(taught), **parts)
    x, y = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 1, 0])
    criterion = Trainer(make(), task, tmp_path / "run").learner.criterion
    loss = made.loss(made.student(x), x, y, criterion)
    reference = bcos_zoo.load(taught).model
    with torch.no_grad():
        ours, theirs = student.forward_features(x), reference.forward_features(x)
        logits, told = student.forward_head(ours), reference.forward_head(theirs)
        pooled = (net.forward_head(f, pre_logits=True) for net, f in ((student, ours), (reference, theirs)))
        maps = zip(*(net.forward_intermediates(x)[1] for net in (student, reference)), strict=True)
        hints = [
            map_distance(a, b) for a, b in list(maps)[-3:]
        ]  # strides 1, 2 and 4; stem and first stage have 1
        expected = 0.2 * criterion(logits, y) + 0.7 * 4 * criterion(logits / 2, (told / 2).softmax(1))
        expected += 0.4 * feature_distance(*pooled) + 0.3 * torch.stack(hints).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in made.teacher.parameters())


@pytest.mark.parametrize(
    "loss",
    [
        {"kind": "bce", "off_label": "uniform"},
        {"kind": "bce", "smoothing": 0.5},
        {"kind": "ce", "smoothing": 0.5},
        {"kind": "bce", "off_label": "uniform", "smoothing": 0.3},
    ],
    ids=["uniform", "smooth", "softmax", "both"],
)
@pytest.mark.parametrize("labels", [0.0, 0.2])
def test_what_softens_labels_leaves_the_answers_of_the_teacher_as_they_are(
    colours, taught, tmp_path, loss, labels
):
    """Cross-entropies against its own probabilities, written out; a floor of 1/2 would erase them."""
    task = open_task(colours, log=quiet)
    student = network("bcos_resnet20", num_classes=2, **SMALL)
    made = guide(task, tmp_path, student, loss=loss, name=str(taught), labels=labels, temperature=3.0)
    x, y = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        ours = student(x) / 3
        told = (bcos_zoo.load(taught).model(x) / 3).softmax(1)
        if loss["kind"] == "ce":
            expected = -(told * ours.log_softmax(1)).sum(1).mean()
        else:
            expected = -(told * ours.sigmoid().log() + (1 - told) * (-ours).sigmoid().log()).mean()
        given = made.loss(student(x), x, y, lambda logits, targets: logits.new_tensor(7.0))
    assert given.item() == pytest.approx(9 * expected.item() + 7 * labels, rel=1e-4)


def test_heads_beside_the_classifier_learn_the_answers_without_labels(colours, taught, tmp_path):
    made = guide(open_task(colours, log=quiet), tmp_path, name=str(taught), labels=0.0)
    x, logits = torch.rand(4, 3, 32, 32), torch.randn(4, 2)
    one = made.loss(logits, x, torch.zeros(4), None)
    both = made.loss((logits, logits), x, torch.zeros(4), None)
    assert both.item() == pytest.approx(2 * one.item(), rel=1e-6)


def test_a_student_of_which_a_part_would_not_learn_is_refused(colours, taught, tmp_path):
    """Alone it would stay as it is, and several processes would wait for its gradient."""
    task = open_task(colours, log=quiet)
    student = timm.create_model("bcos_inception_v3", num_classes=2, aux_logits=True)
    student.pretrained_cfg["input_size"] = (3, 96, 96)
    settings = dict(name=str(taught), features=1.0)
    with pytest.raises(InputError, match=r"do not reach AuxLogits of the student; leave them out"):
        guide(task, tmp_path, student, **settings)
    student.AuxLogits.requires_grad_(False)
    guide(task, tmp_path, student, **settings)
    student.AuxLogits.requires_grad_(True)
    guide(task, tmp_path, student, name=str(taught))  # its answers reach all heads


def test_networks_that_cannot_be_compared_are_refused_before_the_first_step(colours, taught, tmp_path):
    """A student whose maps are not where its card says: that shows only when they are compared."""
    task = open_task(colours, log=quiet)
    student = network("bcos_resnet20", num_classes=2, **SMALL)
    student.forward_intermediates = lambda x, indices: (
        student.forward_features(x),
        [torch.zeros(2, 3, 0, 0)] * len(indices),
    )
    with pytest.raises(InputError, match=r"bcos_resnet20 cannot be compared with teacher.name=.*; leave out"):
        guide(task, tmp_path, student, name=str(taught), hints=1.0)


def test_a_trial_leaves_no_trace_in_the_student(colours, taught, tmp_path):
    student = network("bcos_resnet20", num_classes=2, **SMALL).train()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    guide(open_task(colours, log=quiet), tmp_path, student, name=str(taught), hints=1.0, features=1.0)
    assert same(student.state_dict(), before)
    assert all(module.training for module in student.modules())
    assert all(p.grad is None for p in student.parameters())


def test_a_teacher_with_one_logit_is_refused_in_words_of_its_own(colours, tmp_path):
    task = open_task(colours, log=quiet)
    wanted = make(model__args={"layers": [1, 1, 1], "num_classes": 1}, run__epochs=1)
    engine.train(wanted, task, tmp_path / "run", log=quiet)
    with pytest.raises(InputError, match=r"has a single logit, which is no answer for each class; learn its"):
        guide(task, tmp_path, name=str(tmp_path / "run"))
    guide(task, tmp_path, name=str(tmp_path / "run"), answers=0.0, features=1.0)


@pytest.mark.parametrize("fast", [False, True])
def test_the_teacher_lies_in_memory_as_the_students_images_do(colours, taught, tmp_path, fast):
    wanted = make(teacher__name=str(taught), run__channels_last=fast)
    made = Trainer(wanted, open_task(colours, log=quiet), tmp_path).learner.guide
    layers = [p for p in made.teacher.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert layers
    assert all(p.is_contiguous(memory_format=torch.channels_last) == fast for p in layers)


def test_a_teacher_is_called_what_it_is_and_its_licence_is_said(taught, tmp_path):
    def said(**settings):
        part = make(**{f"teacher__{key}": value for key, value in settings.items()}).teacher
        return teacher_name.public(part), teacher_name.licence(part)

    assert said(name="bcos_resnet20.cifar10") == ("bcos_resnet20.cifar10", "Apache-2.0")
    timms = timm.get_pretrained_cfg("resnet50.a1_in1k")
    assert said(name="resnet50.a1_in1k") == ("resnet50.a1_in1k", timms.license) and timms.license
    file = tmp_path / "mine.pth"
    expected = "resnet50.a1_in1k with weights of the file mine.pth"
    assert said(name="resnet50.a1_in1k", weights=str(file)) == (expected, None)
    assert said(name=str(taught)) == ("a network that is not published (bcos_resnet20)", None)
    other = shutil.copytree(taught, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["bcos_zoo"]["training"]["base"] = "bcos_resnet20.cifar10"
    (other / "config.json").write_text(json.dumps(config))
    began = "a network that is not published (bcos_resnet20, begun with bcos_resnet20.cifar10)"
    assert said(name=str(other)) == (began, None)


def test_each_network_sees_the_images_as_it_wants_them(colours, tmp_path):
    names = ["red", "blue"]
    conventional = timm.create_model("resnet18", num_classes=2)
    conventional.pretrained_cfg["label_names"] = names
    config = networks.data_config(conventional)
    x = torch.rand(2, 3, 8, 8)
    own, cpu = networks.data_config(network("bcos_resnet20")), torch.device("cpu")
    told = teacher._between(own, config, cpu)(x)
    torch.testing.assert_close(told, normalize(x, config["mean"], config["std"]))
    torch.testing.assert_close(teacher._between(config, own, cpu)(told), x)
    assert teacher._between(own, own, cpu)(x) is x  # nothing is computed where nothing differs


def test_a_file_whose_tensors_have_other_names_is_read_in_order(tmp_path):
    model = timm.create_model("resnet18", num_classes=5)
    own = model.state_dict()
    plain = {key: value for key, value in own.items() if not key.endswith("num_batches_tracked")}
    other = {f"layer.{i}": value for i, value in enumerate(plain.values())}
    found = networks.in_order(other, own)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[key], value) for key, value in plain.items())
    backwards = dict(reversed(other.items()))
    assert networks.in_order(backwards, own) is backwards  # other shapes in that order: not of this network
    assert networks.in_order(plain, own) is plain


def test_a_teacher_of_a_file_is_the_network_of_the_file(colours, tmp_path):
    task = open_task(colours, log=quiet)
    model = timm.create_model("resnet18", num_classes=3)
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    settings = dict(name="resnet18", weights=str(tmp_path / "mine.safetensors"), args={"num_classes": 3})
    made = guide(task, tmp_path, **settings, answers=0.0, features=1.0)
    assert same(made.teacher.network.state_dict(), model.state_dict())
    with pytest.raises(InputError, match=r"does not say what its 3 classes are; learn its features beside"):
        guide(task, tmp_path, **settings)


def test_teachers_that_do_not_fit_are_refused(colours, taught, tmp_path):
    task = open_task(paint(tmp_path / "other", {"train": 4, "val": 2}), log=quiet)
    with pytest.raises(InputError, match=r"knows 10 classes, but not blue, red; learn its features beside"):
        guide(task, tmp_path, name="bcos_resnet20.cifar10")
    with pytest.raises(InputError, match=r"teacher.args: resnet18 does not take them"):
        guide(task, tmp_path, name="resnet18", weights="none.pth", args={"depth_of_thought": 3})
    with pytest.raises(InputError, match=r"none in common; leave out teacher.hints"):
        vit = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=2)
        guide(task, tmp_path, vit, name=str(taught), hints=1.0, answers=0.0)
    with pytest.raises(InputError, match=r"teacher.answers, features and hints are 0"):
        make(teacher__name=str(taught), teacher__answers=0.0)
    with pytest.raises(InputError, match=r"teacher.labels and teacher.answers are 0, so nothing would teach"):
        make(teacher__name=str(taught), teacher__answers=0.0, teacher__features=1.0, teacher__labels=0.0)
    with pytest.raises(InputError, match=r"teacher.temperature=0.0: allowed are numbers above 0"):
        make(teacher__name=str(taught), teacher__temperature=0)


def test_the_command_takes_a_teacher_with_a_file_and_none_of_the_labels(run, colours, taught, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[model]\nname = "bcos_resnet20"\n[run]\nepochs = 1\ntrackers = []\n')
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "of it.safetensors")
    words = ["train", recipe, colours, "-o", tmp_path / "run", "--dry-run", "--json"]
    with_file = ["--teacher", f"resnet18+{tmp_path / 'of it.safetensors'}"]
    features = ["--set", "teacher.answers=0.0", "--set", "teacher.features=1.0"]
    code, out, err = run(*words, *with_file, *features)
    assert code == 0, err
    found = json.loads(out)["recipe"]["teacher"]
    assert (found["name"], found["labels"]) == ("resnet18", 1.0)
    assert found["weights"] == str(tmp_path / "of it.safetensors")
    code, out, err = run(*words, "--teacher", taught, "--no-labels")
    assert code == 0, err
    assert json.loads(out)["recipe"]["teacher"]["labels"] == 0.0
    code, _, err = run(*words, *with_file, *features, "--no-labels")
    assert code == 2 and "teacher.labels and teacher.answers are 0, so nothing would teach" in err
    code, _, err = run(*words, "--no-labels")
    assert code == 2 and "teacher.labels=0.0 has an effect only with teacher.name" in err


def test_a_conventional_student_names_its_teacher_too(colours, taught, tmp_path):
    small = {"channels": [8, 8, 8, 8]}
    wanted = make(
        model__name="resnet18", model__args=small, data__input_size=32, run__epochs=1, run__snapshots=0,
        teacher__name=str(taught),
    )  # fmt: skip
    engine.train(wanted, open_task(colours, log=quiet), tmp_path / "run", log=quiet)
    card = (tmp_path / "run" / "README.md").read_text()
    said = "a network that is not published (bcos_resnet20)"
    assert f", with {said} as its teacher (licence of its weights: unknown)" in card


def test_a_state_from_before_a_key_goes_on(colours, tmp_path):
    """A key that is newer than a state has its default, and a run of before is not another run."""
    task, wanted = open_task(colours, log=quiet), make()
    with pytest.raises(Stop):
        engine.train(wanted, task, tmp_path, log=quiet, progress=stop_at(3))
    (path, state) = states.newest(tmp_path)
    new = [key for key in state["recipe"] if key.startswith("teacher.")]
    assert new
    for key in new:
        del state["recipe"][key]
    torch.save(state, path)
    assert engine.train(wanted, task, tmp_path, resume=True, log=quiet).epochs == 2
