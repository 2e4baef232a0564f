"""Forward and explanation: ours, the official package and timm's conventional network, interleaved.

make bench                       # with an allocator that keeps its memory, as the output states
python benchmarks/speed.py --models resnet50 --rounds 9 --threads 2

Times are medians over rounds, spreads are interquartile ranges. The official package gets its six channels
ready made and the same state dict. It explains one image at a time, so sixteen images take sixteen calls;
timm's network has no explanation, and its row shows the price of interpretability.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from official import official
from torch import nn

import bcos_zoo
from bcos_zoo.layers import BatchNorm2d as Norm
from bcos_zoo.layers import encode, is_linear


def calibrated(name: str, images: torch.Tensor) -> nn.Module:
    """Our network with random weights and the running statistics of these images: no activation vanishes."""
    torch.manual_seed(0)
    model = timm.create_model(f"bcos_{name}").train()
    norms = [module for module in model.modules() if isinstance(module, Norm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(images[:4])
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


MODELS = [  # one or two of each family
    *("resnet18", "resnet50", "resnext50_32x4d", "densenet121", "vgg11_bnu"),
    *("convnext_tiny", "convnext_tiny_bnu", "simple_vit_s_patch16_224", "vitc_s_patch1_14"),
]
TWINS = {  # timm's conventional network, where its name differs from ours
    "vgg11_bnu": "vgg11_bn",
    "convnext_tiny_bnu": "convnext_tiny",
    "simple_vit_s_patch16_224": "vit_small_patch16_224",
    "vitc_s_patch1_14": "vit_small_patch16_224",
}


def peers(name: str, images: torch.Tensor) -> tuple[nn.Module, nn.Module, nn.Module]:
    ours = calibrated(name, images)
    theirs = official(f"bcos_{name}")
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    return ours, theirs.eval(), timm.create_model(TWINS.get(name, name)).eval()


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round; every round runs all of them, so that drift affects all alike."""
    times: dict[str, list[float]] = {key: [] for key in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            times[key].append(time.perf_counter() - start)
    return times


def measure(
    name: str, size: int, rounds: int, batch_sizes: list[int], explain: bool
) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(16, 3, size, size, generator=generator)
    encoded = encode(images)
    ours, theirs, twin = peers(name, images)
    rows: list[dict[str, object]] = []

    def forward(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
        return torch.no_grad()(lambda: model(x))

    for n in batch_sizes:
        runs = {
            "ours": forward(ours, images[:n]),
            "official": forward(theirs, encoded[:n]),
            "timm": forward(twin, images[:n]),
        }
        times = interleaved(runs, rounds * (4 if n == 1 else 1))  # one image is quick, so its time is noisy
        rows.append({"model": name, "what": f"forward, batch {n}"} | summary(times))
    if explain:
        runs = {
            "ours": lambda: bcos_zoo.explain(ours, images),
            "official": lambda: [
                theirs.explain(encoded[i : i + 1].clone().requires_grad_()) for i in range(16)
            ],
        }
        rows.append(
            {"model": name, "what": "explain 16 images"} | summary(interleaved(runs, max(3, rounds // 3)))
        )
        rows += against_forward(name, ours, images, rounds)
    return rows


def against_forward(name: str, ours: nn.Module, images: torch.Tensor, rounds: int) -> list[dict[str, object]]:
    """What explanations cost compared with plain forward passes of the same images."""
    rows: list[dict[str, object]] = []
    for what, x, targets in (
        ("explain 16 images, beside their forward pass", images, None),
        ("explain ten classes of one image, beside its forward pass", images[:1], list(range(10))),
    ):
        runs = {
            "ours": lambda x=x, targets=targets: bcos_zoo.explain(ours, x, targets),
            "forward": torch.no_grad()(lambda x=x: ours(x)),
        }
        rows.append({"model": name, "what": what} | summary(interleaved(runs, rounds)))
    return rows


def summary(times: dict[str, list[float]]) -> dict[str, object]:
    medians = {key: statistics.median(values) for key, values in times.items()}
    row: dict[str, object] = {f"{key}_ms": round(1000 * value, 1) for key, value in medians.items()}
    for key, values in times.items():
        low, _, high = statistics.quantiles(values, n=4)
        row[f"{key}_spread_ms"] = round(1000 * (high - low), 1)
    row |= {
        f"ours/{key}": round(medians["ours"] / value, 3) for key, value in medians.items() if key != "ours"
    }
    return row


def cost_of_linear_mode_off(name: str, size: int) -> dict[str, object]:
    """The time of all layers' look-ups of the mode, compared with one forward pass of one image."""
    model = timm.create_model(f"bcos_{name}").eval()
    x = torch.rand(1, 3, size, size)
    layers = sum(type(module).__module__.startswith("bcos_zoo.layers") for module in model.modules())
    look_ups, repeats = (
        4 * layers,
        1000,
    )  # a layer asks at most four times: its weight, input, norm and constant
    start = time.perf_counter()
    for _ in range(repeats * look_ups):
        is_linear()
    asked = (time.perf_counter() - start) / repeats
    with torch.no_grad():
        forward = statistics.median(interleaved({"x": lambda: model(x)}, 5)["x"])
    return {"model": name, "look_ups": look_ups, "look_ups_ms": asked * 1000, "forward_ms": forward * 1000}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-explain", action="store_true")
    parser.add_argument("-o", type=Path, help="also write the numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    kept = "MALLOC_MMAP_MAX_" in os.environ
    about = {
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": arguments.threads,
        "allocator": "glibc, memory kept (MALLOC_MMAP_MAX_=0 ...)" if kept else "glibc defaults",
    }
    print(json.dumps(about))
    rows = []
    for name in arguments.models:
        for row in measure(
            name, arguments.size, arguments.rounds, arguments.batch_sizes, not arguments.no_explain
        ):
            rows.append(row)
            print(json.dumps(row), flush=True)
    off = cost_of_linear_mode_off(arguments.models[0], arguments.size)
    print(json.dumps(off))
    if arguments.o:
        arguments.o.write_text(
            json.dumps({"about": about, "rows": rows, "linear_mode_off": off}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
