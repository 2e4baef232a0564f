"""Fading batch norms over two processes, each with its part of a batch: as over the batch in one."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from bcos_zoo.conversion.norms import fade
from bcos_zoo.layers import synchronise_norms

pytestmark = pytest.mark.slow

CASES = [(share, momentum) for share in (1.0, 0.3) for momentum in (0.1, None)]
SIZES = (1, 5)
K, STEPS = 4, 2


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def trained(share: float, momentum: float | None, part: slice) -> dict[str, Any]:
    """Outputs and gradients of some steps on a part of the batch, and what the norm then holds."""
    holder = nn.Sequential(nn.BatchNorm2d(K, momentum=momentum, dtype=torch.float64))
    fade(holder)
    assert synchronise_norms(holder) == []
    norm: Any = holder[0]
    norm.share.fill_(share)
    with torch.no_grad():
        norm.weight.copy_(draw(K, seed=9))
        norm.bias.copy_(draw(K, seed=8))
    outputs, gradients = [], []
    for step in range(STEPS):
        images = draw(sum(SIZES), K, 3, 2, seed=step) * torch.arange(1, 7)[:, None, None, None] + 5 * step
        x = images[part].requires_grad_()
        y = norm(x)
        (y * draw(*images.shape, seed=7)[part]).sum().backward()
        outputs.append(y.detach())
        gradients.append(x.grad)
    weights = [parameter.grad for parameter in norm.parameters()]
    return dict(y=outputs, x=gradients, weights=weights, buffers=dict(norm.named_buffers()))


def work(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )  # fmt: skip
    part = slice(SIZES[0]) if rank == 0 else slice(SIZES[0], sum(SIZES))
    torch.save([trained(*case, part) for case in CASES], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_a_batch_in_two_processes_is_normalised_as_in_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case, *parts in zip(CASES, *both, strict=True):
        whole = trained(*case, slice(None))
        for key in ("y", "x"):
            for step in range(STEPS):
                got = torch.cat([part[key][step] for part in parts])
                torch.testing.assert_close(got, whole[key][step], rtol=1e-10, atol=1e-10)
        summed = [sum(both) for both in zip(*(part["weights"] for part in parts), strict=True)]
        torch.testing.assert_close(summed, whole["weights"], rtol=1e-10, atol=1e-10)
        for part in parts:
            torch.testing.assert_close(part["buffers"], whole["buffers"], rtol=1e-10, atol=1e-10)
