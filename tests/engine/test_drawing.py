"""A part of a table is drawn as the whole table would be."""

import pytest
import torch

from mamdr_core.engine import drawing
from mamdr_core.engine.drawing import draw_rows, initial_shared
from mamdr_core.engine.striping import Stripe
from mamdr_core.models.structures import build_model
from mamdr_core.models.tables import Table
from tests.models.small_structures import small_inputs, small_settings


@pytest.mark.parametrize("width", [1, 3, 8, 128])
@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 100, 257])
def test_chunks_equal_one_whole_draw(monkeypatch, rows, width):
    monkeypatch.setattr(drawing, "CHUNK_ROWS", 32)
    one, other = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    whole = torch.randn(rows, width, generator=one)
    assert torch.equal(draw_rows(rows, width, other), whole)
    assert torch.equal(torch.randn(20, generator=other), torch.randn(20, generator=one))  # as does the next table


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_a_rank_keeps_the_rows_that_it_owns_of_the_whole_draw(monkeypatch, ranks):
    monkeypatch.setattr(drawing, "CHUNK_ROWS", 32)
    for rows in (1, 4, 100, 101):
        whole = torch.randn(rows, 6, generator=torch.Generator().manual_seed(5))
        for rank in range(ranks):
            stripe = Stripe(rank, ranks)
            kept = draw_rows(rows, 6, torch.Generator().manual_seed(5), stripe)
            assert torch.equal(kept, whole[rank::ranks])
            assert stripe.ids(rows).tolist() == list(range(rank, rows, ranks))


def test_a_table_has_its_standard_deviation_and_one_of_zeros_draws_nothing():
    tables = [
        Table("a", "a", 500, 8),
        Table("b", "domain", 400, 8, feature=False, per_domain=True, std=0.0),
        Table("c", "domain", 400, 8, feature=False, per_domain=True, std=0.3),
    ]
    drawn = initial_shared(torch.nn.Linear(1, 1), tables, seed=5).tables
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(drawn["a"], 0.01 * torch.randn(500, 8, generator=generator))
    assert torch.equal(drawn["b"], torch.zeros(400, 8))
    assert torch.equal(drawn["c"], 0.3 * torch.randn(400, 8, generator=generator))


def test_rows_start_from_given_vectors_unless_these_are_zero(monkeypatch):
    monkeypatch.setattr(drawing, "CHUNK_ROWS", 32)
    taste, module = Table("taste", "user", 100, 8), torch.nn.Linear(1, 1)
    drawn = initial_shared(module, [taste], seed=5).tables["taste"]
    given = torch.randn(100, 8)
    given[[0, 50, 99]] = 0.0
    found = initial_shared(module, [taste], seed=5, vectors={"taste": given}).tables["taste"]
    expected = given.clone()
    expected[[0, 50, 99]] = drawn[[0, 50, 99]]
    assert torch.equal(found, expected)
    part = initial_shared(module, [taste], seed=5, stripe=Stripe(1, 3), vectors={"taste": given}).tables["taste"]
    assert torch.equal(part, expected[1::3])


@pytest.mark.parametrize("name", ["wdl", "star", "ple"])
def test_tables_of_a_structure_do_not_change_those_of_features(name):
    settings = small_settings(name)
    inputs = small_inputs(settings, domains=5)
    plain = small_inputs(small_settings("mlp"), domains=5)
    module = build_model(settings, inputs)
    whole = initial_shared(module, inputs.tables, seed=2).tables
    for table, values in initial_shared(module, plain.tables, seed=2).tables.items():
        assert torch.equal(whole[table], values)
    for rank in range(3):
        part = initial_shared(module, inputs.tables, seed=2, stripe=Stripe(rank, 3)).tables
        assert part.keys() == whole.keys()
        assert all(torch.equal(values, whole[table][rank::3]) for table, values in part.items())
