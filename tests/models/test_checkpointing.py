"""Gradient checkpointing changes memory alone: gradients and statistics are those of the plain step."""

from __future__ import annotations

import pytest
import timm
import torch
from conftest import images, random_state, smallest_of_each_family
from timm.layers import set_reentrant_ckpt, use_reentrant_ckpt
from torch import nn
from torch.utils.checkpoint import checkpoint

from bcos_zoo.layers import BatchNorm2d

QUICK = {  # and what makes them smaller
    "bcos_resnet20": dict(layers=(1, 1)),
    "bcos_densenet52": dict(layers=(2, 2)),
}
NAMES = [
    *QUICK,
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (*smallest_of_each_family(), "bcos_vitc_ti_patch1_14")
        if name not in QUICK
    ),
]


def step(name: str, norm: str | None, way: str) -> tuple[dict, dict]:
    """Buffers and gradients of one step of training."""
    torch.manual_seed(0)
    options = QUICK.get(name, {}) | ({} if norm is None else {"norm": norm})
    model = timm.create_model(name, num_classes=3, **options)
    model = random_state(model, mean=0.1).double().train()  # in float32, rounding would hide a fault
    x = images(2, like=model).double()
    if way == "plain":
        y = model(x)
    elif way == "around":  # the caller's own, around the whole network
        y = checkpoint(model, x.requires_grad_(), use_reentrant=True)
    else:
        model.set_grad_checkpointing()
        was = use_reentrant_ckpt()
        set_reentrant_ckpt(way == "reentrant")
        try:
            y = model(x.requires_grad_(way == "reentrant"))
            y.square().mean().backward()
        finally:
            set_reentrant_ckpt(was)
        return dict(model.named_buffers()), {n: p.grad for n, p in model.named_parameters()}
    y.square().mean().backward()
    return dict(model.named_buffers()), {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize("way", ["not reentrant", "reentrant", "around"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_with_checkpointing_leaves_the_buffers_and_gradients_of_one_without(name, way):
    convolutional = "simple_vit" not in name and "plain" not in name
    norm = "bnu" if convolutional else None
    (buffers, gradients), (expected, known) = step(name, norm, way), step(name, norm, "plain")
    assert buffers.keys() == expected.keys() and (
        not convolutional or any("running" in key for key in buffers)
    )
    for key, value in expected.items():
        # a second update would change a variance by a tenth; the order of a sum changes its last digits
        torch.testing.assert_close(buffers[key], value, rtol=0, atol=1e-10 * float(value.abs().max()))
    # Deep networks of random weights amplify rounding, and where attention is saturated it is all there is.
    # Statistics or modes taken wrongly change tenths.
    most = max(float(value.abs().max()) for value in known.values())
    for key, value in known.items():
        scale = max(float(value.abs().max()), 1e-4 * most)
        torch.testing.assert_close(gradients[key], value, rtol=0, atol=1e-7 * scale)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("options", [{}, {"centered": True}, {"joint": True}, {"momentum": None}])
def test_a_norm_in_anybodys_checkpoint_counts_a_batch_once(options, reentrant):
    plain, inside = BatchNorm2d(3, **options), BatchNorm2d(3, **options)
    for seed in range(3):
        x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        plain(x).sum().backward()
        block = nn.Sequential(inside, nn.Tanh())
        checkpoint(
            lambda x, block=block: checkpoint(block, x, use_reentrant=reentrant), x, use_reentrant=reentrant
        ).sum().backward()
    for got, expected in zip(inside.buffers(), plain.buffers(), strict=True):
        assert torch.equal(got, expected)
