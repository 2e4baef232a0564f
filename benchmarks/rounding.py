"""What rounding leaves unexplained, in the unit of `bcos_zoo.explain`'s warning: eps times all that adds up.

OMP_NUM_THREADS=1 python benchmarks/rounding.py bcos_resnet20 bcos_densenet52 bcos_plain9

Networks as constructed, and with running statistics that fit their weights; random images.
"""

from __future__ import annotations

import argparse

import timm
import torch
from fast_ways import network
from torch import nn

import bcos_zoo
from bcos_zoo.explanations import engine

OUTPUTS = ("logit", "relative", "sigmoid", "softmax")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def most(model: nn.Module, x: torch.Tensor, output: str, dtype: torch.dtype) -> float:
    """The largest gap, relative to what the warning compares it with."""
    found: list[float] = []

    def see(e: bcos_zoo.Explanation, constants: torch.Tensor) -> None:
        info, chosen = torch.finfo(dtype), e.logits.gather(1, e.targets).double()
        contributions = e.contributions.double()
        gap = (chosen - contributions.sum((-1, -2)) - e.bias.double()).abs()
        added = contributions.abs().sum((-1, -2)) + chosen.abs() + constants.double()
        found.append(float((gap / (info.eps * added + info.tiny)).max()))

    own, engine._warn_of_the_unexplained = engine._warn_of_the_unexplained, see
    try:
        bcos_zoo.explain(model, x, [0, 3, 7], output=output, dtype=dtype)
    finally:
        engine._warn_of_the_unexplained = own
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+")
    for name in parser.parse_args().names:
        torch.manual_seed(0)
        models = {"new": timm.create_model(name).eval(), "fitted": network(name)}
        side = models["new"].pretrained_cfg["input_size"][-1]
        x = torch.rand(2, 3, min(side, 96), min(side, 96))
        for kind, model in models.items():
            for dtype in DTYPES:
                sizes = {output: most(model, x, output, dtype) for output in OUTPUTS}
                print(name, kind, dtype, " ".join(f"{k} {v:.2g}" for k, v in sizes.items()), flush=True)


if __name__ == "__main__":
    main()
