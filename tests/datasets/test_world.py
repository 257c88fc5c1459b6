"""The synthetic world is what its settings say: sizes, CTRs, tastes in conflict, an oracle worth reaching."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mamdr_core.datasets.settings import SyntheticSettings
from mamdr_core.datasets.world import domain_sizes, draw_rows, factors, make_world, published_vectors, score


def settings(**changes):
    return SyntheticSettings(
        **{"rows": 60_000, "domains": 12, "users": 2000, "items": 800, "days": 3, "size_spread": 1.0, **changes}
    )


def draw(chosen):
    world = make_world(chosen)
    return draw_rows(world, np.arange(world.offsets[-1]))


def auc(label, prediction):
    rank = np.empty(len(label))
    rank[np.argsort(prediction)] = np.arange(1, len(label) + 1)
    positives = label.sum()
    return (rank[label == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(label) - positives))


def test_a_row_depends_on_its_number_and_the_settings_alone():
    world = make_world(settings())
    whole, part = draw_rows(world, np.arange(5000)), draw_rows(world, np.arange(4000, 4100))
    for name in ("user", "item", "domain", "label", "time", "true_probability"):
        assert np.array_equal(getattr(whole, name)[4000:4100], getattr(part, name))
    other = draw_rows(make_world(settings(seed=1)), np.arange(5000))
    assert not np.array_equal(whole.user, other.user)


@given(st.integers(1, 5000), st.integers(1, 300), st.floats(0, 3))
def test_domain_sizes_are_at_least_one_and_add_up(rows, domains, spread):
    sizes = domain_sizes(settings(rows=rows, domains=domains, size_spread=spread))
    assert len(sizes) == domains
    assert sizes.min() >= 1
    assert sizes.sum() == max(rows, domains)


def test_domain_sizes_are_heavy_tailed_or_equal():
    sizes = domain_sizes(settings(rows=10**6, domains=1000, size_spread=1.5))
    assert sizes.max() > 20 * np.median(sizes)
    assert np.ptp(domain_sizes(settings(rows=12_000, size_spread=0.0))) <= 1


def test_every_domain_has_its_rows_and_every_day_its_share():
    chosen = settings()
    rows = draw(chosen)
    assert np.array_equal(np.bincount(rows.domain), domain_sizes(chosen))
    days = (rows.time // 86_400_000_000) - (np.datetime64("2026-01-01", "D").astype(int))
    assert np.bincount(days).tolist() == [20_000] * 3


@pytest.mark.parametrize("ctr", [0.047, 0.2, 0.5])
def test_the_mean_ctr_is_near_the_declared_one_and_domains_lie_around_it(ctr):
    rows = draw(settings(ctr=ctr))
    assert rows.label.mean() == pytest.approx(ctr, rel=0.1)
    by_domain = np.bincount(rows.domain, rows.label) / np.bincount(rows.domain)
    assert np.ptp(by_domain) > 0.2 * ctr


def test_labels_follow_their_true_probability():
    rows = draw(settings())
    order = np.argsort(rows.true_probability)
    for part in np.array_split(order, 10):
        expected = rows.true_probability[part].mean()
        assert rows.label[part].mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / len(part)))


@pytest.mark.parametrize("conflict", [0.0, 0.5, 1.0])
def test_the_oracles_auc_leaves_room_on_both_sides(conflict):
    rows = draw(settings(conflict=conflict))
    aucs = [auc(rows.label[rows.domain == d], rows.true_probability[rows.domain == d]) for d in range(12)]
    assert 0.75 < np.mean(aucs) < 0.85


def test_conflict_turns_one_taste_into_independent_and_partly_opposite_ones():
    users, items = np.arange(2000), np.arange(2000) % 800

    def agreement(conflict):
        world = make_world(settings(conflict=conflict))
        scores = np.stack([score(world, users, items, np.full(2000, domain)) for domain in range(12)])
        return np.corrcoef(scores)[np.triu_indices(12, 1)]

    assert agreement(0.0) == pytest.approx(1.0)
    assert 0.3 < agreement(0.5).mean() < 0.7
    assert abs(agreement(1.0).mean()) < 0.15
    assert agreement(1.0).min() < -0.2


def test_overlap_decides_how_many_users_are_shared():
    def domains_of_a_user(overlap):
        rows = draw(settings(overlap=overlap))
        pairs = np.unique(np.stack([rows.user, rows.domain]), axis=1)
        return pairs.shape[1] / len(np.unique(pairs[0]))

    assert domains_of_a_user(0.0) < 1.5
    assert domains_of_a_user(1.0) > 5


def test_published_vectors_are_the_factors_with_noise_then_noise_alone():
    chosen = settings(vectors=12, noise=0.3)
    ids = np.arange(5000)
    vectors = published_vectors(chosen, "user", ids)
    assert vectors.shape == (5000, 12)
    error = vectors[:, :8] - factors(chosen, "user", ids)
    assert error.std() == pytest.approx(0.3, rel=0.05)
    assert vectors[:, 8:].std() == pytest.approx(0.3, rel=0.05)
    assert published_vectors(settings(vectors=3), "user", ids).shape == (5000, 3)


def test_one_user_item_and_domain_are_enough():
    rows = draw(settings(rows=10, users=1, items=1, domains=1, days=1))
    assert set(rows.user) == set(rows.item) == set(rows.domain) == {0}
    assert len(rows.user) == 10


def test_more_domains_than_rows_give_each_one_row():
    assert np.bincount(draw(settings(rows=5, domains=9)).domain).tolist() == [1] * 9
