"""Rows of a comparison: every model and method over its seeds, against a baseline.

Shape suffixes: M rows, S seeds, n domains (all of the examples), m domains that are compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mamdr_core.experiments.figures import Floats, compare_domains, mean_ranks, smallest_third, spread
from mamdr_core.experiments.measured import OVERALL, ComparedRuns, RunFigures
from mamdr_core.experiments.trials import baseline_of

Pair = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """The runs behind one row of a comparison.

    Attributes:
        pair: model and method.
        runs: seed to the run that finished.
        failed: number of seeds that failed.
    """

    pair: Pair
    runs: dict[int, str]
    failed: int


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison.

    Attributes:
        rows: the columns of the table comparisons for each entry, in order.
        domains: indices of the compared domains, int64 [m].
        auc_Mm: mean test AUC over seeds of each entry by compared domain; NaN for an entry without a run.
    """

    rows: list[dict[str, Any]]
    domains: NDArray[np.int64]
    auc_Mm: Floats


def compare(
    entries: Sequence[Entry], compared: ComparedRuns, train_rows_n: NDArray[np.int64], baseline: str
) -> Comparison:
    """Compare entries by test AUC over the domains that have an AUC in all runs.

    RANK uses the seeds that all entries with a run have in common; the paired test uses those that an entry shares with
    its baseline. Without common seeds the figure is None.

    Args:
        baseline: a method or a model/method.
    """
    runs = [[compared.runs[run] for run in entry.runs.values()] for entry in entries]
    known_n = compared.test_rows_n > 0
    for run in (run for own in runs for run in own):
        known_n &= ~np.isnan(run.auc_n)
    domains = np.flatnonzero(known_n)
    ranks = _ranks(entries, compared, domains)
    by_pair = {entry.pair: entry for entry in entries}
    small_m = smallest_third(train_rows_n[domains])
    oracle_m = compared.oracle_n[domains]
    oracle = float(oracle_m.mean()) if len(domains) and not np.isnan(oracle_m).any() else None
    rows, auc_Mm = [], np.full((len(entries), len(domains)), np.nan)
    for number, (entry, own) in enumerate(zip(entries, runs, strict=True)):
        if own:
            auc_Mm[number] = np.stack([run.auc_n[domains] for run in own]).mean(0)
        base = baseline_of(entry.pair, baseline)
        row = {
            "model": entry.pair[0],
            "method": entry.pair[1],
            "baseline": "/".join(base),
            "seeds": len(own),
            "failed": entry.failed,
            "domains": len(domains),
            "domains_left_out": int((compared.test_rows_n > 0).sum()) - len(domains),
            "rank": ranks.get(entry.pair),
            "oracle_test_auc": oracle,
            "runs": list(entry.runs.values()),
        }
        if own and len(domains):
            row |= _aucs(own, domains, compared.test_rows_n) | _overall(own)
            row["smallest_third_test_auc"] = float(auc_Mm[number][small_m].mean())
        row |= _against(entry, by_pair.get(base), compared, domains)
        rows.append(row)
    return Comparison(rows, domains, auc_Mm)


def _aucs(runs: Sequence[RunFigures], domains: NDArray[np.int64], test_rows_n: NDArray[np.int64]) -> dict[str, Any]:
    """Means and standard deviations over seeds."""
    means_S = np.array([run.auc_n[domains].mean() for run in runs])
    weighted_S = np.array([np.average(run.auc_n[domains], weights=test_rows_n[domains]) for run in runs])
    val = float(np.mean([run.val_auc for run in runs]))
    return {
        "test_auc": float(means_S.mean()),
        "test_auc_std": spread(means_S),
        "weighted_test_auc": float(weighted_S.mean()),
        "weighted_test_auc_std": spread(weighted_S),
        "val_auc": None if np.isnan(val) else val,
        "seconds": float(np.mean([run.seconds for run in runs])),
    }


def _overall(runs: Sequence[RunFigures]) -> dict[str, Any]:
    """Means over seeds of the figures that every run has; figures by cutoff at the cutoffs that all runs share."""
    found: dict[str, Any] = {}
    for name in OVERALL:
        values_S: list[Any] = [run.overall.get(name) for run in runs]
        if any(value is None for value in values_S):
            continue
        if isinstance(values_S[0], Mapping):
            shared = [k for k in values_S[0] if all(value.get(k) is not None for value in values_S)]
            found[name] = {k: float(np.mean([value[k] for value in values_S])) for k in shared}
        else:
            found[name] = float(np.mean(values_S))
            if name == "test_gauc":
                found["test_gauc_std"] = spread(np.array(values_S))
    return found


def _ranks(entries: Sequence[Entry], compared: ComparedRuns, domains: NDArray[np.int64]) -> Mapping[Pair, float]:
    finished = [entry for entry in entries if entry.runs]
    seeds = sorted(set.intersection(*(set(entry.runs) for entry in finished))) if finished else []
    if not seeds or not len(domains):
        return {}
    auc_MSm = np.array([[compared.runs[entry.runs[seed]].auc_n[domains] for seed in seeds] for entry in finished])
    return dict(zip([entry.pair for entry in finished], mean_ranks(auc_MSm).tolist(), strict=True))


def _against(entry: Entry, base: Entry | None, compared: ComparedRuns, domains: NDArray[np.int64]) -> dict[str, Any]:
    if base is None or base is entry or not len(domains):
        return {}
    seeds = sorted(set(entry.runs) & set(base.runs))
    if not seeds:
        return {}
    own_m, base_m = (
        np.mean([compared.runs[each.runs[seed]].auc_n[domains] for seed in seeds], axis=0) for each in (entry, base)
    )
    return vars(compare_domains(own_m, base_m))
