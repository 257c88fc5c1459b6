"""A learner takes over a package's parameters, with rows of its own for what the parent did not know."""

import pytest
import torch

from mamdr_core.config.learning import LearningSettings
from mamdr_core.engine.parameters import Change, Rows, Shared
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.learning.learner import Learner
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.parallel.sharded import ShardedTable
from mamdr_core.training.files import state_files as module
from mamdr_core.training.package import SavedShared, save_rank
from mamdr_core.training.warm_start import ParentParameters
from tests.models.small_structures import featured_columns, small_engine, small_settings

COUNTS = [9, 4, 6]


def make_learner(structure, domains, specific, collective=None):
    """With whole tables or, given a collective, sharded ones."""
    engine, shared = small_engine(small_settings(structure), domains)
    if collective:
        tables = {}
        for table in engine.trained_tables:
            own = shared.tables[table.name][collective.rank :: collective.size].clone()
            tables[table.name] = ShardedTable(table, own, collective)
        shared = Shared(shared.dense, tables)
    return Learner(
        engine=engine,
        train=featured_columns(COUNTS[:domains]),
        supports=None,
        shared=shared,
        specific=SpecificStore(specific, MemoryBuffer(shared.dense), shared.dense),
        average=lambda change, weight: change,
        settings=LearningSettings(),
        seed=3,
    )


@pytest.fixture
def parent(tmp_path):
    """A package of two domains, of which the first has theta_i, saved by one rank; and what it holds."""
    learner = make_learner("shared_bottom", 2, [0])
    shared = learner.shared
    shared.dense.copy_(torch.randn(len(shared.dense)))
    for table in shared.tables.values():
        table.copy_(torch.randn(table.shape))
    rows = {"domain": Rows(torch.tensor([1]), torch.randn(1, shared.tables["domain"].shape[1]))}
    learner.specific[0] = Change(torch.randn(len(shared.dense)), rows)
    save_rank(str(tmp_path), 0, shared, learner.specific)
    return tmp_path, shared, learner.specific


def test_parameters_of_the_parent_are_copied_and_others_start_as_in_the_model(parent):
    folder, shared, specific = parent
    cold, warm = (make_learner("shared_bottom", 3, [0, 1, 2]) for _ in range(2))
    parent = ParentParameters(str(folder))
    assert parent.has_specific(3).tolist() == [True, False, False]
    parent.copy_to(warm, SingleProcess())
    assert torch.equal(warm.shared.dense, shared.dense)
    grown = set()
    for name, theirs in shared.tables.items():
        ours, start = warm.shared.tables[name], cold.shared.tables[name]
        assert torch.equal(ours[: len(theirs)], theirs)
        assert torch.equal(ours[len(theirs) :], start[len(theirs) :])
        grown |= {name} if len(ours) > len(theirs) else set()
    assert "domain" in grown
    assert len(grown) > 1, "towers by domain"
    assert torch.equal(warm.specific[0].dense, specific[0].dense)
    assert torch.equal(warm.specific[0].rows["domain"].values, specific[0].rows["domain"].values)
    assert not warm.specific[1].dense.any()
    assert not warm.specific[2].dense.any()


@pytest.mark.parametrize("is_zero", [False, True])
def test_a_network_of_another_kind_or_of_zeros_is_not_taken_over(tmp_path, is_zero):
    """On top of a mixed model a network has learned what that leaves; one of zeros would have no gradient."""
    learner = make_learner("mlp", 3, [])
    learner.shared.dense.mul_(0.0 if is_zero else 2.0)
    save_rank(str(tmp_path), 0, learner.shared, learner.specific)
    cold, warm = (make_learner("mlp", 3, []) for _ in range(2))
    ParentParameters(str(tmp_path)).copy_to(warm, SingleProcess(), is_mixed=not is_zero)
    assert torch.equal(warm.shared.dense, cold.shared.dense)


@pytest.mark.parametrize(("wrote", "reads"), [(1, 3), (3, 2), (2, 2), (4, 1)])
def test_sharded_tables_are_taken_over_by_other_numbers_of_ranks(tmp_path, monkeypatch, wrote, reads):
    """Files are read three rows at a time."""
    monkeypatch.setattr(module, "CHUNK_ROWS", 3)

    def write(collective):
        learner = make_learner("mlp", 2, [], collective)
        for table in learner.shared.tables.values():
            ids = torch.arange(collective.rank, table.shape[0], collective.size)
            table.own[:] = ids[:, None] + torch.arange(table.shape[1]) / 100
        return save_rank(str(tmp_path), collective.rank, learner.shared, learner.specific)

    def read(collective):
        learner = make_learner("mlp", 3, [], collective)
        ParentParameters(str(tmp_path)).copy_to(learner, collective)
        return {name: table.own for name, table in learner.shared.tables.items()}

    run_simulated(write, wrote)
    found = run_simulated(read, reads)
    saved, (_, start) = SavedShared(tmp_path), small_engine(small_settings("mlp"), 3)
    for name, table in start.tables.items():
        whole = torch.empty_like(table)
        for rank, own in enumerate(found):
            whole[rank::reads] = own[name]
        theirs = saved.rows(name)
        expected = torch.arange(len(theirs))[:, None] + torch.arange(theirs.shape[1]) / 100
        assert torch.equal(theirs, expected)
        assert torch.equal(whole[: len(theirs)], expected)
        assert torch.equal(whole[len(theirs) :], table[len(theirs) :])
