"""Gradients of many domains in stacks are what they are one after another, by both engines and for every structure."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.dense_gradients import dense_gradients
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.parameters import Theta
from mamdr_core.models.structures import MODELS
from mamdr_core.runtime.errors import DivergedError
from tests.engine.small_models import with_base
from tests.models.small_structures import featured_columns, small_engine, small_settings

COUNTS = [9, 1, 13, 0, 30, 7, 2]


def drawn_rows(columns):
    """Some rows of each domain, the last of them first."""
    rows = [torch.arange(start, stop).flip(0)[: 2 + (stop - start) // 2] for start, stop in pairwise(columns.offsets)]
    return torch.cat(rows), np.cumsum([0, *map(len, rows)])


def one_after_another(engine, shared, columns, rows, edges):
    visits = [Visit(columns, rows[start:stop]) for start, stop in pairwise(edges)]
    nothing = torch.zeros_like(shared.dense)
    return torch.stack(
        [engine.gradient(Theta(shared), visit).dense if len(visit.rows) else nothing for visit in visits]
    )


@pytest.mark.parametrize("kind", [EagerEngine, FastEngine])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_gradients_in_stacks_equal_those_of_single_domains(monkeypatch, name, kind):
    options = {"compiles": False} if kind is FastEngine else {}
    engine, shared = small_engine(small_settings(name, dropout=0.5), len(COUNTS), kind, **options)
    columns = with_base(featured_columns(COUNTS))
    rows, edges = drawn_rows(columns)
    expected = one_after_another(engine, shared, columns, rows, edges)
    for most in (1, 8, 4096):  # rows of a piece: a domain's are cut, and its parts added
        monkeypatch.setattr("mamdr_core.engine.pieces.PIECE_ROWS", most)
        monkeypatch.setattr("mamdr_core.engine.pieces.STACK_ROWS", {"cpu": 2 * most})
        found = dense_gradients(engine, shared, columns, rows, edges)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert expected.norm(dim=1).count_nonzero() >= 4  # of six: all units of a small domain may be off


def test_a_loss_that_is_not_finite_raises_or_has_a_zero_gradient():
    columns = featured_columns(COUNTS)
    columns.numeric[int(columns.offsets[4])] = float("nan")
    rows, edges = torch.arange(len(columns)), columns.offsets.numpy()
    engine, shared = small_engine(small_settings("mlp"), len(COUNTS), on_nan="skip")
    found = dense_gradients(engine, shared, columns, rows, edges)
    assert torch.equal(found[4], torch.zeros_like(shared.dense))
    assert engine.skipped == 1
    torch.testing.assert_close(found, one_after_another(engine, shared, columns, rows, edges), rtol=0, atol=1e-10)
    engine.on_nan = "stop"
    with pytest.raises(DivergedError) as caught:
        dense_gradients(engine, shared, columns, rows, edges)
    assert caught.value.domain == 4


def test_without_runs_there_are_no_gradients():
    engine, shared = small_engine(small_settings("mlp"), len(COUNTS))
    none = dense_gradients(engine, shared, featured_columns(COUNTS), torch.zeros(0, dtype=torch.long), np.array([0]))
    assert none.shape == (0, len(shared.dense))
