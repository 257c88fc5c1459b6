"""Rounds of several ranks: with lending every row is visited once an epoch, in the plan's slices or parts of them."""

from functools import partial

import numpy as np
import pytest
import torch

from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.plan import RoundPlan
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.parallel.lending import Lending
from mamdr_core.parallel.placement import place_domains
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.rounds import make_rounds, shuffle_rows
from tests.engine.small_models import random_columns, with_base

BATCH, ROUNDS = 8, 4
SHAPES = {
    "half in one domain": [300, *[3] * 100],
    "few small domains": [40, 9, 0, 1, 5],
    "equal": [20] * 12,
}


def columns_of(counts: list[int]) -> Columns:
    """Rows that are identified by their numeric feature."""
    columns = with_base(random_columns(counts))
    columns.numeric = torch.arange(len(columns), dtype=torch.float32)[:, None]
    return columns


def rounds_of(collective, columns: Columns, lends: bool = True, skipped: int = 0, rounds: int = ROUNDS) -> list:
    """Of every round of an epoch, a rank's visits as rows by domain."""
    counts = columns.counts.numpy()
    owner_n = place_domains(counts, collective.size)
    own = torch.from_numpy(owner_n)[columns.ids["domain"].long() - 1] == collective.rank
    train = columns.take(own.nonzero().squeeze(1))
    lending = Lending(collective, owner_n, BATCH) if lends and collective.size > 1 else None
    made = make_rounds(
        RoundPlan(counts, rounds, 2, seed=5), 1, train, collective.rank, Arrays(), skipped, lending=lending
    )
    return [{domain: rows_of(visit) for domain, visit in round_.visits(train).items()} for round_ in made]


def rows_of(visit: Visit) -> Columns:
    return visit.columns.take(visit.rows)


def numbers(rows: list[Columns]) -> list[int]:
    return [int(number) for own in rows for number in own.numeric[:, 0]]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_ranks_together_visit_the_rows_of_one_process_in_every_round(shape, ranks):
    columns = columns_of(SHAPES[shape])
    alone = rounds_of(SingleProcess(), columns)
    found = run_simulated(partial(rounds_of, columns=columns), ranks)
    assert sorted(numbers([rows for own in alone for rows in own.values()])) == list(range(len(columns)))
    for number, expected in enumerate(alone):
        held = [own[number] for own in found]
        for domain, rows in expected.items():
            visited = numbers([own[domain] for own in held if domain in own])
            assert sorted(visited) == sorted(numbers([rows]))
        assert sum(len(rows) for own in held for rows in own.values()) == sum(map(len, expected.values()))


def test_a_borrowed_row_is_the_owners_row():
    columns = columns_of(SHAPES["half in one domain"])
    for own in run_simulated(partial(rounds_of, columns=columns), 3):
        for round_ in own:
            for domain, rows in round_.items():
                places = rows.numeric[:, 0].long()
                assert (rows.ids["domain"] == domain + 1).all()
                assert all(torch.equal(rows.ids[name], columns.ids[name][places]) for name in columns.ids)
                assert torch.equal(rows.labels, columns.labels[places])
                assert torch.equal(rows.base_logits, columns.base_logits[places])


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_lending_evens_out_the_steps_of_a_round(ranks):
    columns = columns_of(SHAPES["half in one domain"])

    def steps_beyond_mean(lends):
        found = run_simulated(partial(rounds_of, columns=columns, lends=lends), ranks)
        steps_WR = np.array(
            [[sum(-(-len(rows) // BATCH) for rows in round_.values()) for round_ in own] for own in found]
        )
        return (steps_WR.max(0) - np.ceil(steps_WR.mean(0))).max()

    assert steps_beyond_mean(lends=True) <= 1
    assert steps_beyond_mean(lends=False) > 3


def test_domains_come_in_the_order_of_the_round_on_every_rank():
    columns = columns_of(SHAPES["half in one domain"])
    order = RoundPlan(columns.counts.numpy(), ROUNDS, 2, seed=5).order
    for own in run_simulated(partial(rounds_of, columns=columns), 3):
        for number, round_ in enumerate(own):
            visited = list(round_)
            assert visited == [domain for domain in order(1, number).tolist() if domain in visited]


def test_400_ranks_and_10_domains():
    """Most ranks own nothing, and borrow; every rank takes part in every exchange."""
    columns = columns_of([1500, 600, 200, 90, 40, 20, 10, 5, 0, 1])
    found = [rows for (rows,) in run_simulated(partial(rounds_of, columns=columns, rounds=1), 400)]
    assert sorted(numbers([rows for own in found for rows in own.values()])) == list(range(len(columns)))
    steps = [sum(-(-len(rows) // BATCH) for rows in own.values()) for own in found]
    assert max(steps) == 1
    assert sum(steps) == sum(-(-int(count) // BATCH) for count in columns.counts)


@pytest.mark.parametrize("skipped", [1, 3])
def test_a_run_that_resumes_within_an_epoch_deals_its_other_rounds_alike(skipped):
    columns = columns_of(SHAPES["half in one domain"])
    whole = run_simulated(partial(rounds_of, columns=columns), 3)
    rest = run_simulated(partial(rounds_of, columns=columns, skipped=skipped), 3)
    for expected, found in zip(whole, rest, strict=True):
        assert [[*round_] for round_ in found] == [[*round_] for round_ in expected[skipped:]]
        for one, other in zip(found, expected[skipped:], strict=True):
            assert numbers([*one.values()]) == numbers([*other.values()])


def test_the_owner_keeps_all_rows_of_a_round_for_dr():
    columns = columns_of(SHAPES["half in one domain"])

    def task(collective, lends):
        owner_n = place_domains(columns.counts.numpy(), collective.size)
        own = torch.from_numpy(owner_n)[columns.ids["domain"].long() - 1] == collective.rank
        train = columns.take(own.nonzero().squeeze(1))
        lending = Lending(collective, owner_n, BATCH) if lends else None
        plan = RoundPlan(columns.counts.numpy(), ROUNDS, 2, seed=5)
        rounds = make_rounds(plan, 0, train, collective.rank, Arrays(), lending=lending)
        return [{domain: rows.tolist() for domain, rows in round_.slices.items()} for round_ in rounds]

    assert run_simulated(partial(task, lends=True), 3) == run_simulated(partial(task, lends=False), 3)


def test_rows_are_mixed_for_methods_that_mix_them_alone():
    train = columns_of([30, 12])
    plan = RoundPlan(train.counts.numpy(), ROUNDS, 2, seed=5)
    mixed = [round_.mixed(train).rows for round_ in make_rounds(plan, 0, train, 0, Arrays(), mixes=True)]
    assert sorted(torch.cat(mixed).tolist()) == list(range(42))
    (first, *_) = make_rounds(plan, 0, train, 0, Arrays())
    with pytest.raises(ValueError, match="must declare mixes=True"):
        first.mixed(train)


def test_rounds_are_cut_from_the_order_that_is_handed_in():
    train = columns_of([30, 12])
    plan = RoundPlan(train.counts.numpy(), 1, 2, seed=5)
    (round_,) = make_rounds(plan, 0, train, 0, Arrays(), order=shuffle_rows(train, 9, Arrays()))
    (other,) = make_rounds(plan, 0, train, 0, Arrays())
    assert torch.cat([round_.slices[0], round_.slices[1]]).tolist() == shuffle_rows(train, 9, Arrays()).tolist()
    assert round_.slices[0].tolist() != other.slices[0].tolist()
