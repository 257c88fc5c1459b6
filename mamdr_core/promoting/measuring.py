"""Figures by domain of one or two models on the same rows, with the variances that their comparison needs.

Shape suffixes: N rows, n domains, G groups: rows of one user in one domain.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mamdr_core.engine.calibration import Cells
from mamdr_core.engine.plan import domain_parts
from mamdr_core.engine.ranking import groups_of
from mamdr_core.engine.segments import runs_of
from mamdr_core.engine.settings import MetricsSettings
from mamdr_core.promoting.intervals import Floats, Ints, mean_and_variance, placements
from mamdr_core.promoting.opening import Scorer
from mamdr_core.training.evaluation import predict_domains

PART_ROWS = 1 << 20
"""Rows measured at once, unless one domain has more."""
Scores = NDArray[np.float32] | NDArray[np.float64]
_BY_DOMAIN = (
    *("rows", "clicks", "auc", "promised"),
    *("day_auc", "day_variance", "earlier_auc", "earlier_variance", "day_rows"),
)


@dataclass(frozen=True)
class Figures:
    """A model's figures by domain, float64 [n]; NaN where one is not defined.

    Attributes:
        rows, clicks: measured.
        auc: exact AUC.
        promised: sum of the predicted probabilities.
        day_auc, day_variance: of the newest day's rows.
        earlier_auc, earlier_variance: of the rows of earlier days.
        day_rows: rows of the newest day.
        group_auc: AUC by group, [G]; NaN for one class.
        calibration_error: of all rows; a number.
    """

    rows: Floats
    clicks: Floats
    auc: Floats
    promised: Floats
    day_auc: Floats
    day_variance: Floats
    earlier_auc: Floats
    earlier_variance: Floats
    day_rows: Floats
    group_auc: Floats
    calibration_error: float


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        challenger: its figures.
        champion: the champion's on the same rows; None: there is none.
        difference, variance: the challenger's AUC less the champion's and its variance by domain, [n]; NaN without one.
        group_rows: rows by group, float64 [G].
    """

    challenger: Figures
    champion: Figures | None
    difference: Floats
    variance: Floats
    group_rows: Floats


@torch.no_grad()
def measure(
    challenger: Scorer, champion: Scorer | None, newest_N: NDArray[np.bool_], settings: MetricsSettings
) -> Measured:
    """Measure both models on the rows that they share.

    Args:
        challenger: the one.
        champion: the other, on columns of the same rows in the same order.
        newest_N: whether a row is of the newest day, [N].
        settings: what makes a group, by the challenger's ids, and the bins of the calibration error.
    """
    scorers = [challenger] if champion is None else [challenger, champion]
    found: list[list[dict[str, Floats]]] = [[] for _ in scorers]
    cells = [Cells() for _ in scorers]
    differences, group_rows = [], []
    for first, last, rows in _parts(challenger.columns.offsets.numpy()):
        offsets = challenger.columns.offsets.numpy()[first : last + 1] - rows.start
        labels_N = challenger.columns.labels[rows].cpu().numpy()
        counts_n = torch.from_numpy(np.diff(offsets))
        groups = groups_of(challenger.columns.ids[settings.group][rows].cpu(), counts_n)
        group_rows.append(groups.counts_G.double().numpy())
        placed = []
        for scorer, figures, counted in zip(scorers, found, cells, strict=True):
            scores_N = _scores(scorer, range(first, last))
            placed.append(placements(scores_N, labels_N, offsets))
            scores, labels = torch.from_numpy(scores_N), torch.from_numpy(labels_N)
            counted.add(runs_of(scores, labels, counts_n))
            by_group = runs_of(scores[groups.rows_M], labels[groups.rows_M], groups.counts_G).auc().numpy()
            by_domain = _figures(scores_N, placed[-1], labels_N, offsets, newest_N[rows])
            figures.append(by_domain | {"group_auc": by_group})
        between_N = placed[0] - placed[-1] if champion else np.full(len(labels_N), np.nan)
        differences.append(mean_and_variance(between_N, labels_N, offsets))
    difference_n, variance_n = (np.concatenate(part) for part in zip(*differences, strict=True))
    joined = [_join(figures, counted.error(settings.bins)) for figures, counted in zip(found, cells, strict=True)]
    rows_G = np.concatenate(group_rows)
    return Measured(joined[0], joined[1] if champion else None, difference_n, variance_n, rows_G)


def _parts(offsets: Ints) -> Iterator[tuple[int, int, slice]]:
    for first, last in domain_parts(offsets, PART_ROWS):
        yield first, last, slice(*offsets[[first, last]].tolist())


def _scores(scorer: Scorer, domains: range) -> Scores:
    package, columns = scorer.package, scorer.columns
    logits = predict_domains(scorer.engine, package.shared, package.specific, columns, domains)
    if package.calibration:
        rows = slice(*columns.offsets[[domains.start, domains.stop]].tolist())
        logits = package.calibration.apply(logits, columns.ids["domain"][rows] - 1)
    scores: Scores = logits.cpu().numpy()
    return scores


def _figures(
    scores_N: Scores,
    placed_N: Floats,
    labels_N: NDArray[np.float32],
    offsets: Ints,
    newest_N: NDArray[np.bool_],
) -> dict[str, Floats]:
    """Figures by domain, by name in `Figures`."""
    domain_N = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))

    def total(values_N: NDArray[np.float64] | NDArray[np.float32] | NDArray[np.bool_]) -> Floats:
        return np.bincount(domain_N, values_N, len(offsets) - 1).astype(np.float64)

    auc, _ = mean_and_variance(placed_N, labels_N, offsets)
    day = _of_rows(scores_N, labels_N, domain_N, newest_N, len(auc))
    earlier = _of_rows(scores_N, labels_N, domain_N, ~newest_N, len(auc))
    promised = total(torch.from_numpy(scores_N).double().sigmoid().numpy())
    rows, clicks = np.diff(offsets).astype(np.float64), total(labels_N)
    values = (rows, clicks, auc, promised, *day, *earlier, total(newest_N))
    return dict(zip(_BY_DOMAIN, values, strict=True))


def _of_rows(
    scores_N: Scores,
    labels_N: NDArray[np.float32],
    domain_N: Ints,
    chosen_N: NDArray[np.bool_],
    domains: int,
) -> tuple[Floats, Floats]:
    """AUC and variance by domain of some of the rows."""
    offsets = np.concatenate([[0], np.bincount(domain_N[chosen_N], minlength=domains).cumsum()])
    scores, labels = scores_N[chosen_N], labels_N[chosen_N]
    return mean_and_variance(placements(scores, labels, offsets), labels, offsets)


def _join(parts: Sequence[dict[str, Floats]], calibration_error: float) -> Figures:
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Figures(**joined, calibration_error=calibration_error)
