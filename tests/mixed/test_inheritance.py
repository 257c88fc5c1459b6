"""Mixed models that start from a parent's, and refits of some domains."""

import pytest
import torch

from tests.mixed.drawn_rows import draw_columns, fitted, make_model

COUNTS = [400, 300, 200, 0, 500]
MEAN, TAU = (0.2, 0.8), (0.5, 0.4)


@pytest.fixture(scope="module")
def days():
    """Rows of two days from one distribution, and of both; the fourth domain has rows only on the second day."""
    both, _ = draw_columns([800, 600, 400, 300, 1000], MEAN, TAU, user=0.5, seed=5)
    rows = torch.arange(len(both))
    within = rows - both.offsets[both.ids["domain"].long() - 1]
    first = within < torch.tensor(COUNTS)[both.ids["domain"].long() - 1]
    return both.take(rows[first]), both.take(rows[~first]), both


def test_em_from_a_parents_values_converges_sooner_to_the_same_model(days):
    first, _, both = days
    exact = {"tolerance": 1e-3, "sweeps": 100}
    parent, cold = fitted(first, **exact), make_model(both, **exact)
    cold_sweeps = cold.fit(both)
    warm = make_model(both, **exact)
    warm.inherit(parent.state_dict())
    assert warm.fit(both) <= cold_sweeps
    assert torch.allclose(warm.predict(both), cold.predict(both), atol=0.05)


def test_a_day_under_the_parents_posterior_is_close_to_a_fit_of_all_days(days):
    first, second, both = days
    parent, whole = fitted(first), fitted(both)
    child = make_model(second, prior="parent")
    child.inherit(parent.state_dict())
    child.fit(second)
    alone = fitted(second)
    gaps = {name: float((model.predict(both) - whole.predict(both)).abs().mean())
            for name, model in {"child": child, "first day": parent, "second day": alone}.items()}  # fmt: skip
    assert gaps["child"] < 0.15
    assert gaps["child"] < 0.9 * min(gaps["first day"], gaps["second day"])
    assert (child.weights.variances_DF[:3] < parent.weights.variances_DF[:3]).all()
    # The new domain has the parent's prior, whose variances are unchanged.
    assert child.weights.domains_D.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(child.weights.prior.tau_F, parent.weights.prior.tau_F)


def test_a_prior_is_learned_after_a_parent_whose_prior_was_a_posterior(days):
    first, second, both = days
    parent = make_model(second, prior="parent")
    parent.inherit(fitted(first).state_dict())
    parent.fit(second)
    child = make_model(both)
    child.inherit(parent.state_dict())
    child.fit(both)
    assert child.weights.own_prior_DF is None
    assert torch.allclose(child.weights.prior.tau_F, fitted(both).weights.prior.tau_F, rtol=0.2)


def test_domains_without_rows_keep_the_parents_weights(days):
    first, _, _ = days
    parent = fitted(first)
    some = first.take(torch.arange(400, 700))  # of the second domain
    child = make_model(first)
    child.inherit(parent.state_dict())
    child.fit(some)
    # w_i is converted to the units of the new rows, so logits of the old rows are unchanged.
    kept = first.take(torch.arange(400))
    assert torch.allclose(child.weights.predict(kept), parent.weights.predict(kept), atol=1e-5)
    assert not torch.equal(child.weights.weights_DF[1], parent.weights.weights_DF[1])
    pairs = next(effect for effect in child.effects if effect.name == "user_in_domain")
    before = next(effect for effect in parent.effects if effect.name == "user_in_domain")
    held, held_before = (
        torch.isin(effect.keys_K // effect.size - 1, torch.tensor([0, 2, 4])) for effect in (pairs, before)
    )
    assert torch.equal(pairs.values_K[held], before.values_K[held_before])
    assert torch.equal(pairs.variances_K[held], before.variances_K[held_before])


def test_a_refit_of_one_domain_changes_no_other_parameter(days):
    first, _, both = days
    parent = fitted(first)
    new_rows = both.take(torch.arange(int(both.offsets[3]), int(both.offsets[4])))
    child = make_model(both)
    child.inherit(parent.state_dict())
    child.refit(new_rows)
    index = {domain: number for number, domain in enumerate(child.weights.domains_D.tolist())}
    for number, domain in enumerate(parent.weights.domains_D.tolist()):
        assert torch.equal(child.weights.weights_DF[index[domain]], parent.weights.weights_DF[number])
    assert not torch.allclose(child.weights.weights_DF[index[3]], parent.weights.prior.mean_F, atol=0.05)
    for effect, before in zip(child.effects, parent.effects, strict=True):
        of_others = ~torch.isin(effect.keys_K // effect.size - 1, torch.tensor([3]))
        values_K = effect.values_K[of_others] if effect.name == "user_in_domain" else effect.values_K
        assert torch.equal(values_K, before.values_K)
        assert effect.variance == before.variance


@pytest.mark.parametrize("effects", [[], ["user", "item"], ["user", "item", "user_in_domain"]])
def test_a_refitted_domain_is_at_the_mode_for_any_effects(effects):
    """For a new domain with another CTR, the gradient of its log-posterior with respect to its bias is 0."""
    columns, _ = draw_columns([300] * 8 + [3000], [0.0, 0.5], [0.3, 0.3], seed=3)
    rows = columns.take(torch.arange(2400, 5400))
    rows.labels.zero_()
    rows.labels[::100] = 1
    parent = fitted(columns.take(torch.arange(2400)), effects=effects)
    child = make_model(columns, effects=effects)
    child.inherit(parent.state_dict())
    child.refit(rows)
    excess = float(child.predict(rows).sigmoid().sum()) - 30
    prior, bias = child.weights.prior, child.weights.weights_DF[-1, 0]
    assert bias < prior.mean_F[0] - 1
    assert excess == pytest.approx(float((prior.mean_F[0] - bias) / prior.tau_F[0] ** 2), abs=2)


def test_effects_of_ids_that_the_parent_did_not_have_start_at_zero(days):
    first, _, _ = days
    parent = fitted(first)
    grown = make_model(first, sizes={"user": 300, "item": 150, "domain": 5})
    grown.inherit(parent.state_dict())
    users = grown.effects[0]
    assert torch.equal(users.values_K[:251], parent.effects[0].values_K)
    assert torch.equal(users.values_K[251:], torch.zeros(50))
    assert torch.allclose(users.variances_K[251:], torch.tensor(users.variance, dtype=torch.float32))
    assert torch.allclose(grown.predict(first), parent.predict(first), atol=1e-5)
