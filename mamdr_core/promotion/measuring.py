"""Figures by domain of one or two models on the same rows, and the variances for their comparison.

Shape suffixes: N rows, n domains, G groups: rows of one user in one domain.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mamdr_core.config.engine import MetricsSettings
from mamdr_core.engine.calibration import Cells
from mamdr_core.engine.plan import domain_parts
from mamdr_core.engine.ranking import groups_of
from mamdr_core.engine.segments import runs_of
from mamdr_core.promotion.intervals import Floats, Ints, mean_and_variance, placements
from mamdr_core.promotion.opening import OpenedModel
from mamdr_core.training.evaluation import predict_domains

PART_ROWS = 1 << 20
"""Maximum number of rows measured together, unless a single domain has more."""
Scores = NDArray[np.float32] | NDArray[np.float64]
_BY_DOMAIN = (
    *("rows", "clicks", "auc", "predicted"),
    *("day_auc", "day_variance", "earlier_auc", "earlier_variance", "day_rows"),
)


@dataclass(frozen=True)
class Figures:
    """Figures of a model by domain, float64 [n]; NaN where a figure is undefined.

    Attributes:
        rows, clicks: of the test split.
        auc: exact AUC.
        predicted: sum of the predicted probabilities.
        day_auc, day_variance: AUC and its variance on the newest day.
        earlier_auc, earlier_variance: AUC and its variance on earlier days.
        day_rows: rows of the newest day.
        group_auc: AUC by group, [G]; NaN for groups with one class.
        calibration_error: of all rows, a single number.
    """

    rows: Floats
    clicks: Floats
    auc: Floats
    predicted: Floats
    day_auc: Floats
    day_variance: Floats
    earlier_auc: Floats
    earlier_variance: Floats
    day_rows: Floats
    group_auc: Floats
    calibration_error: float


@dataclass(frozen=True)
class PairedFigures:
    """Figures of the challenger and the champion on the same rows.

    Attributes:
        challenger: figures of the challenger.
        champion: figures of the champion; None without a champion.
        difference, variance: AUC of the challenger minus that of the champion and its variance by domain, [n]; NaN
            without a champion.
        group_rows: rows by group, float64 [G].
    """

    challenger: Figures
    champion: Figures | None
    difference: Floats
    variance: Floats
    group_rows: Floats


@torch.no_grad()
def measure(
    challenger: OpenedModel, champion: OpenedModel | None, newest_N: NDArray[np.bool_], settings: MetricsSettings
) -> PairedFigures:
    """Measure both models on the same rows.

    Args:
        challenger: the challenger.
        champion: the champion on columns with the same rows in the same order.
        newest_N: mask of the rows of the newest day, [N].
        settings: the id column that defines groups (with the ids of the challenger), and bins of the calibration error.
    """
    models = [challenger] if champion is None else [challenger, champion]
    found: list[list[dict[str, Floats]]] = [[] for _ in models]
    cells = [Cells() for _ in models]
    differences, group_rows = [], []
    for first, last, rows in _parts(challenger.columns.offsets.numpy()):
        offsets = challenger.columns.offsets.numpy()[first : last + 1] - rows.start
        labels_N = challenger.columns.labels[rows].cpu().numpy()
        counts_n = torch.from_numpy(np.diff(offsets))
        groups = groups_of(challenger.columns.ids[settings.group][rows].cpu(), counts_n)
        group_rows.append(groups.counts_G.double().numpy())
        placed = []
        for model, figures, counted in zip(models, found, cells, strict=True):
            scores_N = _scores(model, range(first, last))
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
    return PairedFigures(joined[0], joined[1] if champion else None, difference_n, variance_n, rows_G)


def _parts(offsets: Ints) -> Iterator[tuple[int, int, slice]]:
    for first, last in domain_parts(offsets, PART_ROWS):
        yield first, last, slice(*offsets[[first, last]].tolist())


def _scores(model: OpenedModel, domains: range) -> Scores:
    package, columns = model.package, model.columns
    logits = predict_domains(model.engine, package.shared, package.specific, columns, domains)
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
    """Figures by domain, with the names in `Figures`."""
    domain_N = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))

    def total(values_N: NDArray[np.float64] | NDArray[np.float32] | NDArray[np.bool_]) -> Floats:
        return np.bincount(domain_N, values_N, len(offsets) - 1).astype(np.float64)

    auc, _ = mean_and_variance(placed_N, labels_N, offsets)
    day = _of_rows(scores_N, labels_N, domain_N, newest_N, len(auc))
    earlier = _of_rows(scores_N, labels_N, domain_N, ~newest_N, len(auc))
    predicted = total(torch.from_numpy(scores_N).double().sigmoid().numpy())
    rows, clicks = np.diff(offsets).astype(np.float64), total(labels_N)
    values = (rows, clicks, auc, predicted, *day, *earlier, total(newest_N))
    return dict(zip(_BY_DOMAIN, values, strict=True))


def _of_rows(
    scores_N: Scores,
    labels_N: NDArray[np.float32],
    domain_N: Ints,
    chosen_N: NDArray[np.bool_],
    domains: int,
) -> tuple[Floats, Floats]:
    """AUC by domain and its variance over the chosen rows."""
    offsets = np.concatenate([[0], np.bincount(domain_N[chosen_N], minlength=domains).cumsum()])
    scores, labels = scores_N[chosen_N], labels_N[chosen_N]
    return mean_and_variance(placements(scores, labels, offsets), labels, offsets)


def _join(parts: Sequence[dict[str, Floats]], calibration_error: float) -> Figures:
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Figures(**joined, calibration_error=calibration_error)
