"""Sharded tables: rows fetched and sent back, and training that equals training with whole tables."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch

from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.metrics import DomainMetrics
from mamdr_core.engine.optimizers import OuterOptimizer
from mamdr_core.engine.parameters import Change, Rows, Shared, Theta
from mamdr_core.engine.settings import InnerSettings, MetricsSettings, OuterSettings
from mamdr_core.engine.slots import MemorySlots
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.learning import domain_regularization
from mamdr_core.learning.domain_negotiation import DomainNegotiation
from mamdr_core.learning.inner_loop import TAKE_END, InnerLoop
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.methods import METHODS
from mamdr_core.learning.settings import DRSettings, LearningSettings
from mamdr_core.models.tables import Table, readers
from mamdr_core.parallel.averaging import mean_change
from mamdr_core.parallel.collective import SingleProcess, gather_numbers, most, run_simulated
from mamdr_core.parallel.sharded import ShardedTable, initial_sharded
from mamdr_core.parallel.supports import SupportSample
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training import evaluation
from mamdr_core.training.evaluation import evaluate_columns
from mamdr_core.training.rounds import shuffle_rows
from tests.engine.helpers import as_double, random_columns, small_engine
from tests.engine.several import several_columns, several_engine

USER = Table("user", "user", rows=7, width=2)
WHOLE = torch.arange(14.0, dtype=torch.float64).view(7, 2)


def shard(whole: torch.Tensor, table: Table, collective) -> ShardedTable:
    return ShardedTable(table, whole[collective.rank :: collective.size].clone(), collective)


def ids(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.long)


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


def test_a_row_out_of_reach_is_a_clear_error():
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


def test_differences_go_to_owners_who_average_over_the_ranks_that_touched_a_row():
    said = [
        Rows(ids(0, 2), torch.tensor([[1.0, 1.0], [3.0, 0.0]])),
        Rows(ids(2, 5), torch.tensor([[6.0, 3.0], [7.0, 7.0]])),
        Rows(ids(), torch.zeros(0, 2)),
    ]
    weights = [10.0, 20.0, 0.0]

    def task(collective):
        change = Change(torch.tensor([float(collective.rank)]), {"user": said[collective.rank]})
        return mean_change(collective, change, weights[collective.rank], sharded=True)

    means = run_simulated(task, 3)
    assert [mean.rows["user"].ids.tolist() for mean in means] == [[0], [], [2, 5]]
    assert means[0].rows["user"].values.tolist() == [[1.0, 1.0]]
    assert means[2].rows["user"].values.tolist() == [[5.0, 2.0], [7.0, 7.0]]
    torch.testing.assert_close(means[1].dense, torch.tensor([2 / 3]))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_start_is_that_of_whole_tables(ranks):
    engine, _ = small_engine(3)
    whole = initial_shared(engine.flat.module, engine.tables, seed=4)

    def task(collective):
        shared = initial_sharded(engine.flat.module, engine.tables, 4, "cpu", collective)
        return shared.dense, {name: table.own for name, table in shared.tables.items()}

    for rank, (dense, own) in enumerate(run_simulated(task, ranks)):
        assert torch.equal(dense, whole.dense)
        assert all(torch.equal(rows, whole.tables[name][rank::ranks]) for name, rows in own.items())


COLUMNS = as_double(random_columns([8, 5, 0, 12, 7]))
SEVERAL = several_columns([8, 5, 0, 12, 7])
ROUNDS = 3


@dataclass
class Case:
    """A method with its settings on W ranks; domain d is owned by rank owner[d]."""

    method: str
    outer: str = "sgd"
    owner: tuple[int, ...] = (0, 1, 0, 1, 0)
    ranks: int = 2
    state: str = "fresh"
    rows: str = "none"
    fast: bool = False
    several: str = ""

    def columns(self, rank: int | None) -> Columns:
        """A rank's rows; None: all."""
        columns = SEVERAL if self.several else COLUMNS
        if rank is None:
            return columns
        return columns.take(torch.isin(columns.ids["domain"] - 1, self.owned(rank)).nonzero().squeeze(1))

    def start(self) -> tuple[EagerEngine, Shared]:
        """An engine, and theta_S; with a pooling in `several` that of bags and a sequence that shares the items."""
        return several_engine(self.several, 5) if self.several else small_engine(5)

    def owned(self, rank: int | None) -> torch.Tensor:
        return torch.tensor([domain for domain in range(5) if rank in (None, self.owner[domain])]).int()

    def round(self, number: int, rank: int | None) -> Round:
        """A round visits a third of every domain, in an order that differs by round."""
        columns = self.columns(rank)
        generator = torch.Generator().manual_seed(number)
        slices = {}
        for domain in torch.randperm(5, generator=generator).tolist():
            start, size = int(columns.offsets[domain]), int(columns.counts[domain])
            if size:
                slices[domain] = start + torch.arange(number * size // ROUNDS, (number + 1) * size // ROUNDS)
        rows = torch.cat([*slices.values(), ids()])
        return Round(0, number, slices, rows[torch.randperm(len(rows), generator=generator)])

    def learner(self, rank: int | None, shared: Shared, collective=None, sharded: bool = False) -> Learner:
        engine, _ = self.start()
        if self.fast:
            engine = FastEngine(engine.flat.module, engine.tables, {}, engine.batch_size, compiles=False)
        if sharded:
            named = {table.name: table for table in engine.trained_tables}
            tables = {
                name: ShardedTable(
                    named[name],
                    whole[collective.rank :: collective.size].clone(),
                    collective,
                    [field.column for field in readers(engine.tables, name)],
                )
                for name, whole in shared.tables.items()
            }
            shared = Shared(shared.dense, tables)
        collective, train = collective or SingleProcess(), self.columns(rank)
        return Learner(
            engine=engine,
            train=train,
            supports=SupportSample(collective, train, 1024, shuffle_rows(train, 3, Arrays())),
            shared=shared.copy(),
            specific=SpecificStore(self.owned(rank).tolist(), MemorySlots(shared.dense), shared.dense),
            average=partial(mean_change, collective, sharded=sharded),
            settings=METHODS[self.method].settle(
                LearningSettings(
                    inner=InnerSettings(lr=0.05, state=self.state),
                    outer=OuterSettings(optimizer=self.outer, beta=0.3, momentum=0.6),
                    dr=DRSettings(k=2, gamma=0.4, lr=0.05, rows=self.rows),
                )
            ),
            seed=3,
            most=partial(most, collective),
            average_gradient=partial(mean_change, collective, touched_only=False),
            gather=partial(gather_numbers, collective),
            rank=collective.rank,
        )

    def run(self, collective, sharded: bool) -> tuple[Shared, dict[int, Change], list]:
        """What a rank has after some rounds: theta_S, its theta_i, and the figures measured in between."""
        method = METHODS[self.method]
        learner = self.learner(collective.rank, self.start()[1], collective, sharded)
        updates = [make_update(learner) for make_update in (method.shared, method.specific) if make_update]
        figures = []
        for number in range(ROUNDS):
            for update in updates:
                update(self.round(number, collective.rank))
            measured = evaluate_columns(learner.engine, learner.shared, learner.specific, learner.train, collective)
            figures.append(measured.logloss)
        return learner.shared, learner.specific, figures

    def measure(self, collective) -> DomainMetrics:
        """Figures of all ranks' rows at the start."""
        learner = self.learner(collective.rank, small_engine(5)[1], collective, sharded=True)
        detail = MetricsSettings()
        return evaluate_columns(learner.engine, learner.shared, {}, learner.train, collective, detail=detail)


def gathered(parts: list[Shared]) -> Shared:
    """One theta_S from the shards of all ranks."""
    tables = {}
    for name, first in parts[0].tables.items():
        tables[name] = torch.empty(first.shape, dtype=torch.float64)
        for rank, part in enumerate(parts):
            tables[name][rank :: len(parts)] = part.tables[name].own
    return Shared(parts[0].dense, tables)


def assert_close(left: Shared | Change, right: Shared | Change) -> None:
    torch.testing.assert_close(left.dense, right.dense, rtol=1e-9, atol=1e-10)
    if isinstance(left, Shared):
        for name, table in left.tables.items():
            torch.testing.assert_close(table, right.tables[name], rtol=1e-9, atol=1e-10)
        return
    assert left.rows.keys() == right.rows.keys()
    for name, rows in left.rows.items():
        assert torch.equal(rows.ids, right.rows[name].ids)
        torch.testing.assert_close(rows.values, right.rows[name].values, rtol=1e-9, atol=1e-10)


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
]


@pytest.mark.parametrize("case", CASES + MORE + SHARED_ROWS, ids=str)
def test_sharded_tables_train_what_whole_tables_train(case):
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


@pytest.mark.parametrize("case", CASES + SHARED_ROWS, ids=str)
def test_ranks_with_sharded_tables_give_what_one_process_gives_that_averages_their_trajectories(case):
    sharded = run_simulated(partial(case.run, sharded=True), case.ranks)
    expected, specific = in_one_process(case)
    assert_close(gathered([part for part, _, _ in sharded]), expected)
    found = {domain: change for _, own, _ in sharded for domain, change in own.items()}
    assert found.keys() == specific.keys()
    for domain, change in found.items():
        assert_close(change, specific[domain])


@pytest.mark.parametrize("rows", ["none", "touched"])
@pytest.mark.parametrize("state", ["fresh", "carried"])
@pytest.mark.parametrize("sharded", [False, True])
def test_the_fast_engine_trains_what_the_eager_one_trains(sharded, state, rows):
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


def test_carried_moments_are_those_of_dense_parameters_and_rows_start_afresh_in_every_round():
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


def test_dr_in_parts_that_ranks_have_different_numbers_of_gives_what_one_part_gives(monkeypatch):
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
