"""Measures the statistics of domains over the training rows of all ranks, and stores them in tables of theta_S."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.parameters import Change, Shared, TableShard
from mamdr_core.engine.plan import parts_in_step
from mamdr_core.engine.statistics import Moments, combine, domain_moments
from mamdr_core.engine.striping import Stripe
from mamdr_core.models.statistics import FEW_ROWS, DomainNormalization
from mamdr_core.parallel.collective import Collective, all_reduce_max
from mamdr_core.training.evaluation import PART_ROWS


def measure_statistics(
    engine: EagerEngine, shared: Shared, specific: Mapping[int, Change], train: Columns, collective: Collective
) -> None:
    """Measure the statistics of the layers `engine.statistics`, and store them in `shared`; a collective call.

    A domain's statistics are those of its training rows at theta_S + theta_i. If their weight is below that of
    `FEW_ROWS` rows of mean weight, the statistics of all rows count for the remainder, since a single row has no
    variance. A domain without training rows keeps the statistics inherited from a parent; otherwise it has those of all
    rows. The rows of a domain are on one rank, so the statistics are the same on any number of ranks. Tables are
    replaced, never changed in place. A model without such layers is unchanged.

    Args:
        specific: theta_i of this rank's domains that are served with one.
    """
    if not engine.statistics:
        return
    domains = len(train.offsets) - 1
    own = {layer.name: torch.zeros(domains, 1 + 2 * layer.width, dtype=torch.float64) for layer in engine.statistics}
    for first, last in parts_in_step(train.offsets.numpy(), PART_ROWS, partial(all_reduce_max, collective)):
        start, stop = train.offsets[[first, last]].tolist()
        shared.prefetch([Visit(train, torch.arange(start, stop, device=train.labels.device))])
        if first < last:  # otherwise this rank has finished; others still fetch rows from it
            for name, moments in domain_moments(engine, shared, specific, train, range(first, last)).items():
                own[name][first:last] = moments.flat
    tables, rows = dict(shared.tables), collective.all_reduce(torch.tensor([len(train)], dtype=torch.float64))
    for layer in engine.statistics:
        found = Moments.of(collective.all_reduce(own.pop(layer.name)))
        tables |= _replaced(layer, tables, found, rows, collective)
    shared.tables = tables


def _replaced(
    layer: DomainNormalization,
    tables: Mapping[str, Tensor | TableShard],
    found: Moments,
    rows_1: Tensor,
    collective: Collective,
) -> dict[str, Tensor | TableShard]:
    """The tables of a layer with the moments of all domains, [n, D]; `rows_1`: number of rows of all ranks."""
    before = [_whole(tables[table.name], collective) for table in layer.tables]
    count_n1, mean_nD, variance_nD = (rows[1:].double() for rows in before)
    has_rows_n1 = found.weight > 0
    kept = Moments(
        torch.where(has_rows_n1, found.weight, count_n1),
        torch.where(has_rows_n1, found.mean, mean_nD),
        torch.where(has_rows_n1, found.squares, variance_nD * count_n1),
    )
    everything = combine(kept, torch.tensor([len(count_n1)]))
    few = FEW_ROWS * found.weight.sum() / rows_1.clamp_min(1.0)
    share_n1 = torch.where(has_rows_n1, (found.weight / few).clamp(max=1.0), (kept.weight > 0).double())
    between_nD = share_n1 * (1 - share_n1) * (kept.mean - everything.mean).square()
    mean_nD = share_n1 * kept.mean + (1 - share_n1) * everything.mean
    variance_nD = share_n1 * kept.variance + (1 - share_n1) * everything.variance + between_nD
    made = (
        torch.cat([everything.weight, kept.weight]),
        torch.cat([everything.mean, mean_nD]),
        torch.cat([everything.variance, variance_nD]),
    )
    return {
        table.name: _with_rows(tables[table.name], rows, collective)
        for table, rows in zip(layer.tables, made, strict=True)
    }


def _whole(table: Tensor | TableShard, collective: Collective) -> Tensor:
    """All rows of a table, on the CPU."""
    if isinstance(table, Tensor):
        return table.cpu()
    rows = torch.zeros(table.shape, dtype=table.own.dtype)
    rows[Stripe(collective.rank, collective.size).slice] = table.own.cpu()
    return collective.all_reduce(rows)


def _with_rows(table: Tensor | TableShard, rows: Tensor, collective: Collective) -> Tensor | TableShard:
    """The table with other values."""
    if isinstance(table, Tensor):
        return rows.to(table)
    return table.with_rows(rows[Stripe(collective.rank, collective.size).slice].to(table.own))
