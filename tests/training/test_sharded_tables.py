"""Training with tables that are sharded over ranks."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mamdr_core.parallel.collective import run_simulated
from mamdr_core.training.worker import train_rank
from tests.training.rank_tasks import assert_same, over_rows, parameters

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("method", ["mamdr", "finetune", "mixed"])
def test_sharded_tables_train_what_whole_tables_train(make_task, method):
    """One rank of finetune owns no domain."""
    owner = [1, 1, 1, 1, 1] if method == "finetune" else [0, 0, 1, 1, 0]
    whole, sharded = (
        over_rows(make_task(2, owner, method=method, tables=tables)) for tables in ("replicated", "sharded")
    )
    expected, found = (run_simulated(partial(train_rank, task), 2) for task in (whole, sharded))
    assert {name for result in found for name in result.saved} >= {
        "shared-00000.safetensors",
        "shared-00001.safetensors",
    }
    for split, measured in found[0].metrics.items():
        torch.testing.assert_close(measured.logloss, expected[0].metrics[split].logloss, rtol=0, atol=1e-5)
    assert_same(parameters(sharded), parameters(whole), rtol=0)
    for file in Path(whole.package).glob("specific-*"):
        assert "user.values" in load_file(file)
        assert_same(load_file(Path(sharded.package) / file.name), load_file(file), rtol=0)


@pytest.mark.parametrize("structure", ["wdl", "star"])
@pytest.mark.parametrize("method", ["joint", "mamdr"])
def test_a_structures_own_tables_sharded_over_ranks_train_what_whole_ones_train(make_task, structure, method):
    """Weights of each id, and of each domain: a mixed batch is cut by domain, theta_i holds its domain's alone."""
    tasks = []
    for tables in ("replicated", "sharded"):
        task = make_task(2, method=method, tables=tables)
        train = replace(task.config.train, inner=replace(task.config.train.inner, state="fresh"))
        model = replace(task.config.model, name=structure)
        tasks.append(replace(task, config=replace(task.config, train=train, model=model)))
    whole, sharded = tasks
    results = [run_simulated(partial(train_rank, task), 2) for task in tasks]
    assert 0.4 < results[0][0].metrics["test"].mean_auc() < 1
    found = parameters(whole)
    assert {"wdl": "first_order.user", "star": "star.0.weight"}[structure] in found
    assert_same(parameters(sharded), found, rtol=0)
    for file in Path(whole.package).glob("specific-*"):
        rows = load_file(file)
        own = {name for name in rows if name.endswith(".owner")}
        assert len(own) == (0 if method == "joint" else {"wdl": 2, "star": 7}[structure])
        assert all(torch.equal(rows[name] + 1, rows[name.replace("owner", "ids")]) for name in own)
