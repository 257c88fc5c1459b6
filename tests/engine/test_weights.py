"""Sample weights: a step's loss is their weighted mean, in both engines, in mixed batches, and between ranks."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.dense_gradients import dense_gradients
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.parameters import Theta
from mamdr_core.parallel.averaging import mean_change
from mamdr_core.parallel.collective import run_simulated
from mamdr_core.parallel.row_exchange import exchange_rows
from tests.engine.engines import (
    COUNTS,
    DOMAINS,
    SCOPES,
    assert_same,
    columns_of,
    eager_engine,
    fast_engine,
    trajectories,
    visit,
)  # fmt: skip
from tests.engine.test_per_domain import both, featured_columns, mixed

ZERO = 2
"""The domain whose weights are all zero."""


def weighted(columns: Columns, seed: int = 5) -> Columns:
    weights = 3 * torch.rand(len(columns), generator=torch.Generator().manual_seed(seed))
    weights[columns.ids["domain"] == ZERO + 1] = 0
    weights[1] = 0
    return replace(columns, weights=weights)


def weighted_loss(engine: EagerEngine, dense: torch.Tensor, shared, columns: Columns, rows: torch.Tensor):
    """Sum w l / sum w by plain torch."""
    fields = {name: table[columns.ids[name][rows].long()] for name, table in shared.tables.items()}
    fields["numeric"] = columns.numeric[rows]
    logits = functional_call(engine.flat.module, engine.flat.named(dense), (fields,))
    losses = binary_cross_entropy_with_logits(logits, columns.labels[rows], reduction="none")
    return (columns.weights[rows] * losses).sum() / columns.weights[rows].double().sum()


def test_the_gradient_is_that_of_the_weighted_mean():
    columns, (engine, shared) = weighted(columns_of()), eager_engine(dropout=0.0)
    rows = torch.cat([visit(columns, domain).rows for domain in (0, 4, 5)])
    dense = shared.dense.clone().requires_grad_()
    expected = weighted_loss(engine, dense, shared, columns, rows)
    expected.backward()
    loss, gradient = engine.loss_and_gradient(Theta(shared), Visit(columns, rows))
    assert loss == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(gradient.dense, dense.grad, rtol=0, atol=1e-12)


def test_weights_of_zero_give_no_gradient_and_weights_of_one_change_nothing():
    columns, (engine, shared) = weighted(columns_of()), eager_engine()
    loss, gradient = engine.loss_and_gradient(Theta(shared), visit(columns, ZERO))
    assert (loss, gradient.norm()) == (0.0, 0.0)
    for made in (engine, fast_engine()):
        assert made.descend(Theta(shared), [visit(columns, ZERO)], 0.05, seed=3).norm() == 0
        plain = made.descend(Theta(shared), [visit(columns_of(), 4)], 0.05, seed=3)
        ones = replace(columns_of(), weights=torch.ones(len(columns)))
        assert_same(made.descend(Theta(shared), [visit(ones, 4)], 0.05, seed=3), plain)
        scaled = replace(columns, weights=7 * columns.weights)
        expected = made.descend(Theta(shared), [visit(columns, 4)], 0.05, seed=3)
        assert_same(made.descend(Theta(shared), [visit(scaled, 4)], 0.05, seed=3), expected, atol=1e-6)
        assert (expected.dense - plain.dense).abs().max() > 1e-3


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("scopes", SCOPES)
def test_weighted_trajectories_equal_the_eager_ones(scopes, optimizer):
    """Of DR's visits only the target's rows have weights here: supports count alike."""
    columns, (eager, shared) = weighted(columns_of()), eager_engine()
    visits = [visit(columns, d) for d in (4, 0, 2, 1, 3, 5)]
    expected = eager.descend(Theta(shared), visits, 0.05, optimizer, seed=3)
    assert_same(fast_engine().descend(Theta(shared), visits, 0.05, optimizer, seed=3), expected)
    thetas, visits = trajectories(columns, shared)
    given = (thetas, visits, 0.05, optimizer, SCOPES[scopes], [11 + d for d in DOMAINS])
    for found, wanted in zip(fast_engine().descend_many(*given), eager.descend_many(*given), strict=True):
        assert_same(found, wanted)


def test_a_mixed_batch_is_weighted_over_all_its_rows():
    columns = weighted(featured_columns(COUNTS))
    eager, _, shared = both("star", dropout=0.0)
    found = eager.gradient(Theta(shared), mixed(columns)).dense
    expected = torch.zeros_like(found)
    for domain in DOMAINS:
        own = visit(columns, domain)
        expected += eager.gradient(Theta(shared), own).dense * own.total_weight / float(columns.weights.double().sum())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_weighted_gradients_in_stacks_equal_those_of_single_domains():
    columns, (engine, shared) = weighted(columns_of()), eager_engine(dropout=0.0)
    found = dense_gradients(engine, shared, columns, torch.arange(len(columns)), columns.offsets.numpy())
    for domain in DOMAINS:
        expected = engine.gradient(Theta(shared), visit(columns, domain)).dense
        torch.testing.assert_close(found[domain], expected, rtol=0, atol=1e-10)


def test_ranks_exchange_weights_and_average_gradients_by_them():
    columns = weighted(columns_of(has_base=True))
    rows = torch.arange(0, len(columns), 3)

    def exchange(collective):
        return exchange_rows(collective, columns, rows, [len(rows) if rank == 1 else 0 for rank in range(2)])

    received = run_simulated(exchange, 2)[1]
    by_label = sorted(zip(received.weights.tolist(), received.base_logits.tolist(), strict=True))
    sent = zip(columns.weights[rows].tolist(), columns.base_logits[rows].tolist(), strict=True)
    assert by_label == sorted([*sent] * 2)

    halves = np.array_split(np.arange(len(columns)), 2)

    def mean(collective, columns):
        engine, shared = eager_engine(dropout=0.0)
        own = Visit(columns, torch.from_numpy(halves[collective.rank]))
        gradient = engine.gradient(Theta(shared), own)
        return mean_change(collective, gradient, own.total_weight, touched_only=False)

    whole, (engine, shared) = weighted(columns_of()), eager_engine(dropout=0.0)
    expected = engine.gradient(Theta(shared), Visit(whole, torch.arange(len(whole))))
    assert_same(run_simulated(partial(mean, columns=whole), 2)[0], expected)
    nothing = replace(whole, weights=torch.zeros(len(whole)))
    first, second = run_simulated(partial(mean, columns=nothing), 2)
    assert first.norm() == 0
    assert_same(first, second)  # the same rows, which L2 and moments may move
    touched = run_simulated(partial(mean_touched, halves=halves), 2)[0]
    assert touched.norm() > 0
    assert all(rows.values.isfinite().all() for rows in touched.rows.values())


def mean_touched(collective, halves):
    """A rank whose rows all have weight 0 touches rows that the other one does not."""
    columns = columns_of()
    columns.weights = torch.ones(len(columns))
    columns.weights[torch.from_numpy(halves[1])] = 0.0
    engine, shared = eager_engine(dropout=0.0)
    own = Visit(columns, torch.from_numpy(halves[collective.rank]))
    return mean_change(collective, engine.gradient(Theta(shared), own), own.total_weight)
