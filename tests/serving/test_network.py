"""The module that is exported predicts as the run does, for every structure, with shards or without."""

from pathlib import Path

import pytest
import torch

from mamdr_core.config import parse_config
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.parameters import Change, Rows, Shared
from mamdr_core.engine.slots import MemorySlots
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.models import MODELS, build_model, declare_inputs
from mamdr_core.parallel.collective import run_simulated
from mamdr_core.parallel.sharded import ShardedTable
from mamdr_core.serving.files import compare
from mamdr_core.serving.network import ServedNetwork
from mamdr_core.serving.scorer import Scorer
from mamdr_core.serving.served import Served
from mamdr_core.training.package import load_shared, save_rank

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


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_network_predicts_as_the_run_does_in_known_and_unknown_domains(tmp_path, name):
    served = make_served(tmp_path, name=name)
    network = ServedNetwork(served, load_shared(tmp_path), served.specific(), VECTORS).eval()
    difference = compare(network, Scorer(served, VECTORS), served, [-1, 0, 3, 5])
    assert difference < 1e-6


def test_theta_i_and_the_domain_make_a_difference(tmp_path):
    served = make_served(tmp_path)
    whole = ServedNetwork(served, load_shared(tmp_path), served.specific(), VECTORS).eval()
    without = ServedNetwork(served, load_shared(tmp_path), {}, VECTORS).eval()
    scorer = Scorer(served, VECTORS)
    assert compare(without, scorer, served, [0]) > 1e-3
    assert compare(without, scorer, served, [-1, 5]) < 1e-6
    assert compare(lambda features, domain: whole(features, domain + 1), scorer, served, [0]) > 1e-3


def test_tables_in_files_of_several_ranks_are_looked_up_where_they_lie(tmp_path):
    whole, sharded = make_served(tmp_path / "whole"), make_served(tmp_path / "sharded", ranks=3)
    assert "shared-00002.safetensors" in sharded.files
    for name, table in whole.shared().tables.items():
        ids = torch.tensor([len(table) - 1, 0, 3, 4, 3])
        assert torch.equal(sharded.shared().tables[name][ids], table[ids])
    network = ServedNetwork(whole, load_shared(tmp_path / "whole"), whole.specific(), VECTORS).eval()
    assert compare(network, Scorer(sharded, VECTORS), sharded, [-1, 2]) < 1e-6


def test_rows_of_users_in_theta_i_are_refused(tmp_path):
    served = make_served(tmp_path, touched=True)
    with pytest.raises(ValueError, match=r"theta_i of domain 0 holds rows of (user|item|weekday)"):
        ServedNetwork(served, load_shared(tmp_path), served.specific(), VECTORS)
