"""Statistics of a run, measured over ranks and put into theta_S."""

from functools import partial

import numpy as np
import pytest
import torch

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Change, Rows, Shared, Theta
from mamdr_core.engine.prediction import predict_runs
from mamdr_core.engine.statistics import domain_moments
from mamdr_core.models.statistics import FEW_ROWS
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.parallel.sharded import ShardedTable
from mamdr_core.training import statistics
from mamdr_core.training.statistics import measure_statistics
from tests.models.small_structures import PARTITIONED, featured_columns, small_engine, small_settings

COUNTS = [40, 1, 13, 0, 7]
TABLES = ("normalization.count", "normalization.mean", "normalization.variance")


def fresh():
    """An engine, and theta_S that nothing was measured at."""
    engine, shared = small_engine(small_settings(PARTITIONED), len(COUNTS))
    for name in TABLES:
        shared.tables[name].zero_()
    return engine, shared


def theta_i(shared):
    """Of domain 2: its embedding moves."""
    moved = Rows(torch.tensor([3]), torch.full((1, 4), 0.5).double())
    return {2: Change(torch.zeros_like(shared.dense), {"domain": moved})}


def measured(columns, collective, sharded=False):
    """The tables after a measurement on a rank, whole."""
    engine, shared = fresh()
    if sharded:
        named = {table.name: table for table in engine.tables}
        own = slice(collective.rank, None, collective.size)
        tables = {name: ShardedTable(named[name], t[own].clone(), collective) for name, t in shared.tables.items()}
        shared = Shared(shared.dense, tables)
    owned = torch.arange(len(COUNTS)) % collective.size == collective.rank
    mine = columns.take(owned[columns.ids["domain"].long() - 1].nonzero().squeeze(1))
    specific = {domain: change for domain, change in theta_i(shared).items() if owned[domain]}
    measure_statistics(engine, shared, specific, mine, collective)
    found = {name: shared.tables[name] for name in TABLES}
    if sharded:
        found = {name: [rows.clone() for rows in table.own] for name, table in found.items()}
    return found


@pytest.mark.parametrize("most", [1, 20, 1 << 20])
def test_every_domain_is_measured_and_others_have_the_statistics_of_all_rows(monkeypatch, most):
    monkeypatch.setattr(statistics, "PART_ROWS", most)
    columns = featured_columns(COUNTS)
    engine, shared = fresh()
    before = dict(shared.tables)
    measure_statistics(engine, shared, theta_i(shared), columns, SingleProcess())
    expected = domain_moments(engine, shared, theta_i(shared), columns, range(len(COUNTS)))["normalization"]
    count, mean, variance = (shared.tables[name] for name in TABLES)
    assert count.flatten().tolist() == [61, 40, 1, 13, 0, 7]
    weight = expected.weight[:, 0].numpy()
    of_all = np.average(expected.mean, axis=0, weights=weight)
    variance_of_all = np.average(expected.variance + (expected.mean - of_all) ** 2, axis=0, weights=weight)
    for row in (0, 4):  # an unknown domain, and the one without rows
        np.testing.assert_allclose(mean[row], of_all, rtol=0, atol=1e-14)
        np.testing.assert_allclose(variance[row], variance_of_all, rtol=0, atol=1e-14)
    for domain in (0, 1, 2, 4):  # those with less than 16 rows have rows of all domains in addition
        own, own_variance = expected.mean[domain].numpy(), expected.variance[domain].numpy()
        share = min(COUNTS[domain] / FEW_ROWS, 1.0)
        mixed = share * own + (1 - share) * of_all
        squares = share * (own_variance + own**2) + (1 - share) * (variance_of_all + of_all**2)
        np.testing.assert_allclose(mean[domain + 1], mixed, rtol=0, atol=1e-14)
        np.testing.assert_allclose(variance[domain + 1], squares - mixed**2, rtol=0, atol=1e-13)
    varies = variance_of_all > 0.01
    assert expected.variance[1].abs().max() < 1e-28  # one row
    assert (variance[2].numpy()[varies] > 0.5 * variance_of_all[varies]).all()
    assert all(before[name].abs().max() == 0 for name in TABLES)  # replaced, as a checkpoint may still hold them
    assert all(shared.tables[name] is table for name, table in before.items() if name not in TABLES)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_measures_the_same_bits(ranks, sharded):
    columns = featured_columns(COUNTS)
    columns.weights = torch.rand(len(columns), generator=torch.Generator().manual_seed(2)).double()
    alone = measured(columns, SingleProcess())
    together = run_simulated(partial(measured, columns, sharded=sharded), ranks)
    for name, table in alone.items():
        for rank, found in enumerate(together):
            if not sharded:
                assert torch.equal(found[name], table), name
                continue
            assert torch.equal(torch.stack(found[name]), table[rank::ranks]), name


def test_a_domain_without_rows_today_keeps_what_its_parent_measured():
    engine, shared = fresh()
    measure_statistics(engine, shared, {}, featured_columns(COUNTS), SingleProcess())
    parent = {name: shared.tables[name].clone() for name in TABLES}
    measure_statistics(engine, shared, {}, featured_columns([0, 19, 0, 0, 20], seed=3), SingleProcess())
    count, mean, variance = (shared.tables[name] for name in TABLES)
    assert count.flatten().tolist() == [40 + 19 + 13 + 20, 40, 19, 13, 0, 20]
    for row in (1, 3):
        torch.testing.assert_close(mean[row], parent["normalization.mean"][row], rtol=0, atol=0)
        torch.testing.assert_close(variance[row], parent["normalization.variance"][row], rtol=0, atol=1e-14)
    assert (mean[5] - parent["normalization.mean"][5]).abs().max() > 0.01
    torch.testing.assert_close(mean[4], mean[0], rtol=0, atol=0)
    weight = count[1:].flatten().numpy()
    np.testing.assert_allclose(mean[0], np.average(mean[1:], axis=0, weights=weight), rtol=0, atol=1e-14)


def test_predictions_follow_the_measured_statistics():
    """Training rows that are normalised have mean 0 and variance 1, where they vary at all."""
    columns = featured_columns(COUNTS)
    engine, shared = fresh()
    measure_statistics(engine, shared, {}, columns, SingleProcess())
    seen = []
    (layer,) = engine.statistics
    handle = layer.register_forward_hook(lambda _, inputs, output: seen.append(output))
    own = engine.predict(Theta(shared), Visit(columns, torch.arange(40)))
    handle.remove()
    (normalized,) = seen
    assert normalized.mean(0).abs().max() < 1e-12
    spread = normalized.var(0, unbiased=False)
    varies = columns.numeric[:40].var(0, unbiased=False)
    torch.testing.assert_close(spread[-2:], varies / (varies + 1e-5), rtol=1e-9, atol=0)
    domain = slice(8, 12)
    assert normalized[:, domain].abs().max() < 1e-12  # the domain's embedding does not vary
    both = predict_runs(engine, shared, {}, columns, range(5), columns.offsets.numpy())
    torch.testing.assert_close(both[:40], own)


def test_a_model_without_statistics_is_left_as_it_is():
    engine, shared = small_engine(small_settings("star"), len(COUNTS))
    tables = shared.tables
    measure_statistics(engine, shared, {}, featured_columns(COUNTS), SingleProcess())
    assert shared.tables is tables
