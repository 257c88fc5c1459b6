"""Exact AUC, logloss, mean prediction and calibration of all domains in one segmented pass, on the scores' device.

After training also ranking metrics per user and calibration errors: `DetailedMetrics`.

Shape suffixes: N rows, n domains, K cutoffs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.config.engine import MetricsSettings
from mamdr_core.engine.calibration import Cells, calibration_error
from mamdr_core.engine.ranking import group_figures, groups_of
from mamdr_core.engine.segments import parts, runs_of
from mamdr_core.engine.threads import one_thread


@dataclass
class DetailedMetrics:
    """Metrics of (domain, user) groups with rows of both classes, and calibration errors, after training.

    Attributes:
        settings: settings of the metrics.
        figures: values of the properties, in their order, float64 [4 + 2 K, n]; NaN if not defined.
        cells: counts of rows for the calibration error of all domains together.
    """

    settings: MetricsSettings
    figures: Tensor
    cells: Cells = field(default_factory=Cells)

    @property
    def gauc(self) -> Tensor:
        """Mean AUC of the groups of each domain, weighted by their rows (impressions), float64 [n]."""
        return self.figures[0]

    @property
    def gauc_rows(self) -> Tensor:
        """Rows of these groups, float64 [n]."""
        return self.figures[1]

    @property
    def groups(self) -> Tensor:
        """Number of these groups, float64 [n]."""
        return self.figures[2]

    @property
    def calibration_error(self) -> Tensor:
        """Expected calibration error of the rows of each domain, float64 [n]."""
        return self.figures[3]

    @property
    def ndcg(self) -> Tensor:
        """Mean NDCG of the groups at each cutoff, float64 [K, n]."""
        return self.figures[4 : 4 + len(self.settings.cutoffs)]

    @property
    def hit_rate(self) -> Tensor:
        """Share of the groups with a click among the k highest scores, float64 [K, n]."""
        return self.figures[4 + len(self.settings.cutoffs) :]


@dataclass
class DomainMetrics:
    """Metrics by domain, all float64 [n]; NaN if not defined (no rows; for AUC, a single class).

    Attributes:
        rows: number of examples.
        clicks: number of examples with label 1.
        auc: exact area under the ROC curve, ties counted half.
        logloss: mean negative log-likelihood.
        mean_prediction: mean predicted probability.
        oracle_auc: AUC of the true probabilities, if the log has them.
        detail: metrics that are computed only after training; None: not computed.
    """

    rows: Tensor
    clicks: Tensor
    auc: Tensor
    logloss: Tensor
    mean_prediction: Tensor
    oracle_auc: Tensor
    detail: DetailedMetrics | None = None

    @property
    def pcoc(self) -> Tensor:
        """Mean prediction over CTR, float64 [n]; above 1 predictions are too high. NaN without a click."""
        return torch.where(self.clicks > 0, self.mean_prediction * self.rows / self.clicks, torch.nan)

    def mean_auc(self) -> float:
        """Mean of the defined AUCs of domains (the metric of the paper); NaN without any."""
        return self.auc[~self.auc.isnan()].mean().item()

    def weighted_auc(self) -> float:
        """Mean of the defined AUCs of domains, weighted by rows."""
        return _weighted(self.auc, self.rows)

    def overall(self) -> dict[str, Any]:
        """Metrics of all domains together: gauc, ndcg and hit_rate (by cutoff), pcoc and calibration_error.

        GAUC is weighted by rows over all (domain, user) groups; NDCG and hit rate are means over them. PCOC and
        calibration error are those of all rows. NaN if not defined; without `detail` only PCOC.
        """
        known = ~self.mean_prediction.isnan()
        predicted = (self.mean_prediction * self.rows)[known].sum()
        clicks = self.clicks[known].sum()
        pcoc = (predicted / clicks).item() if clicks else float("nan")
        if self.detail is None:
            return {"pcoc": pcoc}
        detail = self.detail
        by_cutoff = {
            name: {
                str(k): _weighted(figure, detail.groups)
                for k, figure in zip(detail.settings.cutoffs, figures, strict=True)
            }
            for name, figures in (("ndcg", detail.ndcg), ("hit_rate", detail.hit_rate))
        }
        return {
            "gauc": _weighted(detail.gauc, detail.gauc_rows),
            **by_cutoff,
            "pcoc": pcoc,
            "calibration_error": detail.cells.error(detail.settings.bins),
        }


def _weighted(figure_n: Tensor, weights_n: Tensor) -> float:
    """Weighted mean of the values that are not NaN; NaN without any."""
    known = ~figure_n.isnan()
    return ((figure_n * weights_n)[known].sum() / weights_n[known].sum()).item()


@one_thread()
def domain_metrics(
    logits_N: Tensor,
    labels_N: Tensor,
    offsets: Tensor,
    true_probability_N: Tensor | None,
    ids_N: Tensor | None = None,
    settings: MetricsSettings | None = None,
) -> DomainMetrics:
    """Compute metrics on the device of the logits; those of a domain depend only on its rows.

    Args:
        logits_N: scores sorted by domain, float [N].
        labels_N: 0. or 1., [N].
        offsets: first row of each domain, and the number of rows, int64 [n + 1].
        true_probability_N: float64 [N], or None.
        ids_N: ids of users, or of the feature `settings.group`, [N]; 0 is the unknown id.
        settings: with `ids_N`, settings of `DetailedMetrics`, which are then computed as well.

    Returns:
        Metrics on the CPU, except for the cells of `detail`.
    """
    device = logits_N.device
    figures = [torch.zeros(5, 0, dtype=torch.float64, device=device)]
    detail = None
    if settings is not None and ids_N is not None:
        nothing = torch.zeros(4 + 2 * len(settings.cutoffs), 0, dtype=torch.float64)
        detail = DetailedMetrics(settings, nothing, Cells(device))
    for rows, counts_n in parts(offsets, device):
        x_N, y_N = logits_N[rows].double(), labels_N[rows].to(device).double()
        losses_N = binary_cross_entropy_with_logits(x_N, y_N, reduction="none")
        # Without index_add_, whose order of summation varies on CUDA.
        sums = [torch.segment_reduce(each_N, "sum", lengths=counts_n) for each_N in (y_N, losses_N, x_N.sigmoid())]
        oracle_n = torch.full_like(sums[0], torch.nan)
        if true_probability_N is not None:
            oracle_n = runs_of(true_probability_N[rows].to(device), y_N, counts_n).auc()
        runs = runs_of(logits_N[rows], y_N, counts_n)
        figures.append(torch.stack([*sums, runs.auc(), oracle_n]))
        if detail is not None and ids_N is not None:
            detail.cells.add(runs)
            errors_n = calibration_error(runs, detail.settings.bins)
            of_groups = _by_domain(logits_N[rows], y_N, ids_N[rows].to(device), counts_n, detail.settings.cutoffs)
            more = torch.cat([of_groups[:3], errors_n[None], of_groups[3:]]).cpu()
            detail.figures = torch.cat([detail.figures, more], 1)
    clicks_n, loss_n, prediction_n, auc_n, oracle_n = torch.cat(figures, 1).cpu()
    rows_n = offsets.diff().double().cpu()
    return DomainMetrics(
        rows=rows_n,
        clicks=clicks_n,
        auc=auc_n,
        logloss=loss_n / rows_n,
        mean_prediction=prediction_n / rows_n,
        oracle_auc=oracle_n,
        detail=detail,
    )


def _by_domain(scores_N: Tensor, labels_N: Tensor, ids_N: Tensor, counts_n: Tensor, cutoffs: Sequence[int]) -> Tensor:
    """GAUC, its rows and groups, and NDCG and hit rate at each cutoff by domain, float64 [3 + 2 K, n]."""
    found = group_figures(scores_N, labels_N, groups_of(ids_N, counts_n), cutoffs)
    groups_n = torch.bincount(found.domain_G, minlength=len(counts_n))

    def total(figure_G: Tensor) -> Tensor:
        return torch.segment_reduce(figure_G, "sum", lengths=groups_n)

    rows_n = total(found.rows_G)
    means = [total(figure_G) / groups_n for figure_G in (*found.ndcg_KG, *found.hit_KG)]
    return torch.stack([total(found.auc_G * found.rows_G) / rows_n, rows_n, groups_n.double(), *means])


@one_thread()
def segmented_auc(scores_N: Tensor, labels_N: Tensor, offsets: Tensor) -> Tensor:
    """Exact AUC of every segment, see `Runs.auc`.

    Args:
        scores_N: scores sorted by segment, float [N].
        labels_N: 0. or 1., [N].
        offsets: first row of each segment, and the number of rows, int64 [n + 1].

    Returns:
        float64 [n] on the CPU; NaN for a segment of one class, or with a score that is not finite.
    """
    auc_n = [torch.zeros(0, dtype=torch.float64, device=scores_N.device)]
    for rows, counts_n in parts(offsets, scores_N.device):
        auc_n.append(runs_of(scores_N[rows], labels_N[rows].to(scores_N.device), counts_n).auc())
    return torch.cat(auc_n).cpu()
