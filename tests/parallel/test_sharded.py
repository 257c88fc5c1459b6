"""Sharded tables: rows fetched and sent back, and training that equals training with whole tables."""

from functools import partial

import pytest
import torch

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.optimizers import OuterOptimizer
from mamdr_core.engine.parameters import Change, Rows, Shared, Theta
from mamdr_core.engine.step_options import StepOptions
from mamdr_core.learning import domain_regularization
from mamdr_core.learning.domain_negotiation import DomainNegotiation
from mamdr_core.learning.inner_loop import TAKE_END, InnerLoop
from mamdr_core.learning.methods import METHODS
from mamdr_core.models.tables import Table
from mamdr_core.parallel.averaging import mean_change
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.parallel.sharded import ShardedTable, initial_sharded
from mamdr_core.training import evaluation
from tests.engine.small_models import small_engine
from tests.parallel.sharded_cases import ROUNDS, Case, assert_close, gathered, ids

USER = Table("user", "user", rows=7, width=2)
WHOLE = torch.arange(14.0, dtype=torch.float64).view(7, 2)


def shard(whole: torch.Tensor, table: Table, collective) -> ShardedTable:
    return ShardedTable(table, whole[collective.rank :: collective.size].clone(), collective)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_rank_looks_up_the_rows_that_it_fetched(ranks):
    """The second rank fetches rows more than once in one call, the third none."""
    wanted = [ids(6, 0, 3), ids(5, 5, 0, 5), ids()]
    asked = [ids(3, 6, 0, 3), ids(0, 5), ids()]

    def task(collective):
        table = shard(WHOLE, USER, collective)
        table.fetch(ids(1, 2, 4))
        table.fetch(wanted[collective.rank])
        return table[asked[collective.rank]]

    for rank, found in enumerate(run_simulated(task, ranks)):
        assert torch.equal(found, WHOLE[asked[rank]])


def test_each_rank_holds_every_wth_row():
    owned = run_simulated(lambda c: shard(WHOLE, USER, c).own[:, 0].tolist(), 3)
    assert owned == [[0.0, 6.0, 12.0], [2.0, 8.0], [4.0, 10.0]]
    with pytest.raises(ValueError, match=r"rank 0 of 1 owns \(7, 2\) of table user"):
        ShardedTable(USER, WHOLE[::2], SingleProcess())


def test_reading_a_row_that_was_not_fetched_is_a_clear_error():
    table = shard(WHOLE, USER, SingleProcess())
    with pytest.raises(KeyError, match="row 3 of table user has not been fetched"):
        table[ids(3)]
    table.fetch(ids(2, 4))
    for missing in (3, 5, 0):
        with pytest.raises(KeyError, match=f"row {missing} of table user has not been fetched"):
            table[ids(2, missing)]
    table.index_add_(0, ids(2), torch.ones(1, 2, dtype=torch.float64))
    with pytest.raises(KeyError, match="row 2"):  # what was fetched is out of date
        table[ids(2)]
    with pytest.raises(IndexError, match="table user has rows 0 to 6, asked for 2 to 7"):
        table.fetch(ids(7, 2))


def test_owners_average_changes_over_the_ranks_that_touched_a_row():
    changed = [
        Rows(ids(0, 2), torch.tensor([[1.0, 1.0], [3.0, 0.0]])),
        Rows(ids(2, 5), torch.tensor([[6.0, 3.0], [7.0, 7.0]])),
        Rows(ids(), torch.zeros(0, 2)),
    ]
    weights = [10.0, 20.0, 0.0]

    def task(collective):
        change = Change(torch.tensor([float(collective.rank)]), {"user": changed[collective.rank]})
        return mean_change(collective, change, weights[collective.rank], sharded=True)

    means = run_simulated(task, 3)
    assert [mean.rows["user"].ids.tolist() for mean in means] == [[0], [], [2, 5]]
    assert means[0].rows["user"].values.tolist() == [[1.0, 1.0]]
    assert means[2].rows["user"].values.tolist() == [[5.0, 2.0], [7.0, 7.0]]
    torch.testing.assert_close(means[1].dense, torch.tensor([2 / 3]))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_initial_values_equal_those_of_whole_tables(ranks):
    engine, _ = small_engine(3)
    whole = initial_shared(engine.flat.module, engine.tables, seed=4)

    def task(collective):
        shared = initial_sharded(engine.flat.module, engine.tables, 4, "cpu", collective)
        return shared.dense, {name: table.own for name, table in shared.tables.items()}

    for rank, (dense, own) in enumerate(run_simulated(task, ranks)):
        assert torch.equal(dense, whole.dense)
        assert all(torch.equal(rows, whole.tables[name][rank::ranks]) for name, rows in own.items())


PLACES = [(2, (0, 1, 0, 1, 0)), (3, (0, 1, 1, 0, 0))]  # of three ranks the last owns no domain
CASES = [
    Case(method, outer, owner, ranks)
    for method in ("joint", "dn", "mamdr")
    for outer in ("sgd", "nesterov", "adam")
    for ranks, owner in PLACES
]
SHARED_ROWS = [Case("mamdr", several="attention", fast=fast) for fast in (False, True)]
MORE = [
    Case("mamdr", rows="touched"),
    Case("finetune", rows="touched", ranks=3, owner=(1, 1, 1, 0, 1)),
    Case("mamdr", rows="touched", several="mean"),
    Case("mamdr", several="mean", options=StepOptions(0.3, 0.02, 0.1, "adagrad", 2.0)),
]


@pytest.mark.parametrize("case", CASES + MORE + SHARED_ROWS, ids=str)
def test_sharded_training_equals_whole_tables_and_averages_in_one_process(case):
    whole = run_simulated(partial(case.run, sharded=False), case.ranks)
    sharded = run_simulated(partial(case.run, sharded=True), case.ranks)
    start = case.start()[1]
    assert (whole[0][0].tables["user"] - start.tables["user"]).abs().max() > 1e-3
    assert_close(gathered([part for part, _, _ in sharded]), whole[0][0])
    for (_, expected, figures), (_, specific, found) in zip(whole, sharded, strict=True):
        assert specific.keys() == expected.keys()
        for domain, change in specific.items():
            assert_close(change, expected[domain])
        torch.testing.assert_close(found, figures, rtol=1e-9, atol=0, equal_nan=True)
    if case in MORE:
        return
    expected, specific = in_one_process(case)
    assert_close(gathered([part for part, _, _ in sharded]), expected)
    found = {domain: change for _, own, _ in sharded for domain, change in own.items()}
    assert found.keys() == specific.keys()
    for domain, change in found.items():
        assert_close(change, specific[domain])


@pytest.mark.parametrize("rows", ["none", "touched"])
@pytest.mark.parametrize("state", ["fresh", "carried"])
@pytest.mark.parametrize("sharded", [False, True])
def test_the_fast_engine_trains_like_the_eager_engine(sharded, state, rows):
    results = []
    for fast in (False, True):
        case = Case("mamdr", state=state, rows=rows, fast=fast)
        results.append(run_simulated(partial(case.run, sharded=sharded), case.ranks))
    for (expected, specific, figures), (found, own, measured) in zip(*results, strict=True):
        torch.testing.assert_close(found.dense, expected.dense, rtol=0, atol=1e-10)
        for name, table in expected.tables.items():
            values = (found.tables[name].own, table.own) if sharded else (found.tables[name], table)
            torch.testing.assert_close(*values, rtol=0, atol=1e-10)
        for domain, change in own.items():
            assert_close(change, specific[domain])
        torch.testing.assert_close(measured, figures, rtol=1e-9, atol=0, equal_nan=True)


def in_one_process(case: Case) -> tuple[Shared, dict[int, Change]]:
    """The same trajectories one after another from the same theta_S, averaged row by row with dense arrays."""
    alone = case.learner(None, case.start()[1])
    method = METHODS[case.method]
    outer = OuterOptimizer(TAKE_END if case.method == "joint" else alone.settings.outer)
    regularize = method.specific(alone) if method.specific else None
    for number in range(ROUNDS):
        steps, weights = [], []
        for rank in range(case.ranks):
            train, round_ = case.columns(rank), case.round(number, rank)
            rows = [round_.shuffled] if case.method == "joint" else list(round_.slices.values())
            weights.append(float(sum(map(len, rows))))
            seed = alone.round_seed(round_, rank)
            visits = [Visit(train, own) for own in rows]
            steps.append(alone.engine.descend(Theta(alone.shared), visits, 0.05, seed=seed))
        outer.step(alone.shared, averaged_by_hand(steps, weights, alone.shared))
        if regularize:
            regularize(case.round(number, None))
    return alone.shared, alone.specific


def averaged_by_hand(steps: list[Change], weights: list[float], shared: Shared) -> Change:
    dense = sum(weight * step.dense for weight, step in zip(weights, steps, strict=True)) / sum(weights)
    rows = {}
    for name, table in shared.tables.items():
        total, weight_of = torch.zeros_like(table), torch.zeros(len(table), 1, dtype=torch.float64)
        for step, weight in zip(steps, weights, strict=True):
            total[step.rows[name].ids] += weight * step.rows[name].values
            weight_of[step.rows[name].ids] += weight
        touched = weight_of[:, 0].nonzero().squeeze(1)
        rows[name] = Rows(touched, total[touched] / weight_of[touched])
    return Change(dense, rows)


def test_carried_moments_cover_dense_parameters_but_not_embedding_rows():
    """Adam's first step moves by the learning rate: so it does on every row in each round, not on dense parameters."""

    def task(collective):
        case = Case("dn", state="carried")
        learner = case.learner(collective.rank, small_engine(5)[1], collective, sharded=True)
        negotiate, inner = DomainNegotiation(learner), InnerLoop(learner)
        negotiate(case.round(0, collective.rank))
        inner.load_state_dict(negotiate.state_dict().part("inner"))
        visit = Visit(learner.train, torch.arange(3))
        learner.prefetch([visit])
        state = inner.carried_moments()
        assert state.step > 0
        change = learner.engine.descend(Theta(learner.shared), [visit], lr=0.05, state=state)
        return state.tables, change

    for moments, change in run_simulated(task, 2):
        assert moments == {}
        user = change.rows["user"].values
        torch.testing.assert_close(user.abs(), torch.full_like(user, 0.05), rtol=1e-3, atol=0)
        assert not torch.allclose(change.dense.abs(), torch.tensor(0.05, dtype=torch.float64), rtol=1e-2)


def test_ranks_with_different_numbers_of_parts_measure_in_step(monkeypatch):
    """Evaluation in parts of one domain each; the first rank has more of them than the others."""
    case = Case("mamdr", ranks=3, owner=(0, 0, 0, 0, 1))

    at_once = run_simulated(case.measure, 3)
    monkeypatch.setattr(evaluation, "PART_ROWS", 8)
    in_parts = run_simulated(case.measure, 3)
    (alone,) = run_simulated(Case("mamdr", ranks=1, owner=(0,) * 5).measure, 1)
    for one, other in zip(at_once, in_parts, strict=True):
        assert one.logloss[[0, 1, 3, 4]].isfinite().all()
        for measured in (other, alone):
            torch.testing.assert_close(one.logloss, measured.logloss, rtol=1e-12, atol=0, equal_nan=True)
            torch.testing.assert_close(
                one.detail.figures, measured.detail.figures, rtol=1e-12, atol=1e-12, equal_nan=True
            )
            for name in ("gauc", "pcoc", "calibration_error"):
                assert one.overall()[name] == pytest.approx(measured.overall()[name], abs=1e-12)


def test_dr_in_parts_equals_dr_in_one_part_if_ranks_differ_in_parts(monkeypatch):
    """Supports and embedding rows are fetched by parts of one target; the first rank has the most of them."""
    case = Case("mamdr", ranks=3, owner=(0, 0, 0, 0, 1))
    at_once = run_simulated(partial(case.run, sharded=True), 3)
    monkeypatch.setattr(domain_regularization, "PART_ROWS", 1)
    in_parts = run_simulated(partial(case.run, sharded=True), 3)
    for (_, expected, _), (_, found, _) in zip(at_once, in_parts, strict=True):
        assert found.keys() == expected.keys()
        for domain, change in found.items():
            assert_close(change, expected[domain])


def test_a_copy_shares_no_memory_and_has_fetched_nothing():
    shared = Shared(torch.zeros(1), {"user": shard(WHOLE, USER, SingleProcess())})
    shared.tables["user"].fetch(ids(1))
    copies = shared.copy(), shared.to("cpu").copy()
    shared.tables["user"].index_add_(0, ids(1), torch.ones(1, 2, dtype=torch.float64))
    for copy in copies:
        assert copy.tables["user"].own.tolist() == WHOLE.tolist()
        with pytest.raises(KeyError):
            copy.tables["user"][ids(1)]


@pytest.mark.parametrize(
    "method", ["joint", "joint_data_parallel", "reptile", "weighted", "pcgrad", "maml", "mldg", "mamdr"]
)
def test_a_rank_without_rows_takes_part_in_every_average(method):
    """All domains are the first rank's: it goes on as if alone, and the other follows."""
    case = Case(method, owner=(0, 0, 0, 0, 0), ranks=2)
    (found, _, _), (follower, _, _) = run_simulated(partial(case.run, sharded=False), 2)
    alone, _, _ = case.run(SingleProcess(), sharded=False)
    assert_close(found, alone)
    assert_close(follower, alone)
