"""A run with random parameters, saved as by training, without Spark."""

from pathlib import Path

import torch

from mamdr_core.config.job_config import parse_config
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.parameters import Change, Rows, Shared
from mamdr_core.engine.platt import Calibration
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.parallel.collective import Collective, run_simulated
from mamdr_core.parallel.sharded import ShardedTable
from mamdr_core.serving.served import Served
from mamdr_core.training.package import save_rank

SIZES = {"user": 50, "item": 40, "domain": 6, "weekday": 7}
SEVERAL = [
    {"name": "tags", "kind": "bag", "size": 3, "length": 4, "weights": "w"},
    {"name": "words", "kind": "bag", "size": 3, "length": 2, "pooling": "max"},
    {"name": "history", "kind": "sequence", "length": 5, "pooling": "attention", "table": "item"},
    {"name": "seen", "kind": "sequence", "length": 5, "pooling": "sum", "table": "item"},
    {"name": "taste", "kind": "vector", "size": 6, "path": "x", "trainable": True},
    {"name": "look", "kind": "vector", "size": 6, "path": "x", "project": 4},
]
"""Features of several ids, and trained and projected vectors."""
SEVERAL_SIZES = {"tags": 11, "words": 12, "history": SIZES["item"], "seen": SIZES["item"]}
VECTORS = {"user_vector": torch.randn(51, 6, generator=torch.Generator().manual_seed(1))}
LOOK = {"look": torch.randn(51, 6, generator=torch.Generator().manual_seed(2))}


def make_served(
    folder: Path,
    ranks: int = 1,
    touched: bool = False,
    method: str = "mamdr",
    calibration: Calibration | None = None,
    negative_rate: float = 1.0,
    several: bool = False,
    **model,
) -> Served:
    """A run with random specific parameters of four of six domains, saved by its ranks: w_i for mixed, else theta_i."""
    sizes = SIZES | SEVERAL_SIZES if several else SIZES
    config = parse_config(
        {
            "train": {"method": method, "negative_rate": negative_rate},
            "model": {"embedding_dim": 8, "hidden": [16, 8], "dropout": 0.3, **model},
            "features": [
                {"name": "hour", "kind": "numeric"},
                {"name": "weekday", "kind": "categorical", "buckets": 7, "size": 3},
                {"name": "user_vector", "kind": "vector", "size": 6, "path": "x"},
                *(SEVERAL if several else ()),
            ],
        }
    )
    inputs = declare_inputs(config.model, config.features, sizes)
    shared = initial_shared(build_model(config.model, inputs), inputs.tables, 0)
    random = torch.Generator().manual_seed(0)
    for table in (table for table in inputs.tables if table.measured):
        shared.tables[table.name].copy_(torch.rand(table.rows, table.width, generator=torch.Generator().manual_seed(3)))
    named = {table.name: table for table in inputs.tables}
    specific = {
        domain: Change(
            torch.randn(len(shared.dense), generator=random) * 0.1,
            {
                name: Rows(torch.tensor([domain + 1]), torch.randn(1, table.width, generator=random))
                for name, table in named.items()
                if table.trainable and not table.measured and (table.column == "domain" or touched)
            },
        )
        for domain in range(0 if method == "mixed" else 4)
    }

    def save(collective):
        tables = shared.tables
        if ranks > 1:
            own = slice(collective.rank, None, collective.size)
            tables = {n: ShardedTable(named[n], t[own].clone(), collective) for n, t in shared.tables.items()}
        store = SpecificStore(specific if collective.rank == 0 else [], MemoryBuffer(shared.dense), shared.dense)
        for domain in store:
            store[domain] = specific[domain]
        mixed = None
        if method == "mixed":
            train = mixed_rows(collective)
            domains = train.occupied.tolist()
            mixed = MixedModel(config.train.mixed, inputs.tables, VECTORS, 1, SIZES, domains, collective)
            mixed.fit(train)
        parameters = (Shared(shared.dense, tables), store, mixed)
        return save_rank(str(folder), collective.rank, *parameters, calibration=calibration)

    files = {name for saved in run_simulated(save, ranks) for name in saved}
    return Served("run", str(folder), tuple(sorted(files)), config, {}, sizes, {"hour": (11.0, 5.0)})


def mixed_rows(collective: Collective) -> Columns:
    """Rows of a rank in four domains; labels depend on the user within the domain."""
    random = torch.Generator().manual_seed(2)
    domain_N = torch.arange(4).repeat_interleave(500)
    ids = {name: torch.randint(0, size + 1, (2000,), generator=random) for name, size in SIZES.items()}
    ids["domain"] = domain_N + 1
    columns = Columns(
        ids={name: column.int() for name, column in ids.items()},
        numeric=torch.randn(2000, 1, generator=random),
        labels=((7 * ids["user"] + 3 * domain_N) % 5 < 2).float(),
        offsets=offsets_of(torch.tensor([500, 500, 500, 500, 0, 0])),
    )
    return columns.take((domain_N % collective.size == collective.rank).nonzero().squeeze(1))
