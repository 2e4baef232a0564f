"""Devices by name, and inputs that go where the model is. The marker `gpu` is of tests that need one."""

import pytest
import torch
from torch import nn

import bcos_zoo
from bcos_zoo import InputError, devices
from bcos_zoo.training import runtime
from bcos_zoo.training.recipe import Model, Recipe, Run

ACCELERATOR = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
needs_gpu = pytest.mark.skipif(ACCELERATOR is None, reason="torch finds no accelerator")


def machine_with(monkeypatch, kind: str, count: int) -> None:
    """Let torch say that it has so many devices of a kind; nothing is computed there."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def machine_without(monkeypatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


@pytest.mark.parametrize("name", ["auto", "cpu", "cpu:0", torch.device("cpu")])
def test_a_machine_without_an_accelerator_computes_on_the_cpu(monkeypatch, name):
    machine_without(monkeypatch)
    assert devices.choose(name) == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "xpu"])
def test_an_accelerator_that_is_not_here_is_refused_in_one_line(monkeypatch, name):
    machine_without(monkeypatch)
    with pytest.raises(InputError, match=f"{name} was asked for.*no {name[:3]}.*here: cpu") as error:
        devices.choose(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "cpu:3", "meta", "0"])
def test_what_names_no_device_is_refused(monkeypatch, name):
    machine_without(monkeypatch)
    with pytest.raises(InputError, match="allowed are auto, cpu, cuda"):
        devices.choose(name)


def test_numbers_are_of_devices_that_are_there(monkeypatch):
    machine_with(monkeypatch, "cuda", 2)
    assert devices.choose("auto") == torch.device("cuda")
    assert devices.choose("cuda:1") == torch.device("cuda:1")
    assert devices.choose("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="cuda:7 was asked for.* has 2 .*here: cpu, cuda:0, cuda:1"):
        devices.choose("cuda:7")
    with pytest.raises(InputError, match="mps was asked for.*here: cpu, cuda"):
        devices.choose("mps")


def test_each_process_of_torchrun_has_a_device_of_its_own(monkeypatch):
    machine_with(monkeypatch, "cuda", 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert devices.choose("auto") == devices.choose("cuda") == torch.device("cuda:1")
    assert devices.choose("cuda:0") == torch.device("cuda:0")


class Halves(nn.Module):
    """Holds its numbers in a buffer; or none at all."""

    num_classes, in_chans = 2, 3

    def __init__(self, place: str | None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if place is not None:
            self.register_buffer("count", torch.zeros((), dtype=torch.long, device=place))
            self.register_buffer("scale", torch.full((), 0.5, device=place, dtype=dtype))
        self.pretrained_cfg = dict(input_size=(3, 8, 8), mean=(0, 0, 0), std=(1, 1, 1))

    def forward(self, x):
        half = getattr(self, "scale", None)
        assert half is None or (half.device, half.dtype) == (x.device, x.dtype)
        return x.mean((-1, -2))[:, :2]


@pytest.mark.parametrize(
    "place, dtype", [("meta", torch.float32), ("cpu", torch.float64), (None, torch.float32)]
)
def test_images_go_where_a_model_is_though_it_has_buffers_alone(place, dtype):
    """A tensor on "meta" holds nothing, so what is not moved there cannot be computed with."""
    classifier = bcos_zoo.Classifier(Halves(place, dtype).eval(), ["a", "b"])
    logits = classifier.logits(torch.rand(3, 3, 8, 8))
    assert (logits.device.type, logits.dtype) == (place or "cpu", dtype)
    assert classifier.device.type == (place or "cpu")


def test_a_classifier_moves_to_a_precision_and_says_what_it_cannot():
    classifier = bcos_zoo.load("bcos_resnet20.cifar10")
    assert classifier.to("cpu", torch.float64) is classifier
    assert classifier.logits(torch.rand(1, 3, 32, 32)).dtype == torch.float64
    with pytest.raises(InputError, match="dtype=torch.int8"):
        classifier.to(dtype=torch.int8)
    with pytest.raises(InputError, match="no device is called 'gpu'"):
        classifier.to("gpu")


def recipe_on(device: str) -> Recipe:
    return Recipe(model=Model(name="bcos_resnet20"), run=Run(epochs=1, device=device, trackers=()))


def test_a_run_is_refused_where_its_device_is_not(monkeypatch, tmp_path):
    machine_without(monkeypatch)
    with pytest.raises(InputError, match="cuda:1 was asked for"):
        runtime.accelerator(recipe_on("cuda:1"), tmp_path)
    assert runtime.accelerator(recipe_on("cpu"), tmp_path).device == torch.device("cpu")


def test_several_processes_do_not_share_one_device(monkeypatch, tmp_path):
    machine_with(monkeypatch, "cuda", 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one device, but there are several processes"):
        runtime.accelerator(recipe_on("cuda:1"), tmp_path)


@pytest.mark.gpu
@needs_gpu
def test_an_accelerator_gives_the_numbers_of_the_cpu():
    classifier, x = bcos_zoo.load("bcos_resnet20.cifar10"), torch.rand(4, 3, 32, 32)
    expected, explained = classifier.logits(x), bcos_zoo.explain(classifier.model, x)
    classifier.to("auto")
    assert classifier.device.type == ACCELERATOR.type
    torch.testing.assert_close(classifier.logits(x).cpu(), expected, rtol=1e-3, atol=1e-3)
    found = bcos_zoo.explain(classifier.model, x)
    torch.testing.assert_close(found.contributions.cpu(), explained.contributions, rtol=1e-2, atol=1e-3)
