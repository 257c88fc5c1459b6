"""Parameters that ranks save are read back whole."""

import torch

from mamdr_core.engine.parameters import Shared
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.models.tables import Table
from mamdr_core.parallel.collective import run_simulated
from mamdr_core.parallel.sharded import ShardedTable
from mamdr_core.training.package import load_shared, save_rank


def test_shards_of_all_ranks_are_put_together(tmp_path):
    """Of four ranks the last has no row of the table of three."""
    whole = {"user": torch.randn(9, 2), "domain": torch.randn(3, 4)}

    nothing = SpecificStore([], MemoryBuffer(torch.zeros(3)), torch.zeros(3))

    def task(collective):
        tables = {}
        for name, rows in whole.items():
            table = Table(name, name, *rows.shape)
            tables[name] = ShardedTable(table, rows[collective.rank :: collective.size].clone(), collective)
        return save_rank(str(tmp_path), collective.rank, Shared(torch.arange(3.0), tables), nothing)

    saved = run_simulated(task, 4)
    assert list(saved[0]) == ["shared.safetensors", "shared-00000.safetensors"]
    assert list(saved[3]) == ["shared-00003.safetensors"]
    found = load_shared(tmp_path)
    assert found.dense.tolist() == [0.0, 1.0, 2.0]
    assert found.tables.keys() == whole.keys()
    assert all(torch.equal(found.tables[name], rows) for name, rows in whole.items())
