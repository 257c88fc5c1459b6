"""The analysis of DN in section 4.3, Eq. 20 to 23, on a small network."""

from dataclasses import replace
from itertools import permutations

import torch

from mamdr_core.config.engine import InnerSettings, OuterSettings
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Theta
from mamdr_core.engine.stacked_changes import StackedChanges
from mamdr_core.learning.methods import METHODS
from tests.learning.smooth import gradients, loss_at, parameters_of, round_of, smooth_learner

RATE = 3e-3


def agreement(learner):
    """O_C of Eq. 11: the sum of the inner products of all pairs of domains' gradients."""
    rows = round_of(learner).slices.values()
    theta = Theta(learner.shared)
    products = StackedChanges([learner.engine.gradient(theta, Visit(learner.train, own)) for own in rows]).products()
    return float(products.sum() - products.diagonal().sum())


def sum_of_products(learner, parameters):
    """O_C of Eq. 11 at some parameters, as autograd can differentiate it."""
    rows = round_of(learner).slices.values()
    own = [gradients(loss_at(learner, parameters, r), parameters, create_graph=True) for r in rows]
    return sum(sum((g * h).sum() for g, h in zip(left, right, strict=True)) for left, right in permutations(own, 2))


def after_a_round_of_dn(order, beta=1.0):
    learner = smooth_learner()
    inner, outer = InnerSettings(optimizer="sgd", lr=RATE), OuterSettings(optimizer="sgd", beta=beta)
    learner.settings = replace(learner.settings, inner=inner, outer=outer)
    METHODS["dn"].shared(learner)(round_of(learner, order))
    return learner


def after_a_step_on_the_sum():
    """The first-order approximation of a round of DN: one step along the sum of the gradients at the start."""
    learner = smooth_learner()
    start = parameters_of(learner)
    total = sum(loss_at(learner, start, rows) for rows in round_of(learner).slices.values())
    for part, along in zip(
        [learner.shared.dense, *learner.shared.tables.values()], gradients(total, start), strict=True
    ):
        part -= RATE * along
    return learner


def test_dn_increases_the_agreement_of_gradients_as_in_equation_23():
    """On average over orders DN adds a^2/4 grad O_C to the step along the sum, so O_C gains a^2/4 |grad O_C|^2."""
    learner = smooth_learner()
    start = parameters_of(learner)
    products = sum_of_products(learner, start)
    assert abs(products.item() - agreement(learner)) < 1e-9
    predicted = RATE**2 / 4 * sum(float(along.square().sum()) for along in gradients(products, start))

    orders = list(permutations(range(3)))
    found = [agreement(after_a_round_of_dn(order)) for order in orders]
    gained = sum(found) / len(orders) - agreement(after_a_step_on_the_sum())
    assert gained > 0
    assert abs(gained / predicted - 1) < 0.03


def test_the_mean_result_of_dn_differs_by_the_gradient_of_agreement():
    learner = smooth_learner()
    start = parameters_of(learner)
    products = sum_of_products(learner, start)
    inner_grad = gradients(products, start)[0]
    ends = torch.stack([after_a_round_of_dn(order).shared.dense for order in permutations(range(3))])
    difference = ends.mean(0) - after_a_step_on_the_sum().shared.dense
    bound = float(difference.abs().max()) * 0.02
    torch.testing.assert_close(difference, RATE**2 / 4 * inner_grad, rtol=0.05, atol=bound)
