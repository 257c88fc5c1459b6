"""Any object that implements `Stateful` is checkpointed, and restored on another number of ranks."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from mamdr_core.engine.parameters import Change, Rows
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.stateful import DomainRows, State
from mamdr_core.training.checkpoint.position import Position
from mamdr_core.training.checkpoint.state import STATE, RunState, files_to_restore, restore, take, write
from mamdr_core.training.files.manifest import hash_files, write_manifest, write_texts

DOMAINS, ROWS, WIDTH = 7, 10, 3


class Mixed:
    """A model per domain with a shared prior and a sharded table, as a later method may have."""

    def __init__(self, rank, ranks, dtype=torch.float32):
        self.owned = torch.arange(rank, DOMAINS, ranks)
        self.prior = torch.zeros(WIDTH, dtype=dtype)
        self.table = torch.zeros(len(range(rank, ROWS, ranks)), WIDTH)
        self.coefficients = torch.zeros(len(self.owned), WIDTH)
        self.moments = torch.zeros(WIDTH)
        self.steps = 0

    def train(self, rank, ranks):
        self.prior += 0.5
        self.table += torch.arange(rank, ROWS, ranks)[:, None]
        self.coefficients += self.owned[:, None]
        self.moments += rank
        self.steps = 10 + rank

    def state_dict(self):
        return State(
            counters={"steps": self.steps},
            same={"prior": self.prior},
            rows={"table": self.table},
            domains={"coefficients": DomainRows(self.owned, self.coefficients)},
            own={"moments": self.moments},
        )

    def load_state_dict(self, state):
        self.steps = state.counter("steps")
        self.prior = state.tensor(state.same, "prior", self.prior)
        self.table = state.tensor(state.rows, "table", self.table)
        self.moments = state.tensor(state.own, "moments", self.moments)
        saved = state.domain_rows("coefficients", self.coefficients[0])
        self.coefficients[torch.searchsorted(self.owned, saved.domain_R)] = saved.values


def run_of(model, **position):
    owned_n = torch.zeros(DOMAINS, dtype=torch.bool)
    owned_n[model.owned] = True
    dense_P = torch.zeros(2)
    store = SpecificStore(model.owned.tolist(), MemoryBuffer(dense_P), dense_P)
    return RunState(Position(**position), {"mixed": model}, store, owned_n, dense_P)


@pytest.fixture
def checkpoint(tmp_path):
    """Of two ranks."""
    files, facts = {}, []
    for rank in range(2):
        model = Mixed(rank, 2)
        model.train(rank, 2)
        run = run_of(model, done=4, rows_descended=100, inner_seconds=1.0 + rank)
        for domain in run.specific:
            rows = Rows(torch.arange(domain), torch.full((domain, WIDTH), float(domain)))
            run.specific[domain] = Change(torch.full((2,), float(domain)), {"user": rows} if domain else {})
        run.specific.keep()
        snapshot = take(run)
        files |= hash_files(tmp_path, write(tmp_path, rank, snapshot))
        facts.append(snapshot.facts)
    write_manifest(tmp_path, files | write_texts(tmp_path, {STATE: json.dumps({"ranks": facts})}))
    return tmp_path


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_group_of_a_state_is_restored_on_any_number_of_ranks(checkpoint, ranks):
    for rank in range(ranks):
        model = Mixed(rank, ranks)
        run = run_of(model)
        restore(checkpoint, run, rank, ranks)
        assert model.prior.tolist() == [0.5] * WIDTH
        assert model.table[:, 0].tolist() == list(range(rank, ROWS, ranks))
        assert model.coefficients[:, 0].tolist() == model.owned.tolist()
        assert (model.moments[0].item(), model.steps) == (rank % 2, 10 + rank % 2)  # of one of the two ranks that wrote
        assert (run.position.done, run.position.inner_seconds) == (4, 2.0)
        assert run.position.rows_descended == (200 if rank == 0 else 0)
        for domain in model.owned.tolist():
            theta = run.specific[domain]
            assert theta.dense.tolist() == [domain, domain]
            assert {name: rows.ids.tolist() for name, rows in theta.rows.items()} == (
                {"user": list(range(domain))} if domain else {}
            )
            assert all((rows.values == domain).all() for rows in theta.rows.values())


@pytest.mark.parametrize(
    ("rank", "ranks", "wrote"),
    [
        (0, 2, {"rows": [0], "own": [0], "domains": [0], "best": [0]}),
        (1, 2, {"rows": [1], "own": [1], "domains": [1], "best": [1]}),
        (1, 4, {"rows": [0, 1], "own": [1], "domains": [1], "best": [1]}),  # domains 1 and 5, which rank 1 owned
        (0, 1, {"rows": [0, 1], "own": [0], "domains": [0, 1], "best": [0, 1]}),
    ],
)
def test_a_rank_reads_the_files_of_those_ranks_that_held_its_domains(checkpoint, tmp_path_factory, rank, ranks, wrote):
    """By the rank that wrote them; the others need not be there."""
    model = Mixed(rank, ranks)
    run = run_of(model)
    only, read = files_to_restore(checkpoint, run, rank, ranks), tmp_path_factory.mktemp("read")
    for file in checkpoint.iterdir():
        if file.name.startswith(only):
            shutil.copy(file, read)
    found = {}
    for file in sorted(read.glob("*-*")):
        group, writer = file.stem.split("-")[:2]
        found.setdefault(group, []).append(int(writer))
    assert found == wrote
    restore(read, run, rank, ranks)
    assert model.coefficients[:, 0].tolist() == model.owned.tolist()
    assert [run.specific[domain].dense[0].item() for domain in run.specific] == model.owned.tolist()


class WithBest(Mixed):
    """Also keeps its best prior, which it never changes in place; now that it has settled, the prior is the best."""

    def state_dict(self):
        state = super().state_dict()
        return replace(state, same={**state.same, "best": self.prior}, constant=frozenset({"best"}))


def test_a_snapshot_copies_what_changes_and_replicated_state_on_rank_0_alone():
    model = WithBest(0, 2)
    model.train(0, 2)
    first, second = (take(run_of(model), rank).state for rank in range(2))
    model.prior += 1
    assert first.same["mixed.prior"].tolist() == [0.5] * WIDTH
    assert first.same["mixed.best"] is not first.same["mixed.prior"]
    assert first.same["mixed.best"].data_ptr() == model.prior.data_ptr()
    assert (second.same, list(second.rows)) == ({}, ["mixed.table"])


def test_without_room_for_copies_a_snapshot_is_live_and_has_no_tensor_twice():
    model = WithBest(0, 2)
    model.train(0, 2)
    copied = 4 * (WIDTH + len(model.table) * WIDTH + WIDTH)  # the prior, the table and the moments
    assert not take(run_of(model), 0, copied).is_live
    snapshot = take(run_of(model), 0, copied - 1)
    assert snapshot.is_live
    same, own = snapshot.state.same, snapshot.state.own
    assert own["mixed.moments"].data_ptr() == model.moments.data_ptr()
    assert same["mixed.prior"].data_ptr() == model.prior.data_ptr() != same["mixed.best"].data_ptr()
    assert torch.equal(same["mixed.best"], model.prior)


def test_a_checkpoint_of_more_domains_is_an_error(checkpoint):
    run = replace(run_of(Mixed(0, 1)), owned_n=torch.ones(DOMAINS - 1, dtype=torch.bool))
    with pytest.raises(MamdrError, match="of another lake: it has a domain beyond 6"):
        restore(checkpoint, run, 0, 1)


def test_a_checkpoint_whose_position_has_other_keys_is_an_error_that_names_them(checkpoint):
    content = json.loads((checkpoint / STATE).read_text())
    position = content["ranks"][1]["position"]
    position["finished"] = position.pop("done")
    (checkpoint / STATE).write_text(json.dumps(content))
    with pytest.raises(MamdrError, match=r"another version of this code \(done, finished\)"):
        restore(checkpoint, run_of(Mixed(0, 1)), 0, 1)


def test_a_checkpoint_of_another_model_is_an_error_that_names_the_tensor(checkpoint):
    run = run_of(Mixed(0, 1, dtype=torch.float64))
    with pytest.raises(MamdrError, match=r"another model: its mixed\.prior is not float64 of the shape \[3\]"):
        restore(checkpoint, run, 0, 1)
