"""Many domains predicted in stacks are what they are one after another, by both engines and for every structure."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.parameters import Change, Rows, Theta
from mamdr_core.engine.pieces import MARGIN, PADDING, Pieces, cut_pieces
from mamdr_core.engine.prediction import predict_runs
from mamdr_core.models.structures import MODELS
from tests.engine.small_models import with_base
from tests.models.small_structures import featured_columns, small_engine, small_settings

COUNTS = [9, 1, 13, 0, 30, 7, 2]
WITHOUT = (2, 5)
"""Domains without theta_i."""


def specific_of(engine, shared):
    """theta_i that are not zero, with the domain's own rows and some rows of users."""
    generator = torch.Generator().manual_seed(3)
    draw = {"generator": generator, "dtype": torch.float64}
    found = {}
    for domain in set(range(len(COUNTS))) - set(WITHOUT):
        tables = [table for table in engine.trained_tables if table.column == "domain"]
        rows = {t.name: Rows(torch.tensor([domain + 1]), 0.2 * torch.randn(1, t.width, **draw)) for t in tables}
        if domain % 2:
            users = torch.tensor([1, 2, 4])
            rows["user"] = Rows(users, torch.randn(3, shared.tables["user"].shape[1], **draw))
        found[domain] = Change(0.1 * torch.randn(len(shared.dense), **draw), rows)
    return found


@pytest.mark.parametrize("kind", [EagerEngine, FastEngine])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_predictions_in_stacks_equal_those_of_single_domains(monkeypatch, name, kind):
    options = {"compiles": False} if kind is FastEngine else {}
    engine, shared = small_engine(small_settings(name, dropout=0.5), len(COUNTS), kind, **options)
    columns = with_base(featured_columns(COUNTS))
    edges = columns.offsets.numpy()
    for specific in ({}, specific_of(engine, shared)):
        expected = torch.cat(
            [
                engine.predict(Theta(shared, specific.get(domain)), Visit(columns, torch.arange(start, stop)))
                for domain, (start, stop) in enumerate(pairwise(edges))
            ]
        )
        for most in (1, 8, 4096):
            monkeypatch.setattr("mamdr_core.engine.pieces.PIECE_ROWS", most)
            monkeypatch.setattr("mamdr_core.engine.pieces.STACK_ROWS", {"cpu": 2 * most})
            found = predict_runs(engine, shared, specific, columns, range(len(COUNTS)), edges)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert expected.std() > 0.01


def test_a_part_of_the_rows_and_several_runs_of_a_domain_are_predicted():
    engine, shared = small_engine(small_settings("mlp"), len(COUNTS))
    columns, specific = featured_columns(COUNTS), specific_of(engine, shared)
    whole = predict_runs(engine, shared, specific, columns, range(len(COUNTS)), columns.offsets.numpy())
    cut = np.array([10, 15, 23, 40, 53])
    found = predict_runs(engine, shared, specific, columns, [2, 2, 4, 4], cut)
    torch.testing.assert_close(found, whole[10:53], rtol=0, atol=1e-10)
    assert not len(predict_runs(engine, shared, specific, columns, [], np.array([5])))


def test_stacks_respect_limits_and_contain_every_piece_once():
    random = np.random.default_rng(0)
    length = random.integers(1, 40, 300)
    pieces = Pieces(length.cumsum() - length, length, np.arange(300))
    stacks = list(cut_pieces(pieces, most_rows=256, most_pieces=20))
    assert sorted(start for stack in stacks for start in stack.start.tolist()) == pieces.start.tolist()
    for stack in stacks:
        padded = len(stack.length) * stack.length.max()
        assert len(stack.length) <= 20
        assert padded <= 256
        assert padded <= PADDING * stack.length.sum() + MARGIN * len(stack.length)
    assert len(stacks) < 60


def test_an_id_outside_a_table_is_an_error():
    engine, shared = small_engine(small_settings("mlp"), len(COUNTS))
    columns = featured_columns(COUNTS)
    beyond = replace(columns, ids={**columns.ids, "user": columns.ids["user"] + 1000})
    with pytest.raises(IndexError):
        predict_runs(engine, shared, {}, beyond, range(len(COUNTS)), columns.offsets.numpy())
