"""Predictions of a model with theta_S and every theta_i, and their figures by domain, gathered over ranks."""

from collections.abc import Mapping
from dataclasses import astuple
from functools import partial

import torch
from torch import Tensor

from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.metrics import DomainMetrics, domain_metrics
from mamdr_core.engine.parameters import Change, Shared
from mamdr_core.engine.plan import parts_in_step
from mamdr_core.engine.prediction import predict_runs
from mamdr_core.pace import Pace
from mamdr_core.parallel.collective import Collective, SingleProcess, most

PART_ROWS = 1 << 20


def predict_domains(
    engine: EagerEngine, shared: Shared, specific: Mapping[int, Change], columns: Columns, domains: range
) -> Tensor:
    """Logits of some domains' rows, float32: domain i's at theta_S + theta_i (Eq. 5), or at theta_S without theta_i."""
    edges = columns.offsets[domains.start : domains.stop + 1].numpy()
    return predict_runs(engine, shared, specific, columns, domains, edges)


def evaluate_columns(
    engine: EagerEngine,
    shared: Shared,
    specific: Mapping[int, Change],
    columns: Columns,
    collective: Collective | None = None,
    pace: Pace | None = None,
) -> DomainMetrics:
    """Figures of all domains, the same on every rank.

    Each domain is measured by the rank that holds its rows: ranks exchange figures by domain, never scores, and an AUC
    is exact however many ranks there are. Logits depend on the rank's other domains and its threads by rounding alone.

    Args:
        engine: predicts.
        shared: theta_S.
        specific: theta_i of this rank's domains.
        columns: this rank's rows of a split.
        collective: the ranks; None: this process alone.
        pace: is told of rows that are measured.
    """
    collective = collective or SingleProcess()
    parts = []
    # Some domains at a time, so that the logits of a large split never lie in memory together.
    for first, last in parts_in_step(columns.offsets.numpy(), PART_ROWS, partial(most, collective)):
        start, stop = columns.offsets[[first, last]].tolist()
        shared.reach([Visit(columns, torch.arange(start, stop, device=columns.labels.device))])
        if first == last:  # this rank is through; others still fetch rows from it
            continue
        logits = predict_domains(engine, shared, specific, columns, range(first, last))
        offsets = columns.offsets[first : last + 1]
        rows = slice(*offsets[[0, -1]].tolist())
        known = None if columns.true_probability is None else columns.true_probability[rows]
        parts.append(domain_metrics(logits, columns.labels[rows], offsets - offsets[0], known))
        if pace:
            pace.add(stop - start)
    own = DomainMetrics(*(torch.cat(figure) for figure in zip(*map(astuple, parts), strict=True)))
    return _gather(own, collective)


def _gather(own: DomainMetrics, collective: Collective) -> DomainMetrics:
    """Every domain's rows lie on one rank, so a sum over ranks of what is known is that rank's figure, bit for bit."""
    figures = torch.stack(astuple(own))
    known = ~figures.isnan()
    both = torch.stack([figures.nan_to_num(0.0), known.double()])
    values, counted = collective.all_reduce(both)
    # Pickling a tensor writes all of its storage: a view of one figure would be sent with all six.
    return DomainMetrics(*(figure.clone() for figure in torch.where(counted > 0, values, torch.nan)))
