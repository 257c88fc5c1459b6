"""Statistics of training rows by domain, against numpy over all rows at once."""

import numpy as np
import pytest
import torch

from mamdr_core.engine import pieces
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.parameters import Change, Rows, Theta
from mamdr_core.engine.statistics import Moments, combine, domain_moments
from mamdr_core.models.layers import EPSILON
from mamdr_core.models.statistics import FEW_ROWS
from tests.engine.several import several_columns, several_engine
from tests.models.small_structures import PARTITIONED, featured_columns, small_engine, small_settings

COUNTS = [40, 1, 13, 0, 7]
DOMAINS = range(len(COUNTS))


def inputs_of(engine, shared, columns, specific=None):
    """What STAR normalises, by hand: tables looked up with theta_i's rows added, vectors, numeric features."""
    found = []
    for table in (table for table in engine.tables if table.feature):
        ids = columns.ids[table.column].long()
        rows = shared.tables[table.name].clone() if table.trainable else engine.frozen[table.name].clone()
        read = rows[ids]
        for domain, change in (specific or {}).items():
            if table.name in change.rows:
                own = change.rows[table.name]
                moved = rows.index_add(0, own.ids, own.values)
                here = columns.ids["domain"] == domain + 1
                read[here] = moved[ids[here]]
        found.append(read)
    return torch.cat([*found, columns.numeric], 1).numpy()


def assert_measured(found, x, columns):
    weights = np.ones(len(columns)) if columns.weights is None else columns.weights.numpy()
    for domain in DOMAINS:
        start, stop = columns.offsets[domain : domain + 2].tolist()
        own, weight = x[start:stop], weights[start:stop]
        assert found.weight[domain].item() == pytest.approx(weight.sum(), rel=1e-12)
        if weight.sum():
            mean = np.average(own, axis=0, weights=weight)
            np.testing.assert_allclose(found.mean[domain].numpy(), mean, rtol=1e-12, atol=1e-14)
            variance = np.average((own - mean) ** 2, axis=0, weights=weight)
            np.testing.assert_allclose(found.variance[domain].numpy(), variance, rtol=1e-11, atol=1e-14)
        else:
            assert found.mean[domain].abs().max() == found.squares[domain].abs().max() == 0


@pytest.mark.parametrize("weighted", [False, True])
def test_moments_of_a_domain_are_those_of_its_rows_at_theta_s_plus_theta_i(weighted):
    """Domains 0 and 4 have theta_i, which moves the domain's embedding and, of domain 4, two items."""
    columns = featured_columns(COUNTS)
    if weighted:
        columns.weights = torch.rand(len(columns), generator=torch.Generator().manual_seed(2)).double()
    engine, shared = small_engine(small_settings(PARTITIONED), len(COUNTS))
    dense = torch.zeros_like(shared.dense)
    specific = {
        domain: Change(dense, {"domain": Rows(torch.tensor([domain + 1]), torch.full((1, 4), 0.5).double())})
        for domain in (0, 4)
    }
    specific[4].rows["item"] = Rows(torch.tensor([2, 5]), torch.arange(8).view(2, 4).double())
    found = domain_moments(engine, shared, specific, columns, DOMAINS)["normalization"]
    assert_measured(found, inputs_of(engine, shared, columns, specific), columns)
    at_theta_s = domain_moments(engine, shared, {}, columns, DOMAINS)["normalization"]
    assert (found.mean[0] - at_theta_s.mean[0]).abs().max() == pytest.approx(0.5)
    assert torch.equal(found.mean[2], at_theta_s.mean[2])


def test_moments_do_not_depend_on_pieces_or_other_domains(monkeypatch):
    columns = featured_columns(COUNTS)
    engine, shared = small_engine(small_settings(PARTITIONED), len(COUNTS))
    whole = domain_moments(engine, shared, {}, columns, DOMAINS)["normalization"]
    some = domain_moments(engine, shared, {}, columns, range(2, 5))["normalization"]
    assert torch.equal(some.flat, whole.flat[2:5])
    monkeypatch.setattr(pieces, "PIECE_ROWS", 6)
    cut = domain_moments(engine, shared, {}, columns, DOMAINS)["normalization"]
    torch.testing.assert_close(cut.flat, whole.flat, rtol=1e-12, atol=1e-14)
    assert_measured(cut, inputs_of(engine, shared, columns), columns)


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_moments_of_bags_and_sequences_are_those_of_layer_inputs(pooling):
    """Compared with what the layer is called with when the engine predicts."""
    columns = several_columns(COUNTS)
    engine, shared = several_engine(pooling, len(COUNTS), name=PARTITIONED)
    found = domain_moments(engine, shared, {}, columns, DOMAINS)["normalization"]
    seen = []
    (layer,) = engine.statistics
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    for start, stop in zip(columns.offsets[:-1], columns.offsets[1:], strict=True):
        engine.predict(Theta(shared), Visit(columns, torch.arange(start, stop)))
    handle.remove()
    assert_measured(found, torch.cat(seen).numpy(), columns)


def test_moments_of_a_constant_are_exact():
    """So the embedding of a domain, which is the same in all of its rows, is normalised to zero."""
    columns = featured_columns([100_000])
    engine, shared = small_engine(small_settings(PARTITIONED), 1)
    found = domain_moments(engine, shared, {}, columns, range(1))["normalization"]
    start = sum(table.width for table in engine.tables[:2])
    assert [table.name for table in engine.tables[:3]] == ["user", "item", "domain"]
    embedding = shared.tables["domain"][1]
    assert torch.equal(found.mean[0, start : start + 4].float(), embedding.float())
    assert found.variance[0, start : start + 4].max() < 1e-20


def test_combined_moments_equal_those_of_all_rows():
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)).double() + 1e3
    weight = torch.rand(30, 1, generator=torch.Generator().manual_seed(1)).double()
    rows = Moments(weight, x, torch.zeros_like(x))
    halves = combine(rows, torch.tensor([11, 0, 19]))
    assert halves.mean[1].tolist() == [0.0, 0.0]
    whole = combine(halves, torch.tensor([3]))
    np.testing.assert_allclose(whole.mean[0], np.average(x, axis=0, weights=weight[:, 0]), rtol=1e-12)
    spread = np.average((x - whole.mean).numpy() ** 2, axis=0, weights=weight[:, 0])
    np.testing.assert_allclose(whole.variance[0], spread, rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_step_of_one_domain_equals_plain_batch_normalisation(weighted):
    """SGD's step from a reference of a few lines: every parameter and table that both have moves alike."""
    count = FEW_ROWS + 8
    columns = featured_columns([count, 3])
    if weighted:
        columns.weights = torch.rand(len(columns), generator=torch.Generator().manual_seed(2)).double() + 0.5
    for kind in ({}, {"engine": FastEngine, "compiles": False}):
        engine, shared = small_engine(small_settings(PARTITIONED), 2, batch_size=count, **kind)
        visit = Visit(columns, torch.arange(count))
        change = engine.descend(Theta(shared), [visit], 0.1, "sgd")
        dense, tables, loss = reference(engine, shared, columns, count)
        gradient_P, *to_tables = torch.autograd.grad(loss, [dense, *tables.values()], allow_unused=True)
        torch.testing.assert_close(change.dense, -0.1 * gradient_P, rtol=0, atol=1e-10)
        assert change.dense.abs().max() > 1e-3
        for name, to_table in zip(tables, to_tables, strict=True):
            rows = change.rows[name]
            torch.testing.assert_close(rows.values, -0.1 * to_table[rows.ids], rtol=0, atol=1e-10)
        assert not any(name.startswith(("normalization.count", "normalization.mean")) for name in change.rows)


def reference(engine, shared, columns, count):
    """The loss of the first domain's rows by plain operations, with dense parameters and tables that it depends on."""
    dense = shared.dense.clone().requires_grad_()
    named = engine.flat.named(dense)
    trained = {table.name: table for table in engine.trained_tables}
    tables = {name: shared.tables[name].clone().requires_grad_() for name in trained}
    features = [table for table in engine.tables if table.feature]
    read = {t.name: (tables[t.name] if t.trainable else engine.frozen[t.name])[columns.ids[t.column].long()[:count]]
            for t in features}  # fmt: skip
    x = torch.cat([*read.values(), columns.numeric[:count]], 1)
    weight = torch.ones(count).double() if columns.weights is None else columns.weights[:count]
    weight = (weight / weight.sum())[:, None]
    mean = (weight * x).sum(0)
    rows = 1 / weight.square().sum()
    own = min(1.0, float(rows) / FEW_ROWS)
    kept_mean, kept_variance = (shared.tables[f"normalization.{name}"][1] for name in ("mean", "variance"))
    spread = (weight * (x - mean).square()).sum(0)
    variance = own * spread + (1 - own) * kept_variance + own * (1 - own) * (mean - kept_mean).square()
    h = (x - own * mean - (1 - own) * kept_mean) / (variance + EPSILON).sqrt()
    scale = (1 + named["normalization.scale"]) * (1 + tables["normalization.scale"][1])
    h = h * scale + named["normalization.shift"] + tables["normalization.shift"][1]
    for number in range(3):
        shared_weight = named[f"layers.{number}.shared.weight"]
        own_weight = shared_weight * (1 + tables[f"star.{number}.weight"][1].view_as(shared_weight))
        h = h @ own_weight.T + named[f"layers.{number}.shared.bias"] + tables[f"star.{number}.bias"][1]
        h = h.relu() if number < 2 else h
    hidden = (x @ named["auxiliary.0.weight"].T + named["auxiliary.0.bias"]).relu()
    logits = (h + hidden @ named["auxiliary.3.weight"].T + named["auxiliary.3.bias"]).squeeze(1)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, columns.labels[:count], reduction="none")
    return dense, tables, (losses * weight[:, 0]).sum()
