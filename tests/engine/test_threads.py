"""Stacks divided among threads: their numbers, their memory, and steps that torch cannot compile."""

import logging
import math
import threading
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.compiled import DenseStep
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.parameters import EVERYTHING, Scope, Shared, Theta
from mamdr_core.models.checking import check_structure
from mamdr_core.models.fields import join_fields
from tests.engine.engines import (
    DOMAINS,
    SCOPES,
    assert_same,
    columns_of,
    eager_engine,
    fast_engine,
    limited,
    trajectories,
    visit,
)  # fmt: skip
from tests.engine.small_models import as_double, random_columns, small_inputs

MANY = [9, 40, 13, 30, 7, 22] * 3
logger = logging.getLogger(__name__)


class Own(nn.Module):
    """A user's own structure; a line of its log interrupts the graph that torch compiles."""

    def __init__(self, inputs, logs):
        super().__init__()
        self.names, self.logs = inputs.names, logs
        self.layer = nn.Linear(inputs.width, 1)

    def forward(self, fields):
        x_BD = join_fields(fields, self.names)
        if self.logs:
            logger.debug("%s rows", x_BD.shape[0])
        return self.layer(x_BD).squeeze(1)


@pytest.fixture
def compiles_without_code(monkeypatch):
    """torch.compile traces and generates no code, and forgets afterwards what it has traced and is set to."""
    compiled = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda call, dynamic, options: compiled(call, dynamic=dynamic, backend="eager")
    )
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=torch._dynamo.config.recompile_limit):
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("logs", "limit"), [(False, 1), (True, 64)])
def test_a_structure_that_torch_cannot_compile_runs_in_threads(compiles_without_code, threads, logs, limit, caplog):
    threads(2)
    inputs = small_inputs(len(MANY))
    torch.manual_seed(0)
    modules = [Own(inputs, logs).double() for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    if logs:
        check_structure("click_models.own:Own", modules[0], inputs)
    drawn = initial_shared(modules[0], inputs.tables, seed=2)
    shared = Shared(drawn.dense.double(), {name: table.double() for name, table in drawn.tables.items()})
    columns = as_double(random_columns(MANY))
    starts = columns.offsets.tolist()
    visits = [[Visit(columns, torch.arange(start, stop))] for start, stop in pairwise(starts)]
    number = len(visits)
    arguments = ([Theta(shared)] * number, visits, 0.05, "adam", [EVERYTHING] * number, list(range(number)))
    expected = EagerEngine(modules[1], inputs.tables, {}, 4).descend_many(*arguments)
    fast = FastEngine(modules[0], inputs.tables, {}, 4, compiles=True)
    torch._dynamo.config.recompile_limit = limit
    for _ in range(4):
        for found, change in zip(fast.descend_many(*arguments), expected, strict=True):
            torch.testing.assert_close(found.dense, change.dense, rtol=0, atol=1e-10)
    assert "torch cannot compile" in caplog.text


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("scopes", ["own domain", "some rows"])
def test_stacks_are_divided_among_threads(monkeypatch, threads, count, scopes):
    columns = columns_of()
    columns.numeric[10 + 5] = math.nan  # domain 2, which a step skips
    eager, shared = eager_engine(on_nan="skip")
    threads(count)
    engine, seen, both = fast_engine(on_nan="skip"), set(), threading.Barrier(2)
    gradients = DenseStep.gradients

    def seeing(*arguments):
        thread = threading.get_ident()
        if thread not in seen and len(seen) < 2 and threading.current_thread() is not threading.main_thread():
            seen.add(thread)
            both.wait(60)  # two threads are in a step at the same time
        assert torch.get_num_threads() == 1
        return gradients(*arguments)

    monkeypatch.setattr(DenseStep, "gradients", seeing)
    thetas, visits = trajectories(columns, shared)
    arguments = (thetas, visits, 0.05, "adam", SCOPES[scopes], list(DOMAINS))
    for found, expected in zip(engine.descend_many(*arguments), eager.descend_many(*arguments), strict=True):
        assert_same(found, expected)
    one = [visit(columns, d) for d in (4, 5)]
    assert_same(engine.descend(Theta(shared), one, 0.05), eager.descend(Theta(shared), one, 0.05))
    assert len(seen) == 2
    assert engine.skipped == eager.skipped == 1
    assert torch.get_num_threads() == count


def test_large_steps_use_all_threads(threads):
    columns = columns_of()
    threads(2)
    engine = fast_engine(batch_size=1 << 24)
    few, many = ([Visit(columns, torch.zeros(1, dtype=torch.long).expand(rows))] for rows in (100, 1 << 24))
    with engine.threads_for(few):
        assert torch.get_num_threads() == 1
    with engine.threads_for(many):
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("count", "size"), [(1, 3), (2, 1), (16, 1)])
def test_the_memory_budget_is_divided_among_threads(monkeypatch, threads, count, size):
    columns, (_, shared) = columns_of([5] * 6), eager_engine()
    sizes = limited(monkeypatch, 6)
    threads(count)
    engine = fast_engine(group_memory=3.9 * 7 * shared.dense.nbytes / 1e9)
    visits = [[visit(columns, d)] for d in DOMAINS]
    engine._limits = replace(engine._limits, row_bytes=1)
    engine.descend_many([Theta(shared)] * 6, visits, 0.05, "sgd", [Scope()] * 6, [0] * 6)
    assert max(sizes) == size
