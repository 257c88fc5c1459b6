"""Any object that implements `Stateful` is checkpointed, and restored on another number of ranks."""

import json

import pytest
import torch

from mamdr_core.engine.slots import MemorySlots
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.errors import MamdrError
from mamdr_core.stateful import DomainRows, State
from mamdr_core.training.checkpoint_files import check_checkpoint
from mamdr_core.training.position import Position
from mamdr_core.training.sealed import facts_of, seal, write_texts
from mamdr_core.training.state import STATE, RunState, restore, take, write

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
    store = SpecificStore([], MemorySlots(dense_P), dense_P)
    return RunState(Position(**position), {"mixed": model}, store, owned_n, dense_P)


@pytest.fixture
def checkpoint(tmp_path):
    """Of two ranks."""
    files, facts = {}, []
    for rank in range(2):
        model = Mixed(rank, 2)
        model.train(rank, 2)
        snapshot = take(run_of(model, done=4, rows_descended=100, inner_seconds=1.0 + rank))
        files |= facts_of(tmp_path, write(tmp_path, rank, snapshot))
        facts.append(snapshot.facts)
    seal(tmp_path, files | write_texts(tmp_path, {STATE: json.dumps({"ranks": facts})}))
    check_checkpoint(tmp_path, [*files, STATE], STATE)
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


def test_a_checkpoint_of_another_model_is_an_error_that_names_the_tensor(checkpoint):
    run = run_of(Mixed(0, 1, dtype=torch.float64))
    with pytest.raises(MamdrError, match=r"another model: its mixed\.prior is not float64 of the shape \[3\]"):
        restore(checkpoint, run, 0, 1)
