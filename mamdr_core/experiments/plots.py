"""Figures of experiments as SVG files: lines with spread, heat maps. Charts of report pages are in `reports.plot`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from mamdr_core.experiments.points import plain

Row = Mapping[str, Any]
_NAMED = 60
"""Largest number of domains whose names are shown in a heat map."""


def plot_grid(rows: Sequence[Row], grid: Mapping[str, Sequence[Any]], folder: Path) -> list[Path]:
    """Draw a grid: a line per method for one key, a heat map per method for two keys; returns the files.

    Args:
        rows: rows of the table sweeps.
        grid: config keys and their values; nothing is drawn unless there are one or two.
    """
    if len(grid) == 1:
        ((key, values),) = grid.items()
        return [_line(rows, key, values, folder / "sweep.svg")]
    if len(grid) == 2:
        methods = dict.fromkeys(row["method"] for row in rows)
        return [_heat(rows, method, grid, folder / f"sweep-{method}.svg") for method in methods]
    return []


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as SVG; equal figures give equal files."""
    with matplotlib.rc_context({"svg.hashsalt": "mamdr"}):
        figure.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return path


def _line(rows: Sequence[Row], key: str, values: Sequence[Any], path: Path) -> Path:
    """Test AUC with its standard deviation over seeds, as in Figure 6 of the paper; the chosen point is marked."""
    figure = Figure(figsize=(5, 3.2))
    axes = figure.subplots()
    places = [plain(value) for value in values]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method and row.get("test_auc") is not None]
        x = [places.index(row["settings"][key]) for row in own]
        error = [row.get("test_auc_std") or 0.0 for row in own]
        drawn = axes.errorbar(x, [row["test_auc"] for row in own], yerr=error, marker="o", capsize=3, label=method)
        chosen = [(place, row["test_auc"]) for place, row in zip(x, own, strict=True) if row["chosen"]]
        for place, auc in chosen:
            axes.plot(place, auc, "s", markersize=10, markerfacecolor="none", color=drawn[0].get_color())
    axes.set(xticks=range(len(places)), xticklabels=places, xlabel=key, ylabel="test AUC")
    axes.legend()
    return save(figure, path)


def _heat(rows: Sequence[Row], method: str, grid: Mapping[str, Sequence[Any]], path: Path) -> Path:
    """Test AUC as in Figure 7 of the paper: first key across, second key down; the chosen point is marked."""
    across, down = grid
    columns, lines = ([plain(value) for value in grid[key]] for key in (across, down))
    auc: NDArray[np.float64] = np.full((len(lines), len(columns)), np.nan)
    figure = Figure(figsize=(1.5 + 0.8 * len(columns), 1 + 0.5 * len(lines)))
    axes = figure.subplots()
    for row in rows:
        if row["method"] == method and row.get("test_auc") is not None:
            place = lines.index(row["settings"][down]), columns.index(row["settings"][across])
            auc[place] = row["test_auc"]
            weight = "bold" if row["chosen"] else "normal"
            axes.text(place[1], place[0], f"{row['test_auc']:.4f}", ha="center", va="center", fontsize=7, weight=weight)
    figure.colorbar(axes.imshow(auc, aspect="auto", cmap="YlGn"), label="test AUC")
    axes.set(xticks=range(len(columns)), xticklabels=columns, xlabel=across)
    axes.set(yticks=range(len(lines)), yticklabels=lines, ylabel=down, title=method)
    return save(figure, path)


def plot_conflict(matrices: Mapping[str, NDArray[np.float64]], names: Sequence[str], path: Path) -> Path:
    """Draw the cosines between domain gradients as heat maps with a common order of the domains.

    Args:
        matrices: stage to cosines [m, m]; the first determines the order.
    """
    order = cluster_order(next(iter(matrices.values())))
    labels = [names[place].replace("$", r"\$") for place in order] if len(names) <= _NAMED else []
    figure = Figure(figsize=(1 + 5 * len(matrices), 5))
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for each, (stage, matrix) in zip(axes, matrices.items(), strict=True):
        drawn = each.imshow(matrix[np.ix_(order, order)], vmin=-1, vmax=1, cmap="RdBu")
        each.set(title=stage, xticks=range(len(labels)), yticks=range(len(labels)))
        each.set_xticklabels(labels, rotation=90, fontsize=6)
        each.set_yticklabels(labels, fontsize=6)
    figure.colorbar(drawn, ax=axes.tolist(), label="cosine of gradients")
    return save(figure, path)


def cluster_order(cosines: NDArray[np.float64]) -> list[int]:
    """Order the domains by similarity of gradients: leaves of average linkage on 1 - cosine.

    Args:
        cosines: symmetric, [m, m].
    """
    if len(cosines) < 3:
        return list(range(len(cosines)))
    distances = squareform(np.clip(1 - cosines, 0, 2), checks=False)
    order: list[int] = hierarchy.leaves_list(hierarchy.linkage(distances, "average", optimal_ordering=True)).tolist()
    return order
