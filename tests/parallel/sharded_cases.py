"""Methods on ranks with whole and with sharded tables, which tests compare."""

from dataclasses import dataclass
from functools import partial

import torch

from mamdr_core.config.engine import InnerSettings, MetricsSettings, OuterSettings
from mamdr_core.config.learning import DRSettings, LearningSettings
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.metrics import DomainMetrics
from mamdr_core.engine.parameters import Change, Shared
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.step_options import FOLLOW_GRADIENT, StepOptions
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.methods import METHODS
from mamdr_core.models.tables import readers
from mamdr_core.parallel.averaging import mean_change
from mamdr_core.parallel.collective import SingleProcess, all_reduce_max, gather_numbers
from mamdr_core.parallel.sharded import ShardedTable
from mamdr_core.parallel.supports import SupportSample
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.evaluation import evaluate_columns
from mamdr_core.training.rounds import shuffle_rows
from tests.engine.several import several_columns, several_engine
from tests.engine.small_models import as_double, random_columns, small_engine


def ids(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.long)


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
    options: StepOptions = FOLLOW_GRADIENT

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
        engine.options = self.options
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
            specific=SpecificStore(self.owned(rank).tolist(), MemoryBuffer(shared.dense), shared.dense),
            average=partial(mean_change, collective, sharded=sharded),
            settings=METHODS[self.method].settle(
                LearningSettings(
                    inner=InnerSettings(lr=0.05, state=self.state),
                    outer=OuterSettings(optimizer=self.outer, beta=0.3, momentum=0.6),
                    dr=DRSettings(k=2, gamma=0.4, lr=0.05, rows=self.rows),
                )
            ),
            seed=3,
            all_reduce_max=partial(all_reduce_max, collective),
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
