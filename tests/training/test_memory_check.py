"""What does not fit memory is refused before training, on all ranks alike."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mamdr_core.config.job_config import Config
from mamdr_core.config.learning import DRSettings
from mamdr_core.config.models import ModelSettings
from mamdr_core.config.training import TrainSettings
from mamdr_core.models.tables import Table, readers
from mamdr_core.parallel.collective import run_simulated
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training import memory_check
from mamdr_core.training.memory_check import check_memory, count_distinct, shape_of
from tests.engine.several import several_columns, several_inputs
from tests.engine.small_models import random_columns

COUNTS = [40, 0, 7, 25]
CPU = torch.device("cpu")


@pytest.fixture
def check_with(monkeypatch):
    """Check a config on three ranks of a machine with that much memory; returns each rank's error, empty: none."""

    def check(available, total=1e12, users=9, device=CPU, inherited=(), **train):
        monkeypatch.setattr(memory_check, "available_memory", lambda: int(available))
        monkeypatch.setattr(memory_check, "total_memory", lambda: int(total))
        config = Config(train=TrainSettings(**train), model=ModelSettings(hidden=(4,), embedding_dim=8))
        pinned = SimpleNamespace(
            sizes={"user": users, "item": 7, "domain": 4}, counts={"train": 3 * np.array(COUNTS)}, numeric={}
        )

        def task(collective):
            rows = random_columns([n * (1 + collective.rank) for n in COUNTS], seed=collective.rank)
            rows = replace(rows, numeric=rows.numeric[:, :0])
            columns = {"train": rows, "val": random_columns([5, 5, 5, 5])}
            handed_down = np.isin(np.arange(4), inherited)
            shape = shape_of(config, pinned, np.ones(4, dtype=np.bool_), handed_down, columns, rows, collective)
            assert shape.domains == (3 + len(inherited) if train["method"] == "mamdr" else 0)
            try:
                check_memory(config, shape, device, collective)
            except MamdrError as error:
                found = str(error)
            else:
                found = ""
            assert collective.all_gather(torch.tensor([collective.rank])).tolist() == [0, 1, 2]  # all are here
            return found

        return run_simulated(task, 3)

    return check


def test_distinct_ids_are_counted_by_domain_in_parts(monkeypatch):
    rows, table = random_columns([300, 0, 20, 150]), Table("user", "user", rows=10, width=3)
    own = np.array([True, True, False, True])
    offsets = rows.offsets.tolist()
    ids = [rows.ids["user"][first:last].unique() for first, last in pairwise(offsets)]
    expected = sum(len(each) for each, counts in zip(ids, own, strict=True) if counts)
    assert count_distinct(rows, table, own) == expected
    monkeypatch.setattr(memory_check, "PART_ROWS", 100)
    assert count_distinct(rows, table, own) == expected


def test_distinct_ids_are_those_of_all_that_read_a_table_without_padding():
    rows, own = several_columns([30, 0, 20]), np.ones(3, dtype=np.bool_)
    tables = several_inputs(ModelSettings(embedding_dim=3), "mean", 3).tables
    item = next(table for table in tables if table.name == "item")
    expected = 0
    for first, last in pairwise(rows.offsets.tolist()):
        history = rows.ids["history"][first:last]
        expected += len({*rows.ids["item"][first:last].tolist(), *history[history > 0].tolist()})
    assert count_distinct(rows, item, own, readers(tables, "item")) == expected


def test_touched_rows_that_do_not_fit_are_the_same_error_on_all_ranks(check_with):
    touched = DRSettings(rows="touched")
    found = check_with(20_000, method="mamdr", dr=touched)
    assert len(set(found)) == 1
    assert found[0].startswith("train.dr.rows touched does not fit memory: embedding rows of theta_i, of ")
    assert "GB are available" in found[0]
    assert "set train.dr.rows to none, raise train.ranks on more machines" in found[0]
    assert check_with(20_000, method="mamdr") == [""] * 3
    assert check_with(1e9, method="mamdr", dr=touched) == [""] * 3


def test_next_to_a_gpu_touched_rows_count_and_what_the_gpu_holds_does_not(check_with, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(1e11), int(1e11)))
    large = {"users": 1_000_000, "method": "mamdr", "device": torch.device("cuda")}
    assert "dr.rows touched does not fit" in check_with(20_000, dr=DRSettings(rows="touched"), **large)[0]
    assert check_with(1e6, dr=DRSettings(rows="touched"), **large) == [""] * 3  # tables of 32 MB are on the GPU


def test_inherited_theta_i_count_also_of_domains_without_rows(check_with):
    assert check_with(1e9, method="mamdr", inherited=[1]) == [""] * 3


def test_tables_that_do_not_fit_are_an_error_that_names_sharded_tables(check_with):
    large = {"users": 1_000_000, "method": "dn", "table_memory": 1.0}  # 32 MB, six times, on three ranks: 576 MB
    assert check_with(1e6, total=580e6, **large) == [""] * 3
    found = check_with(1e6, total=570e6, **large)
    assert len(set(found)) == 1
    assert "takes 0.192 GB a rank, and 3 ranks share a machine of 0.57 GB: set train.tables to sharded" in found[0]


def test_the_ranks_that_share_a_machine_are_the_launchers_where_it_counts_more(check_with, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "6")  # such as trials of a comparison
    found = check_with(1e6, total=580e6, users=1_000_000, method="dn", table_memory=1.0)
    assert "6 ranks share a machine" in found[0]


def test_state_of_tables_without_room_is_mapped_so_that_theta_s_alone_must_fit(check_with, monkeypatch, caplog):
    monkeypatch.setattr(memory_check, "is_in_memory", lambda folder: folder == "/ram")
    caplog.set_level("INFO")
    large = {"users": 1_000_000, "method": "dn"}  # 32 MB on each of three ranks
    assert check_with(1e6, total=100e6, **large) == [""] * 3
    assert "0.16 GB of the optimizers' state of tables and of the best copy are memory-mapped in" in caplog.text
    assert "sharded" in check_with(1e6, total=90e6, **large)[0]
    caplog.clear()
    assert check_with(400e6, **large) == check_with(1e6, scratch="/ram", **large) == [""] * 3  # half of it has room
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(1e11), int(1e11)))
    assert check_with(1e6, device=torch.device("cuda"), **large) == [""] * 3
    assert "memory-mapped" not in caplog.text


def test_rank_0_reports_its_needs_by_part(check_with, caplog):
    caplog.set_level("INFO")
    check_with(1e9, users=1_000_000, method="dn")
    (line,) = (record.message for record in caplog.records if "rank 0 needs about" in record.message)
    assert "theta_S 0.032, " in line
    assert "inner 0.064, outer 0.064, best 0.032" in line
    assert line.endswith("1 GB are available to the 3 ranks of its machine")
