"""Weights in shards: every family computes what it does with whole ones, forward and backward."""

import os

import pytest
import timm
import torch
from torch import distributed

import bcos_zoo  # noqa: F401
from bcos_zoo.layers import BcosConv2d, BcosLinear
from bcos_zoo.training.sharding import Sharded, blocks

SIZES = {
    "bcos_convnext_atto": 64,
    "bcos_densenet52": 64,
    "bcos_inception_v3": 128,
    "bcos_plain9": 32,
    "bcos_resnet18": 64,
    "bcos_resnet50_clip": 64,
    "bcos_simple_vit_ti_patch16_224": 224,
    "bcos_std_vitc_ti_patch1_14": 224,
    "bcos_vgg11_bnu": 64,
    "bcos_vitc_ti_patch1_14": 224,
}


def learn(model, called, size):
    """Logits, and the gradients of a loss, in eval mode: statistics of a batch do not count here."""
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    logits = called(x)
    logits.square().mean().backward()
    grads = [p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in model.parameters()]
    return [logits.detach(), *grads]


def work(rank, folder):
    from accelerate import Accelerator

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    accelerator = Accelerator(cpu=True)
    gaps = {}
    for name, size in SIZES.items():
        torch.manual_seed(0)
        model = timm.create_model(name).eval()
        expected = learn(model, model, size)
        model.zero_grad()
        found = learn(model, Sharded(accelerator, model).called, size)
        gaps[name] = max(
            float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
            for a, b in zip(found, expected, strict=True)
        )
    torch.save(gaps, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_every_family_computes_the_same_with_weights_in_shards(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        gaps = torch.load(tmp_path / f"{rank}.pt")
        assert gaps.keys() == SIZES.keys()
        assert max(gaps.values()) < 1e-4, gaps


@pytest.mark.parametrize("name", ["bcos_vitc_l_patch1_14", "bcos_simple_vit_l_patch16_224", "bcos_resnet152"])
def test_large_networks_come_together_a_block_at_a_time(name):
    model = timm.create_model(name, device="meta")
    found = list(blocks(model))
    total = sum(p.numel() for p in model.parameters())
    parts = [sum(p.numel() for p in block.parameters()) for block in found]
    assert max(parts) < 0.15 * total
    assert sum(parts) > 0.9 * total  # no block in another, and little is left over
    assert sum(parts) <= total
    assert not any(isinstance(block, (BcosConv2d, BcosLinear)) for block in found)
