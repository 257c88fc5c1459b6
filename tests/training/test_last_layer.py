"""The last layer fitted again to rows that the network has not memorised."""

import logging
from dataclasses import replace

import pytest
import torch

from mamdr_core.config.models import ModelSettings
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Theta
from mamdr_core.models.structures import MODELS, build_model, declare_inputs
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.training.last_layer import find_last_layer, refit_last_layer
from tests.engine.small_models import random_columns, small_engine
from tests.models.small_structures import featured_columns, small_settings
from tests.models.small_structures import small_engine as engine_of


def labelled(columns, logits_N, seed=0):
    draws_N = torch.rand(len(columns), generator=torch.Generator().manual_seed(seed))
    return replace(columns, labels=(draws_N < logits_N.sigmoid()).float())


def predict(engine, shared, columns):
    return engine.predict(Theta(shared), Visit(columns, torch.arange(len(columns))))


@pytest.fixture
def overconfident():
    """An engine, theta_S whose last layer is three times too large, and rows that follow the right one."""
    engine, shared = small_engine(4, batch_size=512)
    engine.flat.load(shared.dense, training=False)
    layer = find_last_layer(engine.flat.module)
    with torch.no_grad():
        layer.weight.mul_(6)
    right = engine.flat.values_P.clone()
    rows = random_columns([900, 700, 300, 100])
    right_shared = replace(shared, dense=right)
    rows = labelled(rows, predict(engine, right_shared, rows))
    with torch.no_grad():
        layer.weight.mul_(3)
        layer.bias.add_(1.0)
    return engine, replace(shared, dense=engine.flat.values_P.clone()), right_shared, rows


def logloss(engine, shared, columns):
    logits_N = predict(engine, shared, columns)
    return float(torch.nn.functional.binary_cross_entropy_with_logits(logits_N, columns.labels))


def test_an_overconfident_layer_is_refitted_only_if_left_out_rows_gain(overconfident, caplog):
    engine, wrong, right, rows = overconfident
    fresh = labelled(rows, predict(engine, right, rows), seed=1)
    before = logloss(engine, wrong, fresh)
    unchanged = wrong.dense.clone()
    with caplog.at_level(logging.INFO):
        changed = refit_last_layer(engine, wrong, rows, SingleProcess(), seed=0)
    assert "cross-fitted AUC" in caplog.text
    if changed:
        assert logloss(engine, wrong, fresh) < before
        assert logloss(engine, wrong, fresh) < logloss(engine, right, fresh) + 0.02
    else:
        assert torch.equal(wrong.dense, unchanged)
    # Labels of pure chance: nothing can be better on rows left out, so nothing changes.
    noise = replace(rows, labels=torch.randint(0, 2, (len(rows),), generator=torch.Generator().manual_seed(3)).float())
    flat = replace(wrong, dense=torch.zeros_like(wrong.dense))
    assert not refit_last_layer(engine, flat, noise, SingleProcess(), seed=0)
    assert torch.equal(flat.dense, torch.zeros_like(flat.dense))


def test_ranks_agree_on_the_layer(overconfident):
    engine, wrong, _, rows = overconfident

    def task(collective):
        first = int(rows.offsets[2])
        part = torch.arange(first) if collective.rank == 0 else torch.arange(first, len(rows))
        own = replace(wrong, dense=wrong.dense.clone())
        changed = refit_last_layer(engine, own, rows.take(part), collective, seed=0)
        return changed, own.dense

    (changed, dense), (other_changed, other_dense) = run_simulated(task, 2)
    assert changed == other_changed
    assert torch.equal(dense, other_dense)


def test_rows_of_one_class_change_nothing(overconfident):
    engine, wrong, _, rows = overconfident
    assert not refit_last_layer(engine, wrong, replace(rows, labels=torch.ones(len(rows))), SingleProcess(), seed=0)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_layer_of_a_structure_is_its_last_one(name):
    settings = ModelSettings(name=name, embedding_dim=4, hidden=(8,))
    inputs = declare_inputs(settings, (), {"user": 5, "item": 5, "domain": 3})
    layer = find_last_layer(build_model(settings, inputs))
    assert (layer is None) == (name in {"mmoe", "cgc", "ple", "shared_bottom"})


def test_inputs_of_the_layer_keep_their_rows_if_a_call_sorts_by_domain():
    columns, dense = featured_columns([40, 300, 9, 150]), []
    for mixes in (True, False):
        engine, shared = engine_of(small_settings("star"), 4, batch_size=512)
        engine.mixes = mixes
        engine.flat.load(shared.dense, training=False)
        layer = find_last_layer(engine.flat.module)
        with torch.no_grad():
            layer.weight.mul_(20)
        right = replace(shared, dense=engine.flat.values_P.clone())
        rows = labelled(columns, predict(engine, right, columns))
        rows.labels = rows.labels.double()
        with torch.no_grad():
            layer.weight.neg_()
        wrong = replace(shared, dense=engine.flat.values_P.clone())
        assert refit_last_layer(engine, wrong, rows, SingleProcess(), seed=0)
        dense.append(wrong.dense)
    torch.testing.assert_close(dense[0], dense[1], rtol=0, atol=1e-5)
