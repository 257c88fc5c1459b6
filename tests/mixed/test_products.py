"""Learned directions of products, for rows that are drawn with known directions."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.config.mixed import MixedSettings
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.mixed import products
from mamdr_core.mixed.design import Design
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.mixed.products import Projection, sampled_rows
from mamdr_core.models.tables import Table
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.runtime.errors import MamdrError
from tests.mixed.drawn_rows import of_rank

USERS, ITEMS = 300, 200
PLANTED, FACTORS = 3, 4
WIDTHS = {"user": 5, "item": 4}


@pytest.fixture(scope="module")
def planted():
    """Rows of 40 domains with three products in known directions, the tables, the vectors, and the directions."""
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
    """A design with learned products."""
    _, tables, frozen, _ = planted
    design = Design(tables, frozen, 0, factors)
    design.learn_products(planted[0] if columns is None else columns, collective or SingleProcess())
    return design


def unexplained(design, directions):
    """Squared distance of each known matrix a_r b_r' from the span of the design's matrices."""
    learned_UVR = torch.einsum("ur,vr->uvr", design.users.directions_DR, design.items.directions_DR)
    basis = torch.linalg.qr(learned_UVR.flatten(0, 1)).Q
    planted = torch.einsum("ur,vr->uvr", *directions).flatten(0, 1)
    return (planted - basis @ (basis.T @ planted)).square().sum(0)


def fit_loss(planted, train, test):
    """Fit a mixed model to `train`; returns its logloss on `test`, and the model."""
    _, tables, frozen, _ = planted
    sizes = {"user": USERS, "item": ITEMS, "domain": 40}
    settings = MixedSettings(effects=(), sweeps=4)
    model = MixedModel(settings, tables, frozen, 0, sizes, train.occupied.tolist(), SingleProcess())
    model.fit(train)
    return float(binary_cross_entropy_with_logits(model.predict(test), test.labels)), model


def test_known_directions_are_recovered(planted):
    directions = planted[3]
    assert unexplained(Design(*planted[1:3], 0, FACTORS), directions).min() > 0.3
    assert unexplained(learned(planted), directions).max() < 0.03


def test_learned_directions_predict_better_than_initial_ones(planted, monkeypatch):
    rows = torch.arange(len(planted[0]))
    train, test = planted[0].take(rows[rows % 4 != 0]), planted[0].take(rows[rows % 4 == 0])
    loss, _ = fit_loss(planted, train, test)
    monkeypatch.setattr(Design, "learn_products", lambda *_: None)
    plain_loss, _ = fit_loss(planted, train, test)
    assert loss < plain_loss - 0.05


def test_a_run_with_a_parent_keeps_its_directions(planted, monkeypatch):
    monkeypatch.setattr(products, "EPOCHS", 2)
    columns, tables, frozen, _ = planted
    half = torch.arange(len(columns)) % 2 == 0
    days = [columns.take(chosen.nonzero().squeeze(1)) for chosen in (half, ~half)]
    _, parent = fit_loss(planted, days[0], days[1])
    sizes = {"user": USERS, "item": ITEMS, "domain": 40}
    child = MixedModel(MixedSettings(effects=()), tables, frozen, 0, sizes, columns.occupied.tolist(), SingleProcess())
    child.inherit(parent.state_dict())
    child.fit(days[1])
    assert torch.equal(child.design.users.directions_DR, parent.design.users.directions_DR)
    assert torch.equal(child.design.items.shift_D, parent.design.items.shift_D)


def test_a_new_design_has_elementwise_products(planted):
    _, tables, frozen, _ = planted
    tables = [replace(table, width=4) for table in tables]
    frozen = {name: vectors[:, :4] for name, vectors in frozen.items()}
    design = Design(tables, frozen, 0, factors=16)
    vectors = {name: each[1:4] for name, each in frozen.items()}
    expected = vectors["user_vector"] * vectors["item_vector"]
    assert torch.equal(design.join(vectors, torch.zeros(3, 0))[:, 1:5], expected)


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_learns_the_same_directions(planted, ranks, monkeypatch):
    monkeypatch.setattr(products, "EPOCHS", 1)
    columns, alone = planted[0], learned(planted)
    owner_n = torch.arange(40) * 7 % ranks

    def task(collective):
        return learned(planted, of_rank(columns, owner_n, collective.rank), collective)

    for design in run_simulated(task, ranks):
        for name, tensor in design.state_dict().same.items():
            assert torch.equal(tensor, alone.state_dict().same[name])


def test_the_sample_has_evenly_spaced_rows_of_the_largest_domains(monkeypatch):
    monkeypatch.setattr(products, "MOST_ROWS", 12)
    monkeypatch.setattr(products, "ROWS_PER_DOMAIN", 5)
    counts = torch.tensor([2, 10, 0, 5, 3])
    rows = int(counts.sum())
    ids = {"domain": torch.repeat_interleave(torch.arange(1, 6), counts)}
    columns = Columns(ids, torch.zeros(rows, 0), torch.zeros(rows), offsets_of(counts))
    sampled, numbers = sampled_rows(columns, SingleProcess())
    assert sampled.tolist() == [2, 4, 6, 8, 10, 12, 13, 14, 15, 16]
    assert numbers.tolist() == [0] * 5 + [1] * 5
    monkeypatch.setattr(products, "MOST_DOMAINS", 1)
    assert sampled_rows(columns, SingleProcess())[0].tolist() == [2, 4, 6, 8, 10]


def plain_directions(planted, columns):
    """The initial directions, for vectors that are standardised over some rows."""
    vectors_NU = planted[2]["user_vector"][columns.ids["user"].long()].double()
    deviation_U = vectors_NU.std(0, correction=0) if len(columns) else torch.ones(5)
    return (
        Projection.plain(5, FACTORS).directions_DR * torch.where(deviation_U > 0, 1 / deviation_U, 0)[:, None].float()
    )


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_directions_are_not_learned_from_too_few_rows(planted, rows):
    columns = planted[0].take(torch.arange(rows))
    found = learned(planted, columns).users.directions_DR
    assert torch.allclose(found, plain_directions(planted, columns), atol=1e-5)


def test_directions_are_not_learned_from_labels_without_interactions(planted):
    columns, _, frozen, _ = planted
    linear_N = frozen["user_vector"][columns.ids["user"].long()].sum(1)
    labels = (torch.rand(len(columns), generator=torch.Generator().manual_seed(1)) < linear_N.sigmoid()).float()
    found = learned(planted, replace(columns, labels=labels)).users.directions_DR
    assert torch.allclose(found, plain_directions(planted, columns), atol=1e-5)


def test_directions_are_finite_for_labels_of_one_class(planted):
    one_class = planted[0].take(torch.arange(600, 1800))
    one_class.labels.zero_()
    assert learned(planted, one_class).users.directions_DR.isfinite().all()


def test_the_error_for_a_value_that_is_not_finite_names_its_entry(planted):
    columns, tables, frozen, _ = planted
    changed = {**frozen, "item_vector": frozen["item_vector"].clone()}
    changed["item_vector"][7, 2] = float("nan")
    design = Design(tables, changed, 0, FACTORS)
    design.learn_products(columns, SingleProcess())
    with pytest.raises(MamdrError, match=r"item_vector\.2 of the training rows is not finite"):
        design.standardise(columns, SingleProcess())


def test_a_constant_entry_has_no_direction(planted):
    columns, tables, frozen, _ = planted
    changed = {**frozen, "user_vector": frozen["user_vector"].clone()}
    changed["user_vector"][:, 1] = 1e6
    design = Design(tables, changed, 0, FACTORS)
    design.learn_products(columns, SingleProcess())
    assert not design.users.directions_DR[1].any()
    design.standardise(columns, SingleProcess())
    assert design.rows(columns, torch.arange(100)).isfinite().all()
