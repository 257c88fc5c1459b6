"""Directions of products, learned from rows whose domains weigh planted ones."""

import pytest
import torch

from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.errors import MamdrError
from mamdr_core.mixed import products
from mamdr_core.mixed.design import Design
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.mixed.products import plain_map, sampled_rows
from mamdr_core.mixed.settings import MixedSettings
from mamdr_core.models.tables import Table
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from tests.mixed.helpers import of_rank

USERS, ITEMS = 300, 200
PLANTED, FACTORS = 3, 4
WIDTHS = {"user": 5, "item": 4}


@pytest.fixture(scope="module")
def planted():
    """Rows of 40 domains that weigh three products of their own directions, tables, vectors, and the directions."""
    generator = torch.Generator().manual_seed(0)
    frozen = {f"{of}_vector": torch.randn(301, width, generator=generator) for of, width in WIDTHS.items()}
    tables = [Table(f"{of}_vector", of, 301, width, trainable=False) for of, width in WIDTHS.items()]
    directions = [torch.linalg.qr(torch.randn(w, w, generator=generator)).Q[:, :PLANTED] for w in WIDTHS.values()]
    counts = torch.tensor([600] * 39 + [0])
    domain_N = torch.repeat_interleave(torch.arange(40), counts)
    user_N = torch.randint(1, USERS + 1, domain_N.shape, generator=generator)
    item_N = torch.randint(1, ITEMS + 1, domain_N.shape, generator=generator)
    along = [
        frozen[f"{of}_vector"][ids] @ each for of, ids, each in zip(WIDTHS, (user_N, item_N), directions, strict=True)
    ]
    weights = torch.randn(40, PLANTED, generator=generator)[domain_N]
    probability_N = (along[0] * along[1] * weights).sum(1).sigmoid()
    columns = Columns(
        ids={"user": user_N.int(), "item": item_N.int(), "domain": (domain_N + 1).int()},
        numeric=torch.zeros(len(domain_N), 0),
        labels=(torch.rand(len(domain_N), generator=generator) < probability_N).float(),
        offsets=offsets_of(counts),
    )
    return columns, tables, frozen, directions


def learned(planted, columns=None, collective=None, factors=FACTORS):
    """A design that has learned its products."""
    _, tables, frozen, _ = planted
    design = Design(tables, frozen, 0, factors)
    design.learn_products(planted[0] if columns is None else columns, collective or SingleProcess())
    return design


def unexplained(design, directions):
    """Share of each planted matrix a_r b_r' that no sum of the design's has."""
    basis = torch.linalg.qr(torch.einsum("ur,vr->uvr", design.user_map[:-1], design.item_map[:-1]).flatten(0, 1)).Q
    planted = torch.einsum("ur,vr->uvr", *directions).flatten(0, 1)
    return (planted - basis @ (basis.T @ planted)).square().sum(0)


def test_the_directions_that_domains_weigh_are_found(planted):
    directions = planted[3]
    assert unexplained(Design(*planted[1:3], 0, FACTORS), directions).min() > 0.5
    assert unexplained(learned(planted), directions).max() < 0.03


def test_a_model_with_them_predicts_better_than_with_plain_products(planted):
    columns, tables, frozen, _ = planted
    sizes = {"user": USERS, "item": ITEMS, "domain": 40}
    rows = torch.arange(len(columns))
    train, test = columns.take(rows[rows % 4 != 0]), columns.take(rows[rows % 4 == 0])
    losses = {}
    for products_ in (False, True):
        settings = MixedSettings(products=products_, effects=(), sweeps=8)
        model = MixedModel(settings, tables, frozen, 0, sizes, train.occupied.tolist(), SingleProcess())
        model.fit(train)
        losses[products_] = torch.nn.functional.binary_cross_entropy_with_logits(model.predict(test), test.labels)
    assert losses[True] < losses[False] - 0.1


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_learns_the_same(planted, ranks):
    columns, alone = planted[0], learned(planted)
    owner_n = torch.arange(40) * 7 % ranks

    def task(collective):
        return learned(planted, of_rank(columns, owner_n, collective.rank), collective)

    for design in run_simulated(task, ranks):
        assert torch.equal(design.user_map, alone.user_map)
        assert torch.equal(design.item_map, alone.item_map)


def test_the_sample_is_of_the_largest_domains_and_spread_over_their_rows(monkeypatch):
    monkeypatch.setattr(products, "MOST_ROWS", 12)
    monkeypatch.setattr(products, "ROWS_A_DOMAIN", 5)
    counts = torch.tensor([2, 10, 0, 5, 3])
    rows = int(counts.sum())
    ids = {"domain": torch.repeat_interleave(torch.arange(1, 6), counts)}
    columns = Columns(ids, torch.zeros(rows, 0), torch.zeros(rows), offsets_of(counts))
    assert sampled_rows(columns, SingleProcess()).tolist() == [2, 4, 6, 8, 10, 12, 13, 14, 15, 16]
    monkeypatch.setattr(products, "MOST_DOMAINS", 1)
    assert sampled_rows(columns, SingleProcess()).tolist() == [2, 4, 6, 8, 10]


def test_rows_that_tell_nothing_leave_the_directions_where_they_start(planted):
    columns = planted[0]
    start = plain_map(5, FACTORS)
    nothing = columns.take(torch.zeros(0, dtype=torch.long))
    assert torch.equal(learned(planted, nothing).user_map, start)
    one_class = columns.take(torch.arange(600, 1800))
    one_class.labels.zero_()
    assert learned(planted, one_class).user_map.isfinite().all()


def test_an_entry_that_is_not_finite_is_named(planted):
    columns, tables, frozen, _ = planted
    changed = {**frozen, "item_vector": frozen["item_vector"].clone()}
    changed["item_vector"][7, 2] = float("nan")
    design = Design(tables, changed, 0, FACTORS)
    design.learn_products(columns, SingleProcess())
    with pytest.raises(MamdrError, match=r"item_vector\.2 of the training rows is not finite"):
        design.standardise(columns, SingleProcess())


def test_an_entry_that_never_varies_is_left_out(planted):
    columns, tables, frozen, _ = planted
    changed = {**frozen, "user_vector": frozen["user_vector"].clone()}
    changed["user_vector"][:, 1] = 1e6
    design = Design(tables, changed, 0, FACTORS)
    design.learn_products(columns, SingleProcess())
    assert not design.user_map[1].any()
    design.standardise(columns, SingleProcess())
    assert design.rows(columns, torch.arange(100)).isfinite().all()
