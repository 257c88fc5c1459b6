"""Permutation importance equals a short reference: the drop of each domain's AUC without a feature."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from mamdr_core.config.experiments import ImportanceSettings
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.metrics import domain_metrics
from mamdr_core.experiments.permutation import choose_features, measure_importance, permute_feature, spread
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.rounds import shuffle_rows

COUNTS = [300, 0, 1, 500, 40]
KINDS = {"user": "id", "item": "id", "price": "numeric", "noise": "numeric", "tag": "categorical"}


@pytest.fixture(scope="module")
def columns():
    """Rows whose labels depend on a numeric feature and a tag; the other numeric feature is noise."""
    random = np.random.default_rng(0)
    rows = sum(COUNTS)
    domain = np.repeat(np.arange(len(COUNTS)), COUNTS)
    ids = {name: random.integers(0, 20, rows) for name in ("user", "item", "tag")} | {"domain": domain + 1}
    history = torch.from_numpy(random.integers(0, 9, (rows, 3)).astype(np.int32))
    numeric = random.normal(size=(rows, 2)).astype(np.float32)
    logit = 2 * numeric[:, 0] * np.where(domain == 3, -1, 1) + 0.1 * ids["tag"] - 1
    label = (random.uniform(size=rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    return Columns(
        {**{name: torch.from_numpy(each.astype(np.int32)) for name, each in ids.items()}, "history": history},
        torch.from_numpy(numeric),
        torch.from_numpy(label),
        torch.tensor([0, *COUNTS]).cumsum(0),
        bag_weights={"history": torch.from_numpy(random.uniform(size=(rows, 3)).astype(np.float32))},
    )


def predict(columns):
    """The logits from which the labels were drawn."""
    sign = torch.where(columns.ids["domain"] == 4, -1.0, 1.0)
    return 2 * columns.numeric[:, 0] * sign + 0.1 * columns.ids["tag"] - 1


def measure(columns):
    return domain_metrics(predict(columns), columns.labels, columns.offsets, None)


def auc(scores, labels):
    """Share of pairs of a click and another row in the right order."""
    clicked, other = scores[labels == 1], scores[labels == 0]
    differences = clicked[:, None] - other[None, :]
    return ((differences > 0).mean() + 0.5 * (differences == 0).mean()) if differences.size else np.nan


def orders_of(columns, repeats):
    return [shuffle_rows(columns, seed, Arrays()) for seed in range(repeats)]


def test_one_feature_is_permuted_within_domains_and_no_other(columns):
    (order,) = orders_of(columns, 1)
    domain = columns.ids["domain"]
    assert torch.equal(domain[order], domain)
    for feature in ("tag", "history", "noise"):
        permuted = permute_feature(columns, feature, ["price", "noise"], order)
        for name, before in columns.ids.items():
            assert torch.equal(permuted.ids[name], before[order] if name == feature else before)
        weights = columns.bag_weights["history"]
        assert torch.equal(permuted.bag_weights["history"], weights[order] if feature == "history" else weights)
        for column, name in enumerate(("price", "noise")):
            before = columns.numeric[:, column]
            assert torch.equal(permuted.numeric[:, column], before[order] if name == feature else before)


def test_drops_equal_those_of_a_loop_over_domains(columns):
    orders = orders_of(columns, 4)
    base, measured = measure_importance(measure, columns, list(KINDS), ["price", "noise"], orders)
    found = {each.feature: each for each in measured}
    starts, labels = columns.offsets.tolist(), columns.labels.numpy()
    by_domain = [slice(*edges) for edges in pairwise(starts)]
    before = [auc(predict(columns).numpy()[rows], labels[rows]) for rows in by_domain]
    np.testing.assert_allclose(base.auc.numpy(), before, atol=1e-12)
    for feature in ("price", "tag"):
        for repeat, order in enumerate(orders):
            permuted = predict(permute_feature(columns, feature, ["price", "noise"], order)).numpy()
            drops = [before[n] - auc(permuted[rows], labels[rows]) for n, rows in enumerate(by_domain)]
            np.testing.assert_allclose(found[feature].drops_Rn[repeat].numpy(), drops, atol=1e-12)
            assert found[feature].means_R[repeat] == pytest.approx(np.nanmean(drops), abs=1e-12)
            known = ~np.isnan(drops)
            weighted = np.average(np.array(drops)[known], weights=np.array(COUNTS)[known])
            assert found[feature].weighted_R[repeat] == pytest.approx(weighted, abs=1e-12)
    assert found["price"].means_R.min() > 0.2
    assert 0.01 < found["tag"].means_R.mean() < found["price"].means_R.mean()
    assert not found["noise"].means_R.any()
    mean, deviation = spread(found["price"].drops_Rn)
    np.testing.assert_allclose(mean.numpy(), found["price"].drops_Rn.numpy().mean(0))
    np.testing.assert_allclose(deviation.numpy(), found["price"].drops_Rn.numpy().std(0, ddof=1))
    assert spread(found["price"].means_R[:1])[1].isnan()


def test_configured_features_are_deduplicated_and_unknown_ones_rejected():
    assert choose_features((), KINDS) == list(KINDS)
    assert choose_features(("tag", "user", "tag"), KINDS) == ["tag", "user"]
    with pytest.raises(ValueError, match=r"'domain', 'colour': expected some of user, item, price, noise, tag"):
        choose_features(("domain", "tag", "colour"), KINDS)
    with pytest.raises(ValueError, match=r"importance\.repeats must be >= 1, got 0"):
        ImportanceSettings(repeats=0)
