"""Agreement of gradients: planted cosines, a sample's estimate within its error, and real gradients that oppose."""

from functools import partial

import numpy as np
import pytest
import torch

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.parameters import Theta
from mamdr_core.experiments.gradients import cosine_matrix, domain_gradients, draw_pairs, measure_pairs
from mamdr_core.experiments.plots import cluster_order
from tests.engine.small_models import as_double, random_columns, small_engine

PLANTED = {3: [2.0, 0.0], 5: [0.0, 3.0], 6: [-1.0, 0.0], 9: [1.0, 1.0]}


def planted(domains):
    return torch.tensor([PLANTED[domain] for domain in domains.tolist()]).view(-1, 2)


def test_cosines_and_inner_products_of_planted_gradients_are_exact():
    pairs = draw_pairs(np.array([3, 5, 6, 9]), 100, seed=0)
    found = measure_pairs(planted, pairs, keep=9)
    named = dict(zip(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True), found.cosine_K, strict=True))
    half = 0.5**0.5
    assert named == pytest.approx(
        {(3, 5): 0.0, (3, 6): -1.0, (3, 9): half, (5, 6): 0.0, (5, 9): half, (6, 9): -half}, abs=1e-12
    )
    assert found.mean_cosine() == (pytest.approx((-1 + half) / 6, abs=1e-12), 0.0)
    assert found.negative_share() == (2 / 6, 0.0)
    assert found.mean_inner_product() == pytest.approx((0 - 2 + 2 + 0 + 3 - 1) / 6, abs=1e-12)
    assert found.quantiles()["0.5"] == pytest.approx(0.0, abs=1e-12)
    again = measure_pairs(planted, pairs, keep=2)  # gradients that had to go are computed again
    assert again.cosine_K.tolist() == found.cosine_K.tolist()


@pytest.mark.parametrize("keep", [2, 9, 40, 100])
@pytest.mark.parametrize(("most", "tile"), [(60, 1024), (1_000, 13), (10_000, 1024)])
def test_measuring_pairs_in_blocks_equals_measuring_them_one_by_one(monkeypatch, most, tile, keep):
    monkeypatch.setattr("mamdr_core.experiments.gradients.TILE_BYTES", tile * 7 * 8)
    vectors = torch.randn(100, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors[17] = 0
    pairs = draw_pairs(np.arange(100), most, seed=0)
    computed = []

    def gradients(domains):
        assert len(domains) <= keep
        computed.extend(domains.tolist())
        return vectors[domains]

    found = measure_pairs(gradients, pairs, keep)
    both = (vectors[pairs.first] * vectors[pairs.second]).sum(1).numpy()
    length = vectors.norm(dim=1).numpy()
    with np.errstate(invalid="ignore"):
        cosine = both / (length[pairs.first] * length[pairs.second])
    np.testing.assert_allclose(found.inner_K, both, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.cosine_K, cosine, rtol=0, atol=1e-12)
    distinct = len(np.unique([pairs.first, pairs.second]))
    blocks = 1 if keep == 100 else -(-distinct // (keep - max(1, keep // 8)))
    assert distinct <= len(computed) <= min(distinct * (blocks + 1) / 2, distinct + len(pairs.first))


def test_a_gradient_of_zero_has_no_cosine_and_is_left_out():
    pairs = draw_pairs(np.arange(3), 100, seed=0)
    found = measure_pairs(lambda domains: torch.from_numpy(np.outer(domains, [1.0, 0.0])), pairs, keep=3)
    assert found.known.sum() == 1
    assert found.mean_cosine()[0] == 1.0


@pytest.mark.parametrize("domains", [2, 3, 10, 57])
def test_every_pair_is_drawn_once_where_there_is_room(domains):
    pairs = draw_pairs(np.arange(domains), 10_000, seed=0)
    expected = {(i, j) for j in range(domains) for i in range(j)}
    assert set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == expected
    assert len(pairs.first) == pairs.total == len(expected)


def test_a_sample_of_pairs_has_no_duplicates_and_needs_no_quadratic_memory():
    pairs = draw_pairs(np.arange(69_102), 2000, seed=1)
    drawn = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert len(drawn) == 2000
    assert all(first < second < 69_102 for first, second in drawn)
    assert pairs.total == 69_102 * 69_101 // 2
    assert np.mean(pairs.first) / np.mean(pairs.second) == pytest.approx(0.5, abs=0.02)  # min and max of two uniforms


def test_a_samples_estimate_lies_within_its_stated_error_of_the_whole():
    vectors = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) + 0.3
    domains = np.arange(60)
    whole = measure_pairs(vectors.__getitem__, draw_pairs(domains, 10_000, 0), keep=60)
    cosine, share = whole.mean_cosine()[0], whole.negative_share()[0]
    distances = []
    for seed in range(200):
        sample = measure_pairs(vectors.__getitem__, draw_pairs(domains, 400, seed), keep=60)
        for (value, error), truth in ((sample.mean_cosine(), cosine), (sample.negative_share(), share)):
            assert error > 0
            distances.append((value - truth) / error)
    # Of 200 estimates each about 95 % lie within 1.96 standard errors; their spread is one standard error.
    assert 0.91 < np.mean(np.abs(distances) < 1.96) < 0.99
    assert np.std(distances) == pytest.approx(1.0, abs=0.12)


def test_domains_with_the_same_rows_agree_and_with_opposite_labels_conflict():
    columns = as_double(random_columns([40, 40, 40]))
    engine, shared = small_engine(3)
    shared.tables["domain"].zero_()
    engine.flat.module.layers[-1].bias.data.zero_()
    shared.dense = engine.flat.values_P.clone()
    shared.dense[-6:] *= (
        0.0  # the last layer: every prediction is a half, so a label's gradient is the other's negative
    )
    shared.dense[-6] = 0.0
    for column in (*columns.ids.values(), columns.numeric):
        if column is not columns.ids["domain"]:
            column[40:80] = column[:40]
            column[80:] = column[:40]
    columns.labels[40:80] = columns.labels[:40]
    columns.labels[80:] = 1 - columns.labels[:40]
    gradients = partial(domain_gradients, engine, shared, columns, 100, 0)
    found = measure_pairs(gradients, draw_pairs(np.arange(3), 10, 0), keep=3)
    assert cosine_matrix(found, [0, 1, 2]) == pytest.approx(
        np.array([[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]), abs=1e-9
    )


def test_a_gradient_is_of_the_drawn_rows_and_the_draw_follows_from_the_seed():
    columns = as_double(random_columns([50, 30]))
    engine, shared = small_engine(2)

    def gradient(rows, seed, domains=(1,)):
        return domain_gradients(engine, shared, columns, rows, seed, np.array(domains))[-1]

    whole = engine.gradient(Theta(shared), Visit(columns, torch.arange(50, 80))).dense
    for domains in ((1,), (0, 1)):
        torch.testing.assert_close(gradient(1000, 0, domains), whole, rtol=0, atol=1e-10)
        torch.testing.assert_close(gradient(10, 0, domains), gradient(10, 0), rtol=0, atol=1e-10)
    drawn = torch.randperm(30, generator=torch.Generator().manual_seed(derive_seed(0, 1, 12)))[:10] + 50
    expected = engine.gradient(Theta(shared), Visit(columns, drawn)).dense
    torch.testing.assert_close(gradient(10, 0), expected, rtol=0, atol=1e-10)
    assert (gradient(10, 0) - gradient(10, 1)).abs().max() > 1e-3
    assert (gradient(10, 0) - whole).abs().max() > 1e-3


def test_clusters_stand_together():
    group = np.array([0, 1, 0, 1, 0, 1])
    cosines = np.where(group[:, None] == group, 0.9, -0.9)
    np.fill_diagonal(cosines, 1.0)
    order = cluster_order(cosines)
    assert sorted(order) == list(range(6))
    assert len(set(group[order[:3]])) == len(set(group[order[3:]])) == 1
