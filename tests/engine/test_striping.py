"""Stripes divide the rows of a table over ranks."""

import pytest
import torch

from mamdr_core.engine.striping import WHOLE, Stripe, owners_of, places_of


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 10])
def test_each_row_belongs_to_one_stripe_at_the_position_that_its_owner_gives_it(rows):
    table, ranks = torch.arange(rows) * 10, 4
    ids = [Stripe(rank, ranks).ids(rows) for rank in range(ranks)]
    assert sorted(torch.cat(ids).tolist()) == list(range(rows))
    for rank, own in enumerate(ids):
        stripe = Stripe(rank, ranks)
        assert stripe.count(rows) == len(own)
        assert table[stripe.slice].tolist() == [10 * row for row in own.tolist()]
        assert owners_of(own, ranks).tolist() == [rank] * len(own)
        assert places_of(own, ranks).tolist() == list(range(len(own)))


def test_the_stripe_of_a_single_rank_is_the_whole_table():
    assert WHOLE.ids(3).tolist() == [0, 1, 2]
    assert WHOLE.count(3) == 3
    assert torch.arange(5)[WHOLE.slice].tolist() == [0, 1, 2, 3, 4]


def test_owners_and_places_of_rows_in_any_order():
    ids = torch.tensor([7, 0, 5, 5, 3])
    assert owners_of(ids, 3).tolist() == [1, 0, 2, 2, 0]
    assert places_of(ids, 3).tolist() == [2, 0, 1, 1, 1]
