"""Draw docs/exponents.png: what the exponent B does to accuracy and localisation.

The numbers are those of the table in docs/training.md, which benchmarks/exponents.py measured.
"""

from __future__ import annotations

import re
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|$", re.MULTILINE)
CHANCE = 1 / 9


def measured() -> list[tuple[float, ...]]:
    """B, top-1 in percent, median localisation and its quartiles, a row each."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    table = page[page.index("## What the exponent does") :]
    return [tuple(map(float, row)) for row in ROW.findall(table)]


def draw(path: Path) -> None:
    b, top1, median, low, high = zip(*measured(), strict=True)
    figure = Figure(figsize=(6.4, 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot(b, median, "o-", color="#00695c")
    left.fill_between(b, low, high, color="#00695c", alpha=0.2, linewidth=0)
    left.axhline(CHANCE, color="grey", linestyle=":")
    left.set(xlabel="B", ylabel="localisation", ylim=(0, 1), title="explanations")
    left.text(b[-1], CHANCE + 0.02, "chance", color="grey", ha="right")
    right.plot(b, top1, "o-", color="#6a1b9a")
    right.set(xlabel="B", ylabel="top-1, %", ylim=(0, 100), title="accuracy")
    figure.savefig(path)


if __name__ == "__main__":
    draw(ROOT / "docs" / "exponents.png")
