"""Rows of a comparison as tables and plots."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import required
from ..files import replacing
from ..pictures import plots
from .scoring import ScoreRow

PERCENTILES = (5, 25, 50, 75, 95)
LESS_IS_BETTER = frozenset(
    {"deletion", "insertion-least", "stability", "completeness", "constants", "checkerboard"}
)


def summarise(rows: Iterable[ScoreRow]) -> list[dict[str, Any]]:
    """For each metric and explainer: samples, maps, mean and percentiles of the scores; best median first.

    "chance" is the mean score of an uninformative map, if the rows have one.

    ```python
    from bcos_zoo.evaluate import summarise

    row = {"explainer": "ixg", "metric": "sparseness", "sample": 0, "map": 0}
    (line,) = summarise([row | {"score": 0.5}, row | {"map": 1, "score": 0.7}])
    assert line["maps"] == 2 and abs(line["mean"] - 0.6) < 1e-9
    ```
    """
    groups: dict[tuple[str, str], list[ScoreRow]] = {}
    for row in rows:
        groups.setdefault((row["metric"], row["explainer"]), []).append(row)
    table = []
    for (metric, explainer), some in groups.items():
        scores = [row["score"] for row in some]
        line: dict[str, Any] = {"metric": metric, "explainer": explainer, "maps": len(scores)}
        line |= {"samples": len({row["sample"] for row in some}), "mean": statistics.fmean(scores)}
        line |= {f"p{p}": float(v) for p, v in zip(PERCENTILES, _percentiles(scores), strict=True)}
        if chances := [row["chance"] for row in some if "chance" in row]:
            line["chance"] = statistics.fmean(chances)
        table.append(line)

    def rank(line: dict[str, Any]) -> tuple[str, bool, float]:
        median = line["p50"] if line["metric"] in LESS_IS_BETTER else -line["p50"]
        return line["metric"], math.isnan(median), median  # without a score, never first

    return sorted(table, key=rank)


def _percentiles(scores: list[float]) -> np.ndarray:
    """Like numpy's, but also with infinite scores: the stability of a map of zeros may be infinite."""
    with np.errstate(invalid="ignore"):
        between = np.percentile(scores, PERCENTILES)
    return np.where(np.isnan(between), np.percentile(scores, PERCENTILES, method="higher"), between)


def for_json(summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A summary with null for infinite values, which JSON cannot write.

    ```python
    from bcos_zoo.evaluate import for_json

    assert for_json([{"mean": float("inf")}]) == [{"mean": None}]
    ```
    """
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        for line in summary
    ]


def write_tables(rows: list[ScoreRow], folder: str | Path) -> tuple[Path, Path]:
    """`summary.json` and `rows.parquet` in a folder; returns their paths.

    Raises InputError if pandas or pyarrow, of the extra `eval`, is not installed.

    ```python
    from bcos_zoo.evaluate import write_tables

    row = {"explainer": "ixg", "metric": "sparseness", "sample": 0, "map": 0, "score": 0.5}
    summary, table = write_tables([row], "out/tables")
    ```
    """
    folder, pandas = Path(folder), required("pandas", "pandas")
    with replacing(folder / "summary.json") as temporary:
        temporary.write_text(json.dumps(for_json(summarise(rows)), indent=2) + "\n")
    with replacing(folder / "rows.parquet") as temporary:
        pandas.DataFrame(rows).to_parquet(temporary, engine="pyarrow")
    return folder / "summary.json", folder / "rows.parquet"


def box_plot(
    rows: list[ScoreRow], path: str | Path, *, metric: str = "localisation", chance: float | None = None
) -> Path:
    """Scores of each explainer as boxes (quartiles; whiskers at 5 and 95 %), best median first.

    chance: the score of an uninformative map, drawn as a line. path: .png, .svg or .pdf.
    Raises InputError if matplotlib, of the extra `plots`, is not installed.

    ```python
    from bcos_zoo.evaluate import box_plot

    row = {"explainer": "ixg", "metric": "localisation", "sample": 0, "map": 0, "score": 0.5}
    box_plot([row], "out/boxes.png", chance=1 / 9)
    ```
    """
    lines = [line for line in summarise(rows) if line["metric"] == metric]
    names = [line["explainer"] for line in lines]
    scores = [
        np.array([r["score"] for r in rows if r["metric"] == metric and r["explainer"] == name])
        for name in names
    ]
    outside = [int(np.isinf(some).sum()) for some in scores]
    figure = plots.figure(1.6 + 0.9 * len(names), 3.6)
    axes = figure.add_subplot()
    finite = [some[np.isfinite(some)] for some in scores]
    boxes = axes.boxplot(finite, whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6)
    for name, box, median in zip(names, boxes["boxes"], boxes["medians"], strict=True):
        box.set_facecolor("#2a6fbb" if name == "inherent" else "#c9ccd1")
        median.set_color("white" if name == "inherent" else "black")
    if chance is not None:
        axes.axhline(chance, linestyle="--", color="#888888", linewidth=1)
        axes.text(0.55, chance + 0.01, "chance", va="bottom", fontsize=8, color="#666666")
    labels = [
        f"{line['explainer']}\n{line['samples']}" + (f",\n{n} infinite" if n else "")
        for line, n in zip(lines, outside, strict=True)
    ]
    axes.set_xticks(range(1, len(names) + 1), labels, fontsize=8)
    axes.set_ylabel(f"{metric} score")
    axes.set_xlabel("explainer, and the number of samples")
    if metric in ("localisation", "energy"):
        axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    return plots.save(figure, Path(path), dpi=150)


def curve_plot(rows: list[ScoreRow], path: str | Path, *, metric: str = "deletion") -> Path:
    """The target's probability as pixels are removed or added, along one of CURVES: each explainer's mean.

    path: .png, .svg or .pdf.
    Raises InputError if matplotlib, of the extra `plots`, is not installed.

    ```python
    from bcos_zoo.evaluate import curve_plot

    row = {"explainer": "ixg", "metric": "deletion", "sample": 0, "map": 0, "score": 0.4}
    curve_plot([row | {"curve": [0.9, 0.3, 0.1]}], "out/curve.png")
    ```
    """
    figure = plots.figure(5.2, 3.6)
    axes = figure.add_subplot()
    for line in (line for line in summarise(rows) if line["metric"] == metric):
        name = line["explainer"]
        curves = [row["curve"] for row in rows if row["metric"] == metric and row["explainer"] == name]
        mean = np.mean(curves, axis=0)
        bold = dict(color="#2a6fbb", linewidth=2.4, zorder=3) if name == "inherent" else dict(linewidth=1.2)
        axes.plot(np.linspace(0, 100, len(mean)), mean, label=f"{name} ({len(curves)})", **bold)
    what, _, least = metric.partition("-")
    first = "least" if least else "most"
    axes.set_xlabel(f"pixels {what.removesuffix('ion')}ed, {first} important first, percent")
    axes.set_ylabel("probability of the class")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return plots.save(figure, Path(path), dpi=150)
