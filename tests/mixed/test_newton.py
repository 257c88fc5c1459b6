"""Newton's method in batches of domains equals a Newton's method for one domain in float64."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from mamdr_core.mixed.newton import Prior, fit_domains

BOUND = 2e-5
"""Tolerance of weights, variances and logits in float32, relative to the largest value if that is above 1."""
MEAN, TAU = [-0.5, 0.3, 0.0], [0.8, 2.0, 0.5]
SIZES = {"ordinary": 40, "separable": 25, "of one class": 9, "of one row": 1, "of no row": 0}


def prior_of(mean=MEAN, tau=TAU):
    return Prior(torch.tensor(mean), torch.tensor(tau))


def draw_domain(name, scale=1.0):
    """Draw phi, labels and base logits of a domain."""
    rows = SIZES[name]
    random = np.random.default_rng(rows)
    phi_MF = np.concatenate([np.ones((rows, 1)), scale * random.normal(size=(rows, 2))], 1)
    drawn_M = random.random(rows) < 1 / (1 + np.exp(-phi_MF @ np.array([0.2, 1.0, -0.5])))
    labels_M = {"separable": phi_MF[:, 1] > 0, "of one class": np.ones(rows)}.get(name, drawn_M)
    drawn = (phi_MF, labels_M, random.normal(size=rows))
    return tuple(torch.tensor(np.array(each), dtype=torch.float32) for each in drawn)


def stack(domains, padding=0.0):
    """Pad domains to the longest: phi, labels, base logits, and a mask of real rows."""
    longest = max(len(phi_MF) for phi_MF, _, _ in domains)
    phi_GMF = torch.full((len(domains), longest, 3), padding)
    labels_GM, base_GM = torch.full((len(domains), longest), padding), torch.full((len(domains), longest), padding)
    real_GM = torch.zeros(len(domains), longest)
    for number, (phi_MF, labels_M, base_M) in enumerate(domains):
        rows = len(phi_MF)
        phi_GMF[number, :rows], labels_GM[number, :rows], base_GM[number, :rows] = phi_MF, labels_M, base_M
        real_GM[number, :rows] = 1
    return phi_GMF, labels_GM, base_GM, real_GM


def fit(domains, prior, start=0.0, steps=12, padding=0.0):
    phi_GMF, labels_GM, base_GM, real_GM = stack(domains, padding)
    start_GF = torch.full((len(domains), 3), start)
    return fit_domains(phi_GMF, labels_GM, base_GM, real_GM, prior, start_GF, steps)


def reference(domain, prior, steps=60):
    """Mode and covariance of w by a damped Newton's method for w, float64."""
    phi_MF, labels_M, base_M = (each.double().numpy() for each in domain)
    mean_F, precision_F = prior.mean_F.double().numpy(), 1 / prior.tau_F.double().numpy() ** 2

    def objective(w_F):
        return objective_of(domain, prior, w_F)

    w_F = mean_F.copy()
    for _ in range(steps):
        p_M = 1 / (1 + np.exp(-(base_M + phi_MF @ w_F)))
        hessian_FF = (phi_MF.T * (p_M * (1 - p_M))) @ phi_MF + np.diag(precision_F)
        step_F = np.linalg.solve(hessian_FF, phi_MF.T @ (p_M - labels_M) + (w_F - mean_F) * precision_F)
        share = 1.0
        while objective(w_F - share * step_F) > objective(w_F) + 1e-12:
            share /= 2
        w_F = w_F - share * step_F
    return w_F, np.linalg.inv(hessian_FF)


def objective_of(domain, prior, w_F):
    """Negative log-posterior of w, float64."""
    phi_MF, labels_M, base_M = (each.double().numpy() for each in domain)
    z_M = base_M + phi_MF @ w_F
    white_F = (w_F - prior.mean_F.double().numpy()) / prior.tau_F.double().numpy()
    return (np.logaddexp(0, z_M) - labels_M * z_M).sum() + (white_F**2).sum() / 2


def variances_of(posterior):
    """Posterior variances in the prior's units, [G, F]."""
    return posterior.hessian.posterior()[0]


def covariance_of(posterior):
    """The covariance of a batch of one domain in the prior's units."""
    return torch.eye(posterior.white_GF.shape[1], dtype=torch.float64) - posterior.hessian.posterior()[1]


def assert_near(found, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    atol = BOUND * max(1.0, float(expected.abs().max()) if expected.numel() else 0.0)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=atol)


def test_collinear_entries_with_a_wide_prior_do_not_fail():
    generator = torch.Generator().manual_seed(1)
    one_MF = torch.randn(20_000, 3, generator=generator)
    phi_GMF = torch.cat([one_MF, one_MF[:, :2], one_MF.sum(1, keepdim=True)], 1)[None]
    labels_GM = (torch.rand(1, 20_000, generator=generator) < one_MF.sum(1).sigmoid()).float()
    prior = Prior(torch.zeros(6), torch.full((6,), 100.0))
    posterior = fit_domains(
        phi_GMF, labels_GM, torch.zeros(1, 20_000), torch.ones(1, 20_000), prior, torch.zeros(1, 6), 6
    )
    assert posterior.white_GF.isfinite().all()
    right_GM = one_MF.sum(1)[None]
    assert (posterior.logits_GM - right_GM).abs().mean() < 0.1


def test_mode_and_covariance_equal_a_reference_in_float64():
    """Also for domains that are separable, of one class, of one row, and without rows, all in one padded batch.

    In a separate batch, the Hessians of domains with fewer rows than weights are factored by rows.
    """
    domains, prior = [draw_domain(name) for name in SIZES], prior_of()
    posterior = fit(domains, prior)
    for number, domain in enumerate(domains):
        w_F, covariance_FF = reference(domain, prior)
        assert_near(prior.mean_F + prior.tau_F * posterior.white_GF[number], w_F)
        assert_near(prior.tau_F**2 * variances_of(posterior)[number], covariance_FF.diagonal())
        alone_FF = covariance_of(fit([domain], prior))
        assert_near(prior.tau_F[:, None] * alone_FF * prior.tau_F, covariance_FF)
        phi_MF = domain[0].double().numpy()
        assert_near(posterior.logits_GM[number, : len(phi_MF)], phi_MF @ w_F)
    assert posterior.white_GF[list(SIZES).index("separable")].abs().max() > 1  # far from the prior's mean, and finite


@pytest.mark.parametrize("name", ["ordinary", "of one row"])
def test_the_leverage_of_a_row_is_its_posterior_variance(name):
    domain, prior = draw_domain(name), prior_of()
    covariance_FF = reference(domain, prior)[1]
    phi_MF = domain[0].double().numpy()
    found_GM = fit([domain], prior).hessian.leverages()
    assert_near(found_GM[0], ((phi_MF @ covariance_FF) * phi_MF).sum(1))


@pytest.mark.parametrize("rows", [20, 40])
def test_collinear_entries_with_a_wide_prior_are_fitted_by_rows_and_by_weights(rows):
    """15 of 30 entries almost equal the others; 20 rows are fewer than entries, 40 rows are more."""
    generator = torch.Generator().manual_seed(0)
    half_MF = torch.randn(rows, 15, generator=generator)
    phi_MF = torch.cat([half_MF, half_MF + 0.01 * torch.randn(rows, 15, generator=generator)], 1)
    labels_M = (torch.rand(rows, generator=generator) < half_MF.sum(1).sigmoid()).float()
    prior = Prior(torch.zeros(30), torch.full((30,), 10.0))
    ones_GM, zeros_GM = torch.ones(1, rows), torch.zeros(1, rows)
    posterior = fit_domains(phi_MF[None], labels_M[None], zeros_GM, ones_GM, prior, torch.zeros(1, 30), 20)
    w_F, covariance_FF = reference((phi_MF, labels_M, torch.zeros(rows)), prior)
    phi = phi_MF.double().numpy()
    torch.testing.assert_close(posterior.logits_GM[0].double(), torch.tensor(phi @ w_F), rtol=0, atol=2e-3)
    variances_F = prior.tau_F.double() ** 2 * variances_of(posterior)[0].double()
    torch.testing.assert_close(variances_F, torch.tensor(covariance_FF.diagonal().copy()), rtol=1e-2, atol=0)


def test_the_reduction_of_the_covariance_is_summed_over_domains():
    """With Hessians factored by weights, and by rows for domains of one row."""
    prior = prior_of()
    for domains in ([draw_domain("ordinary"), draw_domain("separable")], [draw_domain("of one row")] * 2):
        total_FF = sum(fit([each], prior).hessian.posterior()[1] for each in domains)
        assert_near(fit(domains, prior).hessian.posterior()[1], total_FF)


def test_values_of_padding_have_no_effect():
    domains, prior = [draw_domain(name) for name in ("of one row", "ordinary", "of no row")], prior_of()
    together, odd = fit(domains, prior), fit(domains, prior, padding=100.0)
    assert torch.equal(together.white_GF, odd.white_GF)
    assert torch.equal(variances_of(together), variances_of(odd))
    for number, domain in enumerate(domains):
        alone = fit([domain], prior)
        assert_near(together.white_GF[number], alone.white_GF[0])
        assert_near(variances_of(together)[number], variances_of(alone)[0])


@pytest.mark.parametrize("start", [-12.0, 12.0])
def test_a_step_that_would_increase_the_objective_is_halved(start):
    """Far from the mode the curvature vanishes, and a full Newton step goes beyond the mode."""
    domain, prior = draw_domain("ordinary", scale=3.0), prior_of(tau=[3.0, 3.0, 3.0])
    mean_F, tau_F = prior.mean_F.double().numpy(), prior.tau_F.double().numpy()
    objectives = []
    for steps in range(12):
        white_F = fit([domain], prior, start, steps).white_GF[0]
        objectives.append(objective_of(domain, prior, mean_F + tau_F * white_F.double().numpy()))
    for before, after in pairwise(objectives):
        assert after <= before + 2e-5 * (1 + before)
    w_F = reference(domain, prior)[0]
    assert objectives[-1] == pytest.approx(objective_of(domain, prior, w_F), rel=1e-5)
    assert objective_of(domain, prior, mean_F + tau_F * full_step(domain, prior, start)) > 2 * objectives[0]


def full_step(domain, prior, start):
    """The point after an undamped Newton step, in the prior's units, float64."""
    phi_MF, labels_M, base_M = (each.double().numpy() for each in domain)
    white_MF = phi_MF * prior.tau_F.double().numpy()
    at_F = np.full(3, start)
    p_M = 1 / (1 + np.exp(-(base_M + phi_MF @ prior.mean_F.double().numpy() + white_MF @ at_F)))
    hessian_FF = np.eye(3) + (white_MF.T * (p_M * (1 - p_M))) @ white_MF
    return at_F - np.linalg.solve(hessian_FF, white_MF.T @ (p_M - labels_M) + at_F)


@pytest.mark.parametrize("tau", [0.0, 1e-3])
def test_a_prior_without_variance_determines_the_weights(tau):
    domains, prior = [draw_domain(name) for name in SIZES], prior_of(tau=[tau] * 3)
    posterior = fit(domains, prior)
    weights_GF = prior.mean_F + prior.tau_F * posterior.white_GF
    assert (weights_GF - prior.mean_F).abs().max() <= 25 * tau**2  # the gradient of at most 40 rows, times tau^2
    torch.testing.assert_close(variances_of(posterior), torch.ones(len(domains), 3), rtol=0, atol=40 * tau**2)


def test_with_zero_steps_the_start_is_the_mode():
    domain, prior = draw_domain("ordinary"), prior_of()
    fitted = fit([domain], prior)
    phi_GMF, labels_GM, base_GM, real_GM = stack([domain])
    again = fit_domains(phi_GMF, labels_GM, base_GM, real_GM, prior, fitted.white_GF, 0)
    assert torch.equal(again.white_GF, fitted.white_GF)
    torch.testing.assert_close(variances_of(again), variances_of(fitted), rtol=0, atol=BOUND)


def test_a_weight_of_two_equals_two_rows_and_a_weight_of_zero_none():
    phi_MF, labels_M, base_M = draw_domain("ordinary")
    twice = tuple(torch.cat([each[:30], each[:10]]) for each in (phi_MF, labels_M, base_M))
    weights_M = torch.tensor([2.0] * 10 + [1.0] * 20 + [0.0] * 10)
    expected = fit([twice], prior_of())
    found = fit_domains(phi_MF[None], labels_M[None], base_M[None], weights_M[None], prior_of(), torch.zeros(1, 3), 12)
    torch.testing.assert_close(found.white_GF, expected.white_GF, rtol=0, atol=BOUND)
    torch.testing.assert_close(found.hessian.posterior()[0], expected.hessian.posterior()[0], rtol=0, atol=BOUND)
