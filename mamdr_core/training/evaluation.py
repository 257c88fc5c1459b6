"""Predictions with theta_S and every theta_i, and their metrics by domain, gathered over ranks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from mamdr_core.config.engine import MetricsSettings
from mamdr_core.engine.calibration import Cells
from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.metrics import DetailedMetrics, DomainMetrics, domain_metrics
from mamdr_core.engine.parameters import Change, Shared
from mamdr_core.engine.plan import parts_in_step
from mamdr_core.engine.platt import Calibration, CalibrationRows, fit_isotonic, fit_platt
from mamdr_core.engine.prediction import predict_runs
from mamdr_core.parallel.collective import Collective, SingleProcess, all_reduce_max
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.pace import ProgressLog

PART_ROWS = 1 << 20


def predict_domains(
    engine: EagerEngine, shared: Shared, specific: Mapping[int, Change], columns: Columns, domains: range
) -> Tensor:
    """Logits of the rows of some domains, float32, at theta_S + theta_i (Eq. 5), or at theta_S without theta_i."""
    edges = columns.offsets[domains.start : domains.stop + 1].numpy()
    return predict_runs(engine, shared, specific, columns, domains, edges)


def evaluate_columns(
    engine: EagerEngine,
    shared: Shared,
    specific: Mapping[int, Change],
    columns: Columns,
    collective: Collective | None = None,
    detail: MetricsSettings | None = None,
    calibration: Calibration | None = None,
) -> DomainMetrics:
    """Metrics of all domains, the same on every rank: `evaluate_calibrated` with one calibration."""
    (measured,) = evaluate_calibrated(engine, shared, specific, columns, [calibration], collective, detail=detail)
    return measured


def evaluate_calibrated(
    engine: EagerEngine,
    shared: Shared,
    specific: Mapping[int, Change],
    columns: Columns,
    calibrations: Sequence[Calibration | None],
    collective: Collective | None = None,
    pace: ProgressLog | None = None,
    detail: MetricsSettings | None = None,
) -> list[DomainMetrics]:
    """Metrics of all domains for each calibration, the same on every rank; rows are predicted once.

    The rank that holds the rows of a domain computes its metrics. Ranks exchange metrics by domain, never scores, so an
    AUC is exact for any number of ranks. Other domains of the rank and its threads change logits only by rounding.

    Args:
        engine: the engine that predicts.
        shared: theta_S.
        specific: theta_i of this rank's domains.
        columns: this rank's rows of a split.
        calibrations: calibrations of the logits; None: uncalibrated.
        collective: the ranks; None: this process only.
        pace: reports progress in rows.
        detail: settings of `DetailedMetrics`; None: these are not computed.

    Raises:
        MamdrError: the rows have no ids of `detail.group`.
    """
    collective = collective or SingleProcess()
    if detail:
        check_group(columns, detail)
    parts, cells = [list[DomainMetrics]() for _ in calibrations], [Cells() for _ in calibrations]
    # Some domains at a time, so that the logits of a large split are never in memory together.
    for first, last, logits in _logits(engine, shared, specific, columns, collective):
        offsets = columns.offsets[first : last + 1]
        rows = slice(*offsets[[0, -1]].tolist())
        known = None if columns.true_probability is None else columns.true_probability[rows]
        ids = columns.ids[detail.group][rows] if detail else None
        for calibration, own_parts, own_cells in zip(calibrations, parts, cells, strict=True):
            own = calibration.apply(logits, columns.ids["domain"][rows] - 1) if calibration else logits
            part = domain_metrics(own, columns.labels[rows], offsets - offsets[0], known, ids, detail)
            if part.detail:
                own_cells.sums += part.detail.cells.sums.cpu()
                part.detail.cells = own_cells
            own_parts.append(part)
        if pace:
            pace.add(rows.stop - rows.start)
    return [_gather(own, detail, collective) for own in parts]


def _logits(
    engine: EagerEngine, shared: Shared, specific: Mapping[int, Change], columns: Columns, collective: Collective
) -> Iterator[tuple[int, int, Tensor]]:
    """Logits of some domains at a time, with the first domain and the last + 1; all ranks must consume all parts."""
    for first, last in parts_in_step(columns.offsets.numpy(), PART_ROWS, partial(all_reduce_max, collective)):
        start, stop = columns.offsets[[first, last]].tolist()
        shared.prefetch([Visit(columns, torch.arange(start, stop, device=columns.labels.device))])
        if first < last:  # otherwise this rank has no rows left, but others still fetch table rows from it
            yield first, last, predict_domains(engine, shared, specific, columns, range(first, last))


def calibrate(
    engine: EagerEngine,
    shared: Shared,
    specific: Mapping[int, Change],
    val: Columns,
    collective: Collective,
    prior: Calibration | None = None,
    kind: Literal["platt", "isotonic"] = "platt",
) -> Calibration:
    """Fit Platt scaling by domain, after a shared isotonic curve if `kind` asks for it; the same result on every rank.

    Args:
        engine, shared, specific, collective: see `evaluate_columns`.
        val: this rank's validation rows.
        prior: see `fit_platt`.
        kind: see `train.calibration`.
    """
    logits = [logits.double().cpu() for *_, logits in _logits(engine, shared, specific, val, collective)]
    labels_N = val.labels.cpu().double()
    rows = CalibrationRows(
        torch.cat(logits) if logits else labels_N,
        labels_N,
        torch.ones_like(labels_N) if val.weights is None else val.weights.cpu().double(),
        val.ids["domain"].cpu().long() - 1,
        len(val.offsets) - 1,
    )
    fit = fit_isotonic if kind == "isotonic" else fit_platt
    return fit(rows, collective.all_reduce, prior)


def check_group(columns: Columns, settings: MetricsSettings) -> None:
    """Check that rows have ids of `metrics.group`.

    Raises:
        MamdrError: the rows have none.
    """
    if settings.group not in columns.ids:
        known = ", ".join(name for name in columns.ids if name != "domain")
        raise MamdrError(f"metrics.group is {settings.group!r}, which these examples lack: expected one of {known}")


_FIGURES = [item.name for item in fields(DomainMetrics) if item.name != "detail"]


def _gather(parts: Sequence[DomainMetrics], detail: MetricsSettings | None, collective: Collective) -> DomainMetrics:
    """Gather metrics: all rows of a domain are on one rank, so the sum over ranks is that rank's value, bit for bit."""
    figures = torch.cat([torch.stack([getattr(part, name) for name in _FIGURES]) for part in parts], 1)
    details = [part.detail for part in parts if part.detail]
    if details:
        figures = torch.cat([figures, torch.cat([each.figures for each in details], 1)])
    known = ~figures.isnan()
    both = torch.stack([figures.nan_to_num(0.0), known.double()])
    values, counted = collective.all_reduce(both)
    gathered = torch.where(counted > 0, values, torch.nan)
    # Pickling a tensor writes all of its storage: a view of one figure would be sent with all of them.
    measured = DomainMetrics(*(figure.clone() for figure in gathered[: len(_FIGURES)]))
    if detail:
        cells = Cells()
        cells.sums = collective.all_reduce(details[-1].cells.sums)
        measured.detail = DetailedMetrics(detail, gathered[len(_FIGURES) :].clone(), cells)
    return measured
