"""A run with drawn parameters, saved as training saves one, without Spark."""

from pathlib import Path

import torch

from mamdr_core.config import parse_config
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.parameters import Change, Rows, Shared
from mamdr_core.engine.slots import MemorySlots
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.models import build_model, declare_inputs
from mamdr_core.parallel.collective import run_simulated
from mamdr_core.parallel.sharded import ShardedTable
from mamdr_core.serving.served import Served
from mamdr_core.training.package import save_rank

SIZES = {"user": 50, "item": 40, "domain": 6, "weekday": 7}
VECTORS = {"user_vector": torch.randn(51, 6, generator=torch.Generator().manual_seed(1))}


def make_served(folder: Path, ranks: int = 1, touched: bool = False, **model) -> Served:
    """A run of four domains out of six with drawn parameters, saved by its ranks."""
    config = parse_config(
        {
            "model": {"embedding_dim": 8, "hidden": [16, 8], "dropout": 0.3, **model},
            "features": [
                {"name": "hour", "kind": "numeric"},
                {"name": "weekday", "kind": "categorical", "buckets": 7, "size": 3},
                {"name": "user_vector", "kind": "vector", "size": 6, "path": "x"},
            ],
        }
    )
    inputs = declare_inputs(config.model, config.features, SIZES)
    shared = initial_shared(build_model(config.model, inputs), inputs.tables, 0)
    random = torch.Generator().manual_seed(0)
    named = {table.name: table for table in inputs.tables}
    specific = {
        domain: Change(
            torch.randn(len(shared.dense), generator=random) * 0.1,
            {
                name: Rows(torch.tensor([domain + 1]), torch.randn(1, table.width, generator=random))
                for name, table in named.items()
                if table.trainable and (table.column == "domain" or touched)
            },
        )
        for domain in range(4)
    }

    def save(collective):
        tables = shared.tables
        if ranks > 1:
            own = slice(collective.rank, None, collective.size)
            tables = {n: ShardedTable(named[n], t[own].clone(), collective) for n, t in shared.tables.items()}
        store = SpecificStore(specific if collective.rank == 0 else [], MemorySlots(shared.dense), shared.dense)
        for domain in store:
            store[domain] = specific[domain]
        return save_rank(str(folder), collective.rank, Shared(shared.dense, tables), store)

    files = {name for saved in run_simulated(save, ranks) for name in saved}
    return Served("run", str(folder), tuple(sorted(files)), config, {}, SIZES, {"hour": (11.0, 5.0)})
