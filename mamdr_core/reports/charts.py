"""Charts of the report."""

import math
from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
from markupsafe import Markup

from mamdr_core.reports.facts import Array, Figures
from mamdr_core.reports.figures import Difference, calibration_groups, groups_by
from mamdr_core.reports.plot import Plot, Scale, bars, heat_map, spanning

LEAST_DOMAINS = 10
"""Minimum number of domains for a line over groups of domains."""
PHASE_NAMES = {"shared": "rounds", "specific": "passes of DR"}
IN_RANKS = ("read", "deal", "inner", "exchange", "validate", "checkpoint", "evaluate", "save")
"""Phases of rank 0 that are part of the phase `ranks`."""


def log_charts(days: Sequence[Figures]) -> list[Markup]:
    """Rows by day, and CTR by day."""
    place, x = _day_axis([row["ds"] for row in days])
    rows = np.array([row["rows"] for row in days], dtype=np.float64)
    ctr = np.array([row["clicks"] / row["rows"] for row in days])
    names = [f"{row['ds']}: {row['rows']:,} rows, CTR {row['clicks'] / row['rows']:.2%}" for row in days]
    volume = Plot(x, spanning(rows, include=[0]), "day", "rows of clicks", f"Rows of {len(days)} days")
    rate = Plot(x, spanning(ctr, form=".2%"), "day", "CTR", f"CTR of {len(days)} days")
    return [volume.line(place, rows, "line-a", names).svg(), rate.line(place, ctr, "line-b", names).svg()]


def run_charts(runs: Sequence[Figures]) -> dict[str, Markup]:
    """Test AUC, calibration and training time by logical date: lines of one figure for each day.

    Args:
        runs: successful runs with a logical date, one for each day, oldest first.
    """
    place, x = _day_axis([row["ds"] for row in runs])
    auc = [math.nan if row["test_auc"] is None else row["test_auc"] for row in runs]
    pcoc = [math.nan if row["test_pcoc"] is None else row["test_pcoc"] for row in runs]
    seconds = [spent(row["seconds"]) for row in runs]
    made = {
        "auc": (auc, spanning(auc, form=".3f"), "test AUC", "{:.4f}"),
        "calibration": (pcoc, spanning(pcoc, form=".2f", include=[1.0]), "predicted over actual clicks", "{:.3f}"),
        "seconds": (seconds, spanning(seconds, include=[0]), "seconds of the training job", "{:,.0f} s"),
    }
    charts = {}
    for name, (values, y, label, form) in made.items():
        known = np.isfinite(values)
        if known.any():
            marks = [
                f"{run['ds']}: {form.format(value)}" for run, value in zip(runs, values, strict=True) if value == value
            ]
            plot = Plot(x, y, "day", label, f"{label} of {len(marks)} days")
            plot = plot.rule(1.0) if name == "calibration" else plot
            charts[name] = plot.line(place[known], np.asarray(values)[known], "line-a", marks).svg()
    return charts


def spent(seconds: Mapping[str, float] | None) -> float:
    """Seconds of a training job: its phases but those that are part of the phase `ranks`; NaN if none are recorded."""
    if not seconds:
        return math.nan
    return float(sum(value for name, value in seconds.items() if name not in IN_RANKS))


def _day_axis(days: Sequence[date]) -> tuple[Array, Scale]:
    """Positions of days, [n], and an axis with the names of at most seven of them, the last one included."""
    place = np.arange(len(days), dtype=np.float64)
    shown = range(len(days) - 1, -1, -(len(days) // 6 + 1))
    return place, Scale(-0.3, len(days) - 0.7, named=tuple((number, f"{days[number]:%b %-d}") for number in shown))


def curve_chart(curve: Sequence[Figures]) -> Markup | None:
    """Validation AUC over the number of trained rows, by phase; None if no validation has an AUC."""
    known = [row for row in curve if row["val_auc"] is not None]
    if not known:
        return None
    weighted = [row["weighted_val_auc"] for row in known]
    auc = [row["val_auc"] for row in known]
    x = spanning([row["rows"] for row in known])
    y = spanning([*auc, *weighted], form=".3f")
    label = f"Validation AUC from {auc[0]:.4f} to {auc[-1]:.4f}, {max(auc):.4f} at best, in {len(known)} validations"
    plot = Plot(x, y, "trained rows", "validation AUC", label)
    plot.line([row["rows"] for row in known], weighted, "line-c")
    for phase, css in (("shared", "line-a"), ("specific", "line-b")):
        own = [row for row in known if row["phase"] == phase]
        texts = [
            f"after {row['round']} {PHASE_NAMES[phase]} (epoch {row['epoch']}), {row['seconds']:,.0f} s: "
            f"mean {row['val_auc']:.4f}, weighted {row['weighted_val_auc']:.4f}"
            for row in own
        ]
        plot.line([row["rows"] for row in own], [row["val_auc"] for row in own], css, texts)
        kept = [row for row in own if row["best"]]
        if kept:
            plot.ring(kept[-1]["rows"], kept[-1]["val_auc"], f"kept: {kept[-1]['val_auc']:.4f}")
    return plot.svg()


def auc_by_size(figures: Mapping[str, Array], ids: Sequence[str]) -> Markup | None:
    """Test AUC of every domain over its training rows, with means of groups by size; None without an AUC."""
    rows, auc = figures["train_rows"], figures["auc"]
    known = ~np.isnan(auc) & (rows > 0)
    if not known.any():
        return None
    sizes, means = groups_by(rows, auc)
    x = spanning(rows[known], log=True)
    # A few tiny domains with AUC 0 or 1 must not compress the scale.
    y = spanning(np.concatenate([np.quantile(auc[known], [0.005, 0.995]), means]), form=".2f", include=[0.5])
    label = f"Test AUC of {int(known.sum()):,} domains against their training rows"
    plot = Plot(x, y, "training rows of the domain", "test AUC", label)
    return (
        plot.rule(0.5)
        .points(rows, auc, ids, ("train rows", "AUC"))
        .line(sizes, means, "line-b", _marks(sizes, means, "{:.4f}"))
        .svg()
    )


def difference_chart(found: Difference, rows: Array, against: str, ids: Sequence[str], column: str) -> Markup:
    """AUC minus that of another run by domain over training rows, with means of groups by size."""
    known = ~np.isnan(found.by_domain) & (rows > 0)
    sizes, means = groups_by(rows, found.by_domain)
    ends = np.quantile(found.by_domain[known], [0.01, 0.99]) if known.any() else []
    x = spanning(rows[known], log=True)
    y = spanning(np.concatenate([ends, means]), form="+.3g", include=[0])
    label = f"AUC minus that of {against} in {found.domains:,} domains against their training rows"
    plot = Plot(x, y, "training rows of the domain", f"AUC − {against}'s", label)
    points = plot.rule(0).points(rows, found.by_domain, ids, ("train rows", column))
    return points.line(sizes, means, "line-b", _marks(sizes, means, "{:+.4f}")).svg()


def calibration_chart(figures: Mapping[str, Array], ids: Sequence[str]) -> Markup | None:
    """CTR over mean prediction, by domain and in groups of equal rows; None without clicks."""
    rows, clicks, predicted = (figures[name] for name in ("rows", "clicks", "mean_prediction"))
    known = (clicks > 0) & (predicted > 0)
    if not known.any():
        return None
    ctr = np.where(known, clicks / np.where(rows > 0, rows, 1), np.nan)
    predicted_rate, found = calibration_groups(figures)
    ends = np.concatenate([np.quantile(both[known], [0.005, 0.995]) for both in (predicted, ctr)])
    scale = spanning(np.concatenate([ends, predicted_rate, found]), log=True, form=".2g")
    plot = Plot(scale, scale, "mean prediction", "CTR of the test split", f"CTR of {int(known.sum()):,} domains")
    diagonal = np.array([scale.low, scale.high])
    texts = [f"predicted {one:.4f}, CTR {other:.4f}" for one, other in zip(predicted_rate, found, strict=True)]
    plot.line(diagonal, diagonal, "rule").points(predicted, ctr, ids)
    return (plot.line(predicted_rate, found, "line-b", texts) if known.sum() >= LEAST_DOMAINS else plot).svg()


def conflict_charts(pairs: Mapping[str, Sequence[Figures]]) -> dict[str, Markup]:
    """One heat map of cosines per stage, all in the order of the first stage, which places similar domains together."""
    charts: dict[str, Markup] = {}
    order: list[int] = []
    for stage in ("before", "after"):
        rows = pairs.get(stage, ())
        if not rows:
            continue
        names = dict(sorted({row[of]: row[f"{of}_id"] for row in rows for of in ("domain", "other")}.items()))
        place = {domain: number for number, domain in enumerate(names)}
        matrix = np.full((len(place), len(place)), np.nan)
        for row in rows:
            one, other = place[row["domain"]], place[row["other"]]
            matrix[one, other] = matrix[other, one] = row["cosine"]
        if len(order) != len(place):
            order = _conflict_order(matrix)
        shown = [list(names.values())[number] for number in order]
        label = f"Cosines of the gradients of {len(shown)} domains, {stage} rounds of DN"
        charts[stage] = heat_map(matrix[np.ix_(order, order)], shown, label)
    return charts


def _conflict_order(cosines: Array) -> list[int]:
    """Order of the domains by the leading eigenvector, that is by their side of the strongest conflict.

    Args:
        cosines: symmetric, [m, m]; NaN for unmeasured pairs and on the diagonal.
    """
    leading = np.linalg.eigh(np.nan_to_num(cosines))[1][:, -1]
    return [int(place) for place in np.argsort(leading, kind="stable")]


def time_chart(seconds: Mapping[str, float] | None) -> Markup | None:
    """Seconds by phase, longest first, followed by the phases of ranks; None if no times are recorded."""
    phases = sorted((seconds or {}).items(), key=lambda each: (each[0] in IN_RANKS, -each[1]))
    if not phases:
        return None
    values = [value for _, value in phases]
    css = ["bar-b" if name in IN_RANKS else "bar-a" for name, _ in phases]
    label = "; ".join(f"{name} {value:,.1f} s" for name, value in phases)
    return bars([name for name, _ in phases], values, [f"{value:,.1f} s" for value in values], css, label)


def variance_chart(variances: Mapping[str, float] | None, listed: int) -> Markup | None:
    """Learned standard deviations of effects and of the `listed` largest entries of w_i; None without a mixed model."""
    learned = (variances or {}).items()
    of_effects = [(name, value) for name, value in learned if not name.startswith("w.")]
    of_w = [(name, value) for name, value in learned if name.startswith("w.")]
    shown = [*of_effects, *sorted(of_w, key=lambda each: -each[1])[:listed]]
    if not shown:
        return None
    values = [math.sqrt(value) for _, value in shown]
    css = ["bar-b" if name.startswith("w.") else "bar-a" for name, _ in shown]
    text = "; ".join(f"{name} {value:.3f}" for (name, _), value in zip(shown, values, strict=True))
    return bars([name for name, _ in shown], values, [f"{value:.3f}" for value in values], css, text)


def _marks(sizes: Array, means: Array, form: str) -> list[str]:
    return [f"about {size:,.0f} rows: {form.format(mean)}" for size, mean in zip(sizes, means, strict=True)]
