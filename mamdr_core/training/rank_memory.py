"""The formula for the memory of a rank, in bytes by part (docs/memory.md); a test compares it with measurements."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mamdr_core.config.training import TrainSettings
from mamdr_core.engine.optimizers import ROW_STATES
from mamdr_core.engine.specific_store import group_size
from mamdr_core.engine.step_options import StepOptions
from mamdr_core.learning.domain_regularization import PART_ROWS
from mamdr_core.learning.methods import find_method
from mamdr_core.models.pooling import HIDDEN
from mamdr_core.models.tables import Table, owners, readers

NUMBER, INDEX = 4, 8
"""Bytes of a parameter, and of a row's id or position."""
OBJECT_BYTES = 700
"""Bytes of the two tensors that hold a domain's rows of a table, without their values."""
STATISTICS_COPIES = 6
"""Number of float64 values per value of a measured table while it is measured (mamdr_core.training.statistics)."""


@dataclass(frozen=True)
class RankShape:
    """The sizes that determine the memory of a rank.

    Attributes:
        ranks: number of ranks W.
        tables: embedding tables and fixed vectors, undivided.
        dense: number of dense parameters P of theta_S.
        columns: number of values of a row: ids (all of them for bags and sequences), numeric features and, if rows have
            one, the weight.
        train_rows: training rows of this rank.
        rows: rows of all splits of this rank.
        all_train_rows: training rows of all ranks.
        domains: number of domains of this rank with theta_i.
        sampled_rows: maximum number of this rank's training rows in the samples of DR.
        touched: by embedding table, the number of distinct ids in the rows of each of these domains, summed over them;
            only for `dr.rows: touched`.
        starts: number of values of the vectors with which trainable tables are initialised.
    """

    ranks: int
    tables: Sequence[Table]
    dense: int
    columns: int
    train_rows: int
    rows: int
    all_train_rows: int
    domains: int
    sampled_rows: int = 0
    touched: Mapping[str, int] = field(default_factory=dict)
    starts: int = 0


@dataclass(frozen=True)
class RankMemory:
    """Memory of a rank, in bytes by part.

    Attributes:
        always: parts that are allocated from reading to the end of the run.
        shared: additional parts while theta_S is trained.
        specific: additional parts while theta_i is trained, if this is a later stage (`dr.schedule: settled`).
        start: additional parts before training, while theta_S is initialised.
    """

    always: dict[str, int]
    shared: dict[str, int]
    specific: dict[str, int]
    start: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes of the stage that needs most memory; for each part, its maximum over the stages."""
        return self.on_host(()) + self.always["rows"]

    def on_host(self, on_device: Collection[str]) -> int:
        """Bytes in the host's memory of the stage that needs most there, without rows and parts in a GPU's memory."""

        def sum_of(parts: Mapping[str, int]) -> int:
            return sum(size for name, size in parts.items() if name not in on_device and name != "rows")

        return sum_of(self.always) + max(sum_of(stage) for stage in (self.start, self.shared, self.specific))

    @property
    def parts(self) -> dict[str, int]:
        """All parts together."""
        return self.always | self.start | self.shared | self.specific

    @property
    def tables(self) -> int:
        """Bytes of theta_S with moments and the best copy, which have their full size after the first validation."""
        return self.always["theta_S"] + sum(self.shared.get(name, 0) for name in ("inner", "outer", "best"))


def rank_memory(
    train: TrainSettings,
    shape: RankShape,
    specific_bytes: float,
    is_mapped: bool = False,
    maps_state: bool = False,
    on_gpu: bool = False,
) -> RankMemory:
    """Maximum memory of a rank, without the interpreter, the fast engine's stacks and a mixed model.

    Args:
        specific_bytes: maximum size of theta_i in memory; a larger one is stored in a file.
        is_mapped: whether rows, and the vectors with which tables are initialised, are memory-mapped.
        maps_state: whether the state of optimizers for tables, and the best copy of tables, are memory-mapped.
        on_gpu: whether the rank trains on a GPU, which has its own copy of the fixed vectors.
    """
    method = find_method(train.method)
    of_shared = [table for table in owners(shape.tables) if table.trainable]
    trained = [table for table in of_shared if not table.measured]
    is_sharded = train.tables == "sharded"
    holders = shape.ranks if is_sharded else 1
    held = NUMBER * (shape.dense + sum(-(-table.rows // holders) * table.width for table in of_shared))
    vectors = sum(NUMBER * table.rows * table.width for table in shape.tables if not table.trainable)
    always = {
        "rows": 0 if is_mapped else shape.rows * (NUMBER * shape.columns + 12),
        # The order of the next epoch is made while the current one is in use; mixed rows have an additional order.
        "orders": 0 if is_mapped else shape.train_rows * (4 if method.mixes else 2) * INDEX,
        "vectors": vectors if on_gpu else 0,
        "theta_S": held,
        "statistics": 2
        * NUMBER
        * (STATISTICS_COPIES + (shape.ranks > 1))  # the sums over ranks, in addition to those of this rank
        * sum(table.rows * table.width for table in of_shared if table.measured),
        "step": min(train.batch_size, shape.train_rows)
        * NUMBER
        * (
            sum(table.width for table in shape.tables)
            * (len(shape.tables) + 4)  # fields, each padded to the width of all, their sum, and gradients
            + sum(4 * table.length * (table.width + HIDDEN) for table in shape.tables)  # before they are pooled
            + sum(2 * HIDDEN * table.width for table in shape.tables if table.pooling == "attention")
        ),
    }
    start = {"start": NUMBER * shape.starts} if shape.starts and not is_mapped else {}
    shared: dict[str, int] = {}
    if method.shared and not train.only_domains:
        moments = _moment_bytes(train, shape, () if is_sharded else trained)
        fresh = moments if method.combines_gradients else _moment_bytes(train, shape, ())
        kept = NUMBER * shape.dense if maps_state else held
        carried = _moment_bytes(train, shape, ()) if maps_state else moments
        inner = (carried if train.inner.state == "carried" else fresh) if method.carries_moments else 0
        outer = {"sgd": 0, "nesterov": 1, "adam": 2}[train.outer.optimizer] * kept if method.has_outer else 0
        shared = {
            "inner": inner,
            "outer": outer,
            "best": kept * (2 if method.mixed else 1),  # two networks: on top of the mixed model, and without it
            "round": _round_bytes(train, shape, trained, is_sharded),
        }
    specific = _specific_memory(train, shape, trained, specific_bytes) if method.specific else {}
    if method.specific and method.settle(train.learning).dr.schedule == "rounds":
        return RankMemory(always, shared | specific, {}, start)
    return RankMemory(always, shared, specific, start)


def _moment_bytes(train: TrainSettings, shape: RankShape, tables: Sequence[Table]) -> int:
    """Bytes of the inner optimizers' state for dense parameters and tables."""
    dense, options = train.inner.optimizer, StepOptions(sparse_optimizer=train.inner.sparse_optimizer)
    rules = [(table, options.rule(table, dense).optimizer) for table in tables]
    has_moments = dense == "adam" or train.inner.sparse_optimizer in ROW_STATES
    kept = 2 * shape.dense if has_moments else 0
    kept += sum(2 * table.rows * table.width for table, optimizer in rules if optimizer == "adam")
    return NUMBER * (kept + sum(table.rows for table, optimizer in rules if optimizer == "adagrad"))


def _round_bytes(train: TrainSettings, shape: RankShape, trained: Sequence[Table], is_sharded: bool) -> int:
    """Bytes for the rows that a round touches: values, moments and changes of a trajectory, fetching and averaging."""
    rounds = train.rounds_per_epoch
    own_rows, all_rows = -(-shape.train_rows // rounds), -(-shape.all_train_rows // rounds)
    total = 0
    if train.balance_ranks and shape.ranks > 1:  # a rank below the mean borrows rows up to the mean
        borrowed = max(0, -(-all_rows // shape.ranks) - own_rows)
        own_rows += borrowed
        total += borrowed * (NUMBER * shape.columns + 12)
    for table in trained:
        reads = sum(field.length or 1 for field in readers(shape.tables, table.name))
        touched, width = min(table.rows, own_rows * reads), NUMBER * table.width
        total += touched * (7 * width + 2 * INDEX) + own_rows * reads * 6 * INDEX
        if is_sharded:
            total += touched * (width + INDEX)
        if shape.ranks > 1:
            share = shape.ranks if is_sharded else 1
            received = min(all_rows * reads, shape.ranks * table.rows) // share
            distinct = min(received, table.rows // share)
            total += (received + touched + 2 * distinct) * (width + NUMBER) + received * 4 * INDEX
    return total


def _specific_memory(
    train: TrainSettings, shape: RankShape, trained: Sequence[Table], specific_bytes: float
) -> dict[str, int]:
    """Bytes of theta_i (current and best values, both again while a checkpoint is written), and of DR's samples."""
    dr = find_method(train.method).settle(train.learning).dr
    copies = 4 if train.checkpoint.is_regular else 2
    vector = NUMBER * shape.dense
    dense = copies * shape.domains * vector
    together = min(group_size("cpu", vector), shape.domains)
    buffers = 3 * together * vector  # see SpecificStore.groups
    dense = buffers + (dense if dense <= specific_bytes else 0)
    ids = {table.name: shape.domains for table in trained if table.column == "domain"} | dict(shape.touched)
    values = sum(ids[table.name] * NUMBER * table.width for table in trained if table.name in ids)
    positions = sum(ids.values()) * INDEX
    support = INDEX * shape.sampled_rows
    if shape.ranks > 1 and dr.k:
        support += (
            2
            * min(PART_ROWS, round(shape.train_rows * (1 + dr.k * dr.support_ratio)))
            * (NUMBER * shape.columns + 12 + INDEX)
        )
    return {
        "theta_i": dense,
        "rows of theta_i": copies * values + 2 * positions + OBJECT_BYTES * copies * shape.domains * len(ids),
        "a group's rows": (2 * values + positions) * together // max(1, shape.domains),  # changes and new values
        "support": support,
    }
