"""Batch norm over two processes, each with its part of a batch, is batch norm of the batch in one."""

import datetime
import os

import pytest
import timm
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import bcos_zoo  # noqa: F401
from bcos_zoo.layers import BatchNorm2d, linear_mode, synchronise_norms

F64 = torch.float64
EXACT = dict(rtol=1e-10, atol=1e-10)
K, STEPS = 4, 2
NORMS = [
    dict(centered=centered, joint=joint, momentum=momentum)
    for centered in (False, True)
    for joint in (False, True)
    for momentum in (0.1, None)
]
PARTS = {"equal": (3, 3), "unequal": (1, 5)}
MODELS = {"uncentred": dict(norm="bnu"), "centred": dict(norm="bn")}


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def batch(step, images=6):
    """Images whose mean and spread differ much, so that statistics of a part are not those of the whole."""
    return draw(images, K, 3, 2, seed=step) * torch.arange(1, images + 1)[:, None, None, None] + 5 * step


def make_norm(options):
    norm = BatchNorm2d(K, dtype=F64, **options)
    with torch.no_grad():
        norm.weight.copy_(draw(*norm.weight.shape, seed=9))
    return norm


def train_norm(norm, part):
    """Outputs and gradients of some steps on a part of the batch, and what the norm then holds."""
    outputs, gradients = [], []
    for step in range(STEPS):
        x = batch(step)[part].requires_grad_()
        y = norm(x)
        (y * draw(*batch(step).shape, seed=7)[part]).sum().backward()
        outputs.append(y.detach())
        gradients.append(x.grad)
    return dict(y=outputs, x=gradients, weight=norm.weight.grad, buffers=list(norm.buffers()))


def make_model(options):
    torch.manual_seed(0)
    return timm.create_model("bcos_resnet20", num_classes=3, layers=(1, 1), **options).double()


def train_model(model, part):
    """Gradients of the mean loss of a part, and the buffers after the step."""
    x = torch.rand(4, 3, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(3))
    x = (x * torch.tensor([0.1, 0.4, 0.7, 1.0])[:, None, None, None])[part].requires_grad_()
    model(x).square().mean().backward()
    model = getattr(model, "module", model)
    return dict(
        x=x.grad,
        weights={name: p.grad for name, p in model.named_parameters()},
        buffers=dict(model.named_buffers()),
    )


def meet(rank, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=60)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timeout
    )


def synchronised(module):
    assert synchronise_norms(module) == []
    return module


def work(rank, folder):
    """What each of the two processes does; the results go to a file."""
    meet(rank, folder)
    found = {}
    for name, sizes in PARTS.items():
        part = slice(sizes[0]) if rank == 0 else slice(sizes[0], sum(sizes))
        for index, options in enumerate(NORMS):
            found[name, index] = train_norm(synchronised(make_norm(options)), part)
            distributed.all_reduce(found[name, index]["weight"])
    for name, options in MODELS.items():
        model = DistributedDataParallel(synchronised(make_model(options)))
        found[name] = train_model(model, slice(2 * rank, 2 * rank + 2))
    norm = synchronised(BatchNorm2d(K, centered=True))
    found["large mean"] = norm((1000 + batch(0)[slice(3 * rank, 3 * rank + 3)]).float())
    if rank == 0:  # what follows would wait for ever if it asked the other process
        norm = synchronised(make_norm(dict(centered=True)))
        with linear_mode():
            found["linear"] = norm(batch(0)[:3])
        found["eval"] = norm.eval()(batch(0)[:3])
        synchronise_norms(norm.train(), False)
        found["off"] = norm(batch(0)[:3])
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def work_compiled(rank, folder):
    meet(rank, folder)
    model = torch.compile(
        DistributedDataParallel(synchronised(make_model(MODELS["centred"]))), backend="aot_eager"
    )
    torch.save(train_model(model, slice(2 * rank, 2 * rank + 2)), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def run(worker, folder):
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run(work, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("options", NORMS, ids=str)
@pytest.mark.parametrize("name", PARTS)
def test_a_batch_in_two_processes_is_normalised_as_in_one(found, name, options):
    expected = train_norm(make_norm(options), slice(None))
    parts = [results[name, NORMS.index(options)] for results in found]
    for step in range(STEPS):
        for what in ("y", "x"):
            got = torch.cat([part[what][step] for part in parts])
            torch.testing.assert_close(got, expected[what][step], **EXACT)
    for part in parts:
        torch.testing.assert_close(part["weight"], expected["weight"], **EXACT)
        torch.testing.assert_close(part["buffers"], expected["buffers"], **EXACT)


def check_model(results, expected):
    for one in results:
        torch.testing.assert_close(one["weights"], expected["weights"], **EXACT)
        torch.testing.assert_close(one["buffers"], expected["buffers"], **EXACT)
    got = torch.cat([one["x"] for one in results]) / 2  # of the mean of the processes' losses
    torch.testing.assert_close(got, expected["x"], **EXACT)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_in_two_processes_learns_as_in_one(found, name):
    check_model([one[name] for one in found], train_model(make_model(MODELS[name]), slice(None)))


@pytest.mark.slow
def test_a_compiled_network_in_two_processes_learns_as_in_one(tmp_path):
    check_model(run(work_compiled, tmp_path), train_model(make_model(MODELS["centred"]), slice(None)))


def test_a_part_of_the_batch_alone_would_give_other_gradients():
    """Else the tests above could not fail."""
    whole, part = (train_model(make_model({}), slice(end))["weights"]["fc.linear.weight"] for end in (4, 2))
    assert not torch.allclose(whole, part, rtol=0.1)


def test_a_large_mean_takes_nothing_from_the_variance(found):
    got = torch.cat([results["large mean"] for results in found])
    expected = BatchNorm2d(K, centered=True, dtype=F64)((1000 + batch(0)).float().double())
    torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-3)


def test_linear_mode_eval_mode_and_norms_switched_off_ask_no_other_process(found):
    x, norm = batch(0)[:3], make_norm(dict(centered=True))
    torch.testing.assert_close(found[0]["linear"], norm(x), **EXACT)
    torch.testing.assert_close(found[0]["off"], make_norm(dict(centered=True))(x), **EXACT)
    torch.testing.assert_close(found[0]["eval"], norm.eval()(x), **EXACT)


@pytest.mark.parametrize("options", NORMS, ids=str)
def test_one_process_alone_is_not_changed(options):
    plain, other = make_norm(options), synchronised(make_norm(options))
    assert torch.equal(plain(batch(0)), other(batch(0)))
    assert list(plain.state_dict()) == list(other.state_dict())
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in plain.state_dict().items())


def test_norms_of_another_kind_are_named_and_left_alone():
    model = nn.Sequential(BatchNorm2d(3), nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm1d(3)))
    assert synchronise_norms(model) == ["1", "2.0"]
    assert model[0].synchronised
    synchronise_norms(model, False)
    assert not model[0].synchronised
