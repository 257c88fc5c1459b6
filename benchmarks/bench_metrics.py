"""AUC of every domain in one segmented pass, against scikit-learn's `roc_auc_score` in a loop over the domains.

    .venv/bin/python benchmarks/bench_metrics.py --rows 23e6 --domains 69102 --repeats 5
    .venv/bin/python benchmarks/bench_metrics.py --what groups --rows 1e6 --domains 1000 --groups 1e5 --repeats 5

Domains have log-normal sizes, as in synthetic logs. A quarter of the scores is rounded to three decimals, which gives
ties. Both measure the same rows in this process. The loop leaves out domains of one class, which have no AUC, and runs
once, since it takes a minute or more at full size. CPU time is printed as well, since other jobs on the machine affect
it less than wall time.

`--what groups` measures GAUC, NDCG@5, NDCG@10, hit rates and calibration errors of (domain, user) groups of equal
average size, against scikit-learn's `roc_auc_score` and `ndcg_score` in a loop over the groups with both classes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from machine import machine
from numpy.typing import NDArray
from sklearn.metrics import ndcg_score, roc_auc_score
from torch import Tensor

from mamdr_core.config.datasets import SyntheticSettings
from mamdr_core.config.engine import MetricsSettings
from mamdr_core.datasets.world import domain_sizes
from mamdr_core.engine.columns import offsets_of
from mamdr_core.engine.metrics import domain_metrics, segmented_auc

CTR = 0.2


def main() -> None:
    options = _parse()
    scores_N, labels_N, offsets = draw(int(options.rows), options.domains)
    if options.what == "groups":
        return compare_groups(scores_N, labels_N, offsets, int(options.groups), options.repeats)
    wanted, loop = timed(lambda: loop_auc(scores_N, labels_N, offsets), 1)
    found, ours = timed(lambda: segmented_auc(scores_N, labels_N, offsets), options.repeats)
    _, doubles = timed(lambda: segmented_auc(scores_N.double(), labels_N, offsets), options.repeats)
    _, all_figures = timed(lambda: domain_metrics(scores_N, labels_N, offsets, None), options.repeats)
    if not torch.equal(found.isnan(), wanted.isnan()):
        raise SystemExit("error: other domains have an AUC than in scikit-learn's loop")
    difference = (found - wanted)[~wanted.isnan()].abs().max().item()

    rows_n = offsets.diff()
    print(f"{machine()}; {len(scores_N):,} rows, {len(rows_n):,} domains of")
    print(f"{rows_n.min():,} to {rows_n.max():,} rows (median {rows_n.median():,}), {_known(wanted):,} with an AUC.")
    print(f"Largest difference from scikit-learn: {difference:.1e}. Median of {options.repeats}, the loop once.\n")
    print("| what | median s | spread s | processor s | the loop's time over this | by processor time |")
    print("|---|---|---|---|---|---|")
    measured = {
        "scikit-learn, domain by domain": loop,
        "segmented AUC, float32": ours,
        "segmented AUC, float64": doubles,
        "AUC, logloss, mean prediction, float32": all_figures,
    }
    loop_clock, loop_processor = loop[0]
    for what, each in measured.items():
        clock, processor = (statistics.median(seconds) for seconds in zip(*each, strict=True))
        spread = f"{min(each)[0]:.3f} to {max(each)[0]:.3f}"
        ratios = f"{loop_clock / clock:.0f} | {loop_processor / processor:.0f}"
        print(f"| {what} | {clock:.3f} | {spread} | {processor:.3f} | {ratios} |")


def compare_groups(scores_N: Tensor, labels_N: Tensor, offsets: Tensor, groups: int, repeats: int) -> None:
    """Print the times of both, and how far their figures are apart."""
    domain_N = np.repeat(np.arange(len(offsets) - 1), offsets.diff().numpy())
    # Users of a domain in proportion to its rows: about `groups` in all, less those that no row draws.
    users_n = np.maximum(1, offsets.diff().numpy() * groups // len(scores_N))
    ids = 1 + (np.random.default_rng(1).random(len(scores_N)) * users_n[domain_N]).astype(np.int32)
    ids_N, settings = torch.from_numpy(ids), MetricsSettings()
    wanted, loop = timed(lambda: loop_groups(scores_N, labels_N, domain_N, ids), 1)
    found, plain = timed(lambda: domain_metrics(scores_N, labels_N, offsets, None), repeats)
    found, ours = timed(lambda: domain_metrics(scores_N, labels_N, offsets, None, ids_N, settings), repeats)
    overall = found.overall()
    difference = np.abs(np.array([overall["gauc"], *overall["ndcg"].values()]) - wanted[1:]).max()
    print(f"{machine()}; {len(ids):,} rows, {len(offsets) - 1:,} domains, {int(wanted[0]):,} groups with both classes.")
    print(f"Largest difference from scikit-learn: {difference:.1e}. Median of {repeats}, the loop once.\n")
    print("| what | median s | processor s | the loop's time over this | by processor time |")
    print("|---|---|---|---|---|")
    (loop_clock, loop_processor), *_ = loop
    measured = {
        "scikit-learn, group by group": loop,
        "all figures": ours,
        "AUC, logloss, mean prediction alone": plain,
    }
    for what, each in measured.items():
        clock, processor = (statistics.median(seconds) for seconds in zip(*each, strict=True))
        ratios = f"{loop_clock / clock:.0f} | {loop_processor / processor:.0f}"
        print(f"| {what} | {clock:.3f} | {processor:.3f} | {ratios} |")


def loop_groups(scores_N: Tensor, labels_N: Tensor, domain_N: NDArray[np.int64], ids: NDArray[np.int32]) -> Any:
    """Number of groups with both classes, GAUC, NDCG@5 and NDCG@10 by scikit-learn."""
    key = domain_N << 32 | ids
    order = np.argsort(key, kind="stable")
    edges = np.flatnonzero(np.diff(key[order], prepend=-1, append=-1))
    scores, labels = scores_N.numpy()[order], labels_N.numpy()[order]
    found = []
    for start, stop in pairwise(edges.tolist()):
        x, y = scores[start:stop], labels[start:stop]
        if 0 < y.sum() < stop - start:
            ndcg = [ndcg_score([y], [x], k=k) for k in (5, 10)]
            found.append((stop - start, roc_auc_score(y, x), *ndcg))
    rows, auc, *ndcg = np.array(found).T
    return np.array([len(found), np.average(auc, weights=rows), *(each.mean() for each in ndcg)])


def draw(rows: int, domains: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores float32 [N], labels float32 [N] that depend on them, offsets int64 [n + 1]."""
    counts = torch.from_numpy(domain_sizes(SyntheticSettings(rows=rows, domains=domains)))
    random = np.random.default_rng(0)
    scores = random.standard_normal(rows, dtype=np.float32)
    tied = random.random(rows) < 1 / 4
    scores[tied] = scores[tied].round(3)
    labels = random.random(rows) < CTR * np.exp(scores / 4)
    return torch.from_numpy(scores), torch.from_numpy(labels.astype(np.float32)), offsets_of(counts)


def loop_auc(scores_N: Tensor, labels_N: Tensor, offsets: Tensor) -> Tensor:
    """scikit-learn's AUC by domain, float64 [n]; NaN for a domain of one class."""
    scores, labels, edges = scores_N.numpy(), labels_N.numpy(), offsets.tolist()
    found = np.full(len(edges) - 1, np.nan)
    for domain in range(len(found)):
        rows = slice(edges[domain], edges[domain + 1])
        if 0 < labels[rows].sum() < edges[domain + 1] - edges[domain]:
            found[domain] = roc_auc_score(labels[rows], scores[rows])
    return torch.from_numpy(found)


def timed(measure: Callable[[], Any], repeats: int) -> tuple[Any, list[tuple[float, float]]]:
    """What the last call returned, and the seconds of each by the clock and of the processor."""
    seconds = []
    for _ in range(repeats):
        clock, processor = time.perf_counter(), time.process_time()
        found = measure()
        seconds.append((time.perf_counter() - clock, time.process_time() - processor))
    return found, seconds


def _known(auc_n: Tensor) -> int:
    return int((~auc_n.isnan()).sum())


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("domains", "groups"), default="domains")
    parser.add_argument("--groups", type=float, default=1e5)
    parser.add_argument("--rows", type=float, default=23e6)
    parser.add_argument("--domains", type=int, default=69_102)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
