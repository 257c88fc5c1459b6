"""Ranks exchange values of rows with the ranks that own these rows."""

import torch

from mamdr_core.engine.striping import Stripe
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.parallel.owner_exchange import OwnerExchange

ROWS, RANKS = 7, 3
USED = [[6, 0, 3], [5, 0], []]
"""Rows that each rank uses, not ascending; rank 0 owns rows 0, 3, 6, rank 1 owns 1, 4, and rank 2 owns 2, 5."""


def exchange_of(collective):
    return OwnerExchange(torch.tensor(USED[collective.rank], dtype=torch.long), collective)


def test_owners_learn_which_rows_are_used_in_rank_order():
    requested = run_simulated(lambda collective: exchange_of(collective).requested_M.tolist(), RANKS)
    assert requested == [[6, 0, 3, 0], [], [5]]


def test_a_rank_reads_values_in_the_order_of_its_rows():
    table = torch.arange(ROWS * 2.0).view(ROWS, 2)

    def task(collective):
        own = table[Stripe(collective.rank, collective.size).slice]
        exchange = exchange_of(collective)
        return exchange.read(own), exchange.read(own[:, 0] * 10)  # an exchange is reusable, with values of any shape

    for rank, (rows, numbers) in enumerate(run_simulated(task, RANKS)):
        assert torch.equal(rows, table[USED[rank]])
        assert torch.equal(numbers, table[USED[rank], 0] * 10)


def test_owners_receive_values_and_their_sums_by_row():
    def task(collective):
        exchange = exchange_of(collective)
        values = torch.tensor([[float(row), 10.0**collective.rank] for row in USED[collective.rank]]).view(-1, 2)
        size = Stripe(collective.rank, collective.size).count(ROWS)
        return exchange.send(values).tolist(), exchange.sum_at_owner(values, size).tolist()

    (sent, sums), (sent_1, sums_1), (sent_2, sums_2) = run_simulated(task, RANKS)
    assert sent == [[6.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 10.0]]
    assert sums == [[0.0, 11.0], [3.0, 1.0], [6.0, 1.0]]  # row 0 is used by two ranks
    assert (sent_1, sums_1) == ([], [[0.0, 0.0], [0.0, 0.0]])
    assert (sent_2, sums_2) == ([[5.0, 10.0]], [[0.0, 0.0], [5.0, 10.0]])


def test_a_single_process_owns_all_rows():
    exchange = OwnerExchange(torch.tensor([4, 1]), SingleProcess())
    assert exchange.requested_M.tolist() == [4, 1]
    assert exchange.read(torch.arange(6.0)).tolist() == [4.0, 1.0]
    assert exchange.sum_at_owner(torch.tensor([[2.0], [3.0]]), 6).flatten().tolist() == [0, 3.0, 0, 0, 2.0, 0]
