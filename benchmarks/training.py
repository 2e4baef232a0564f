"""Images per second in training, compared with timm's conventional network in the same run.

python benchmarks/training.py [--rounds 7] [--no-compile]
ResNet-20 at 32 px (128 images per step) and ResNet-18 at 224 px (16), in float32 and bfloat16: forward, loss,
backward, Adam, on random images; channels_last. Prints a table of medians; the networks take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

import bcos_zoo


def resnet20() -> nn.Module:
    """timm's ResNet with the stem and stages of He et al. 2015, section 4.2, for 32 px."""
    model = ResNet(BasicBlock, (3, 3, 3), num_classes=10, channels=(16, 32, 64))
    model.conv1, model.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
    model.maxpool = model.layer4 = nn.Identity()
    model.layer1 = nn.Sequential(*[BasicBlock(16, 16) for _ in range(3)])
    return model


CASES: dict[str, tuple[int, int, dict[str, Callable[[], nn.Module]]]] = {
    "ResNet-20, 32 px": (
        32, 128, {"ours": lambda: bcos_zoo.create_model("bcos_resnet20"), "timm": resnet20},
    ),
    "ResNet-18, 224 px": (
        224, 16, {
            "ours": lambda: bcos_zoo.create_model("bcos_resnet18", num_classes=10),
            "timm": lambda: timm.create_model("resnet18", num_classes=10),
        },
    ),
}  # fmt: skip


def stepper(
    model: nn.Module, side: int, batch: int, dtype: torch.dtype, compiled: bool
) -> Callable[[], None]:
    model = model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    forward = torch.compile(model) if compiled else model
    x = torch.rand(batch, 3, side, side).to(memory_format=torch.channels_last)
    y = F.one_hot(torch.randint(0, 10, (batch,)), 10).float()

    def step() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = forward(x)
        loss = F.binary_cross_entropy_with_logits(logits.float(), y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compile", action="store_true")
    asked = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, compiled: {not asked.no_compile}")
    print("| | precision | ours | timm | ours / timm |\n|---|---|---|---|---|")
    for name, (side, batch, networks) in CASES.items():
        for dtype in (torch.float32, torch.bfloat16):
            steps = {
                who: stepper(make(), side, batch, dtype, not asked.no_compile)
                for who, make in networks.items()
            }
            times: dict[str, list[float]] = {who: [] for who in steps}
            for round_ in range(asked.rounds + 2):
                for who, step in steps.items():
                    started = time.perf_counter()
                    step()
                    if round_ > 1:  # the first two compile, and fill caches
                        times[who].append(time.perf_counter() - started)
            ours, twin = (batch / statistics.median(times[who]) for who in ("ours", "timm"))
            precision = str(dtype).removeprefix("torch.")
            print(f"| {name} | {precision} | {ours:.0f} | {twin:.0f} | {ours / twin:.2f} |", flush=True)


if __name__ == "__main__":
    main()
