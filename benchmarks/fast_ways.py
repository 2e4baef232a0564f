"""What each shortcut for speed gains: a pass with all of them against a pass without this one.

MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=100000000 OMP_NUM_THREADS=1 \\
    taskset -c 0 python benchmarks/fast_ways.py

Each is measured on networks it was made for. The two passes are interleaved, and the shortest time of each
counts: other processes can only make a pass longer. A gain is the share of the time that the shortcut saves.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

import bcos_zoo
from bcos_zoo.conversion import Converted
from bcos_zoo.layers import BatchNorm2d, fast_ways

CASES: list[tuple[str, str, int, int, str]] = [  # shortcut, network, images, pixels, pass
    ("attention", "bcos_simple_vit_ti_patch16_224", 4, 224, "forward"),
    ("dense", "bcos_densenet121", 2, 160, "forward"),
    ("dense", "bcos_densenet121", 2, 160, "explain"),
    ("depthwise", "bcos_convnext_atto", 8, 128, "train"),
    ("depthwise", "tf_efficientnet_lite0", 8, 128, "train"),
    ("energy", "bcos_resnet18", 2, 160, "forward"),
    ("energy", "bcos_densenet121", 2, 160, "forward"),
    ("few", "bcos_resnet50", 1, 64, "forward"),
    ("few", "bcos_vgg11_bnu", 1, 64, "forward"),
    ("fold", "bcos_resnet50", 2, 160, "forward"),
    ("fold", "bcos_convnext_atto_bnu", 2, 160, "forward"),
    ("in_place", "bcos_resnet50", 2, 160, "forward"),
    ("in_place", "bcos_convnext_atto", 2, 160, "forward"),
    ("layout", "bcos_resnet18", 2, 160, "forward"),
    ("layout", "bcos_densenet121", 2, 160, "forward"),
    ("layout", "bcos_resnet18", 2, 160, "explain"),
    ("max_out", "bcos_plain9", 8, 32, "forward"),
    ("rows", "bcos_resnet50", 1, 64, "forward"),
    ("rows", "bcos_vgg11_bnu", 1, 64, "forward"),
    ("separate", "bcos_convnext_tiny", 8, 224, "forward"),
    ("statistics", "tf_efficientnet_lite0", 8, 128, "train"),
    ("dense", "bcos_densenet121", 8, 224, "explain"),
    ("dense", "bcos_densenet169", 16, 224, "forward"),
]


def network(name: str) -> nn.Module:
    """A network with random weights and fitting running statistics, so that no activation vanishes.

    name: of ours, or of one of timm's, which is converted.
    """
    torch.manual_seed(0)
    ours = name.startswith("bcos_")
    model: Any = timm.create_model(name) if ours else bcos_zoo.bcosify(name, centring="fading")
    model.train()
    norms = [module for module in model.modules() if isinstance(module, BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(torch.rand(4, 3, 64, 64))
    return model.eval()


def step(model: nn.Module, x: torch.Tensor) -> None:
    """The passes of a training step, in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x.contiguous(memory_format=torch.channels_last))
    y.float().square().mean().backward()


def measured(run: Callable[[], object], way: str, seconds: float) -> tuple[float, float, int]:
    """Shortest seconds of a pass with and without the shortcut, and the number of passes of each."""
    best, rounds = {True: float("inf"), False: float("inf")}, 0
    for on in best:
        with fast_ways(on, way):
            run()
    end = time.perf_counter() + seconds
    while rounds < 5 or time.perf_counter() < end:
        rounds += 1
        for on in best:
            with fast_ways(on, way):
                start = time.perf_counter()
                run()
                best[on] = min(best[on], time.perf_counter() - start)
    return best[True], best[False], rounds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ways", nargs="+", help="only these shortcuts")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each case")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for way, name, n, size, what in CASES:
        if arguments.ways and way not in arguments.ways:
            continue
        model, x = network(name), torch.rand(n, 3, size, size)
        run = torch.no_grad()(lambda model=model, x=x: model(x))
        if what == "explain":
            run = lambda model=model, x=x: bcos_zoo.explain(model, x)  # noqa: E731
        if what == "train":
            if isinstance(model, Converted):
                model.scale_constants(0.5)
            run = partial(step, model.train().to(memory_format=torch.channels_last), x)
        fast, slow, rounds = measured(run, way, arguments.seconds)
        row = dict(way=way, model=name, images=n, pixels=size, what=what, rounds=rounds)
        print(
            json.dumps(row | dict(ms=round(1000 * fast, 1), gain_percent=round(100 * (1 - fast / slow), 1))),
            flush=True,
        )


if __name__ == "__main__":
    main()
