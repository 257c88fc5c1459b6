"""Stacks divided among threads, where torch does not compile for every shape or for a structure at all."""

import logging
from itertools import pairwise

import pytest
import torch
from torch import nn

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.parameters import EVERYTHING, Shared, Theta
from mamdr_core.models.checking import check_structure
from mamdr_core.models.fields import join_fields
from tests.engine.helpers import as_double, random_columns, small_inputs

COUNTS = [9, 40, 13, 30, 7, 22] * 3
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


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("logs", "limit"), [(False, 1), (True, 64)])
def test_what_torch_cannot_compile_runs_without_and_threads_share_no_module(
    compiles_without_code, two_threads, logs, limit, caplog
):
    inputs = small_inputs(len(COUNTS))
    torch.manual_seed(0)
    modules = [Own(inputs, logs).double() for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    if logs:
        check_structure("click_models.own:Own", modules[0], inputs)
    drawn = initial_shared(modules[0], inputs.tables, seed=2)
    shared = Shared(drawn.dense.double(), {name: table.double() for name, table in drawn.tables.items()})
    columns = as_double(random_columns(COUNTS))
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
