"""How theta_i starts."""

from types import SimpleNamespace

import pytest
import torch

from mamdr_core.config.job_config import Config
from mamdr_core.config.training import TrainSettings
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.training.building import random_start
from tests.models.small_structures import CITIES, FEATURES, ITEMS, USERS, small_engine, small_settings

PINNED = SimpleNamespace(sizes={"user": USERS, "item": ITEMS, "domain": 4, "city": CITIES})


def start_of(name: str, domain: int):
    model = small_settings(name)
    engine, shared = small_engine(model, domains=4)
    config = Config(features=FEATURES, model=model, train=TrainSettings(seed=7))
    return engine, random_start(SimpleNamespace(engine=engine, shared=shared), config, PINNED, domain)


@pytest.mark.parametrize("name", ["mlp", "wdl", "mmoe", "star"])
def test_arandom_start_is_a_fresh_model_and_the_domains_own_rows(name):
    engine, start = start_of(name, 2)
    seed = derive_seed(7, 2, 1)
    inputs = declare_inputs(small_settings(name), FEATURES, PINNED.sizes)
    fresh = build_model(small_settings(name), inputs, seed)
    assert torch.equal(start.dense, torch.cat([p.detach().flatten() for p in fresh.parameters()]))
    assert start.rows.keys() == {table.name for table in engine.tables if table.column == "domain"}
    assert all(rows.ids.tolist() == [3] for rows in start.rows.values())
    drawn = 0.01 * torch.randn(1, 4, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(start.rows["domain"].values, drawn)
    for table in engine.tables:
        if table.column == "domain":
            values = start.rows[table.name].values
            assert values.shape == (1, table.width)
            assert values.abs().max() < 5 * table.std + 1e-9  # zero where it starts at zero
    other = start_of(name, 1)[1]
    assert not torch.equal(other.rows["domain"].values, drawn)
