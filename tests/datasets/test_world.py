"""The synthetic model follows its settings: sizes, CTRs, conflicting tastes, effects, published vectors."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mamdr_core.config.datasets import SyntheticSettings
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


def test_a_row_depends_only_on_its_number_and_the_settings():
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


def test_default_settings_give_an_unchanged_log():
    chosen = settings(vectors=9)
    rows = draw(chosen)
    integers = (rows.user, rows.item, rows.domain, rows.label, rows.time)
    assert [zlib.crc32(column) for column in integers] == [2925394574, 3103490405, 647347382, 189138956, 59948232]
    assert rows.true_probability.sum() == pytest.approx(11543.6152717407, abs=1e-9)
    assert zlib.crc32(published_vectors(chosen, "item", np.arange(800)).tobytes()) == 4251748664


@pytest.mark.parametrize("conflict", [0.0, 0.5])
def test_drift_rotates_tastes_and_keeps_the_agreement_between_domains(conflict):
    users, items = np.arange(20_000) % 2000, np.arange(20_000) * 7 % 800
    world = make_world(settings(conflict=conflict, drift=0.2, days=4))
    scores = np.array([[score(world, users, items, np.full(20_000, d), day) for d in range(6)] for day in range(4)])
    correlation = np.corrcoef(scores.reshape(24, -1)).reshape(4, 6, 4, 6)
    for apart in (1, 2, 3):
        same = [correlation[day, d, day + apart, d] for day in range(4 - apart) for d in range(6)]
        assert np.mean(same) == pytest.approx(0.8**apart, abs=0.1)
    agreement = [correlation[day, :, day][np.triu_indices(6, 1)].mean() for day in range(4)]
    assert agreement == pytest.approx([1 - conflict] * 4, abs=0.2)


def test_labels_and_the_oracle_follow_the_drift():
    chosen = settings(drift=0.3, days=3)
    rows, still = draw(chosen), draw(settings(drift=0.0, days=3))
    assert rows.label.mean() == pytest.approx(rows.true_probability.mean(), abs=0.01)
    day = np.arange(60_000) // 20_000
    moved = [np.corrcoef(rows.true_probability[day == d], still.true_probability[day == d])[0, 1] for d in range(3)]
    assert moved[0] == pytest.approx(1.0)
    assert moved[0] > moved[1] > moved[2]
    assert np.array_equal(rows.user, still.user)
    part = draw_rows(make_world(chosen), np.arange(41_000, 41_050))
    assert np.array_equal(part.true_probability, rows.true_probability[41_000:41_050])


def test_full_drift_with_one_factor_gives_finite_probabilities():
    assert np.isfinite(draw(settings(rows=100, factors=1, drift=1.0)).true_probability).all()


def test_late_domains_come_on_the_second_day_with_all_their_rows():
    chosen = settings(late_domains=3)
    rows = draw(chosen)
    day = rows.time // 86_400_000_000 - np.datetime64("2026-01-01", "D").astype(int)
    by_day = np.stack([np.bincount(rows.domain[day == d], minlength=12) for d in range(3)])
    assert (by_day[0, 9:] == 0).all()
    assert (by_day[1:, 9:] > 0).all()
    assert (by_day[:, :9] > 0).all()
    assert np.array_equal(by_day.sum(0), domain_sizes(chosen))


@pytest.mark.parametrize(
    "wrong",
    [
        {"drift": 1.1},
        {"late_domains": -1},
        {"late_domains": 12},
        {"late_domains": 1, "days": 1},
        {"rank": -1},
        {"rank": 9},
        {"rank": 1, "drift": 0.1},
        {"user_effect": -0.1},
        {"position_effect": -0.1},
    ],
)
def test_invalid_settings_are_rejected(wrong):
    with pytest.raises(ValueError, match=rf"synthetic.{next(iter(wrong))} .* got"):
        settings(**wrong)


def test_tastes_of_a_rank_are_in_one_subspace_on_all_days():
    world = make_world(settings(conflict=1.0, rank=3, drift=0.2))
    for tastes in (world.taste, world.leaning):
        assert np.linalg.norm(tastes, axis=1) == pytest.approx(1.0, abs=1e-6)
        strength = np.linalg.svd(tastes, compute_uv=False)
        assert strength[2] > 1
        assert strength[3] < 1e-5
    both = np.linalg.svd(np.concatenate([world.taste, world.leaning]), compute_uv=False)
    assert both[5] > 0.5, "the two subspaces differ"
    free = make_world(settings(conflict=1.0))
    assert np.linalg.svd(free.taste, compute_uv=False).min() > 0.2


def test_rotation_separates_the_published_vectors_from_the_form_of_the_score():
    users, items = np.arange(20_000) % 2000, np.arange(20_000) * 7 % 800

    def explained(chosen):
        """Share of the score's variance that is linear in elementwise products and item vectors."""
        x, y = published_vectors(chosen, "user", users), published_vectors(chosen, "item", items)
        known = np.concatenate([x * y, y], axis=1)
        scores = score(make_world(chosen), users, items, np.full(20_000, 3))
        rest = scores - known @ np.linalg.lstsq(known, scores, rcond=None)[0]
        return 1 - rest.var() / scores.var()

    plain, rotated = settings(vectors=8, noise=0.0), settings(vectors=8, noise=0.0, rotate=True)
    assert explained(plain) == pytest.approx(1.0, abs=1e-6)
    assert explained(rotated) < 0.7  # the item's part, one half, and little of the other half
    ids = np.arange(800)
    assert np.array_equal(published_vectors(plain, "user", ids), published_vectors(rotated, "user", ids))
    vectors, true = published_vectors(rotated, "item", ids), factors(rotated, "item", ids)
    linear_map = np.linalg.lstsq(vectors, true, rcond=None)[0]
    assert vectors @ linear_map == pytest.approx(true, abs=1e-4)
    assert linear_map @ linear_map.T == pytest.approx(np.eye(8), abs=1e-5)
    assert np.array_equal(published_vectors(rotated, "item", ids[5:6]), vectors[5:6])
    assert np.array_equal(draw(plain).true_probability, draw(rotated).true_probability)


def test_overlap_decides_how_many_users_are_shared():
    def domains_of_a_user(overlap):
        rows = draw(settings(overlap=overlap))
        pairs = np.unique(np.stack([rows.user, rows.domain]), axis=1)
        return pairs.shape[1] / len(np.unique(pairs[0]))

    assert domains_of_a_user(0.0) < 1.5
    assert domains_of_a_user(1.0) > 5


def test_published_vectors_are_factors_with_noise_then_only_noise():
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
