"""How theta_S learns from several domains' gradients in a step: weighted loss, PCGrad, MAML and MLDG.

A round's rows are dealt to inner steps so that every step meets many domains (`deal_steps`); a step combines their
gradients and hands the result to the inner optimizer. On several ranks each walks over its own domains, and the ends
are averaged as in joint training.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.optimizers import inner_step
from mamdr_core.engine.parameters import Change, Theta
from mamdr_core.engine.stacked_changes import ChangeSum, StackedChanges
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.shared import PLAIN

Direction = Callable[[Learner, Theta, Sequence[Visit], Sequence[int]], Change]
"""What the inner optimizer takes for the gradient, from the step's visits (a domain each) and a seed of each."""

PART_ROWS = 16
"""A domain takes part in fewer steps rather than with fewer rows."""
PROBE = 0.01
"""Distance of the two points whose gradients' difference is a Hessian-vector product (Liu et al. 2019, eq. 8)."""


def weigh_losses(learner: Learner, round_: Round) -> None:
    """Weighted loss: sum_i exp(-s_i) L_i + s_i / 2, with s_i = log sigma_i^2 learned beside theta_S.

    Kendall et al. 2018 (the paper's [16]), eq. 10 with classification's factor; the mean over the step's domains.
    """
    _walk(learner, round_, _weighted)


def project_conflicts(learner: Learner, round_: Round) -> None:
    """PCGrad (Yu et al. 2020, Alg. 1; Eq. 10): each gradient loses what opposes the others', then they are summed."""
    _walk(learner, round_, _projected)


def adapt_quickly(learner: Learner, round_: Round) -> None:
    """MAML (Finn et al. 2017, Alg. 1), second order: the query rows' loss after a step on the support rows."""
    _walk(learner, round_, _adapted)


def generalize(learner: Learner, round_: Round) -> None:
    """MLDG (Li et al. 2018, Alg. 1), second order: a step on some domains must help the others too."""
    _walk(learner, round_, _generalizing)


def _walk(learner: Learner, round_: Round, direction: Direction) -> None:
    """One trajectory of theta_S whose every step moves along `direction`."""
    steps = deal_steps(learner.train, round_.slices, learner.engine.batch_size)
    learner.reach(visit for visits in steps for visit in visits)
    state = learner.carried_state() or learner.fresh_state()
    moved = learner.no_change()
    rows = 0
    for number, visits in enumerate(steps):
        seeds = [learner.round_seed(round_, learner.rank, number, place) for place in range(len(visits))]
        gradient = direction(learner, Theta(learner.shared, moved), visits, seeds)
        inner_step(moved, gradient, state, learner.alpha)
        rows += learner.count(visits)
    PLAIN.step(learner.shared, learner.average(moved, float(rows)))


def deal_steps(train: Columns, slices: Mapping[int, Tensor], batch_size: int) -> list[list[Visit]]:
    """A round's rows in steps of about `batch_size` rows, each of as many domains as there are.

    A domain of m rows takes part in min(steps, m / PART_ROWS) steps, evenly spread, with equal parts.

    Args:
        train: where the rows lie.
        slices: by domain, in the round's random order, its rows.
        batch_size: rows of a step, about.

    Returns:
        By step, a visit of each of its domains; steps without rows are left out.
    """
    count = max(1, round(sum(map(len, slices.values())) / batch_size))
    steps: list[list[Visit]] = [[] for _ in range(count)]
    for place, rows in enumerate(slices.values()):
        parts = min(count, max(1, len(rows) // PART_ROWS))
        phase = (place + 0.5) / len(slices)
        for part, own in enumerate(rows.tensor_split(parts)):
            steps[int((part + phase) * count / parts)].append(Visit(train, own))
    return [visits for visits in steps if visits]


def _gradients(learner: Learner, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> list[Change]:
    return [learner.engine.gradient(theta, visit, seed) for visit, seed in zip(visits, seeds, strict=True)]


def _weighted(learner: Learner, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> Change:
    total = ChangeSum()
    for visit, seed in zip(visits, seeds, strict=True):
        loss, gradient = learner.engine.loss_and_gradient(theta, visit, seed)
        domain = int(visit.ids("domain")[0]) - 1
        weight = math.exp(-float(learner.uncertainty.values_n[domain]))
        if math.isfinite(loss):  # else the engine was told to skip it
            learner.uncertainty.step(domain, 0.5 - weight * loss, learner.alpha)
        total.add(gradient, weight / len(visits))
    return total.total()


def _projected(learner: Learner, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> Change:
    stacked = StackedChanges(_gradients(learner, theta, visits, seeds))
    order = torch.Generator().manual_seed(seeds[0])
    return stacked.combine(projection(stacked.products(), order).sum(0))


def projection(products_MM: Tensor, order: torch.Generator) -> Tensor:
    """PCGrad's projected gradients as combinations of the given ones (Yu et al. 2020, Alg. 1; Eq. 10).

    Args:
        products_MM: inner products <g_i, g_j>.
        order: draws for each i the order of the j.

    Returns:
        [M, M]: row i holds the coefficients of g_1 ... g_M in g_i's projection.
    """
    count = len(products_MM)
    combined_MM = torch.eye(count, dtype=products_MM.dtype, device=products_MM.device)
    for own in range(count):
        for other in torch.randperm(count, generator=order).tolist():
            if other == own:
                continue
            product = combined_MM[own] @ products_MM[:, other]
            if product < 0:
                combined_MM[own, other] -= product / products_MM[other, other]
    return combined_MM


def _adapted(learner: Learner, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> Change:
    alpha = learner.meta_lr
    found = []
    for visit, seed in zip(visits, seeds, strict=True):
        support, query = _halves(visit)
        adapted = _moved(theta, learner.engine.gradient(theta, support, seed), -alpha)
        to_query = learner.engine.gradient(adapted, query, seed)
        found.append(to_query.add(_hessian_product(learner, theta, [support], [seed], to_query), -alpha))
    return _mean(found)


def _halves(visit: Visit) -> tuple[Visit, Visit]:
    """Support and query rows of a visit; of a single row, both are that row."""
    half = len(visit.rows) // 2
    if not half:
        return visit, visit
    return Visit(visit.columns, visit.rows[:half]), Visit(visit.columns, visit.rows[half:])


def _generalizing(learner: Learner, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> Change:
    """Gradient of F(theta) + G(theta - alpha F'(theta)), F over half of the domains, G over the others."""
    half = -(-len(visits) // 2)
    known, unseen = visits[:half], visits[half:]
    to_known = _mean(_gradients(learner, theta, known, seeds[:half]))
    if not unseen:
        return to_known
    to_unseen = _mean(_gradients(learner, _moved(theta, to_known, -learner.meta_lr), unseen, seeds[half:]))
    bent = _hessian_product(learner, theta, known, seeds[:half], to_unseen)
    return to_known.add(to_unseen, 1.0).add(bent, -learner.meta_lr)


def _hessian_product(
    learner: Learner, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int], along: Change
) -> Change:
    """H v of the mean of the visits' losses by a central difference of gradients, exact but for O(PROBE^2)."""
    length = along.norm()
    if not length:
        return along
    ahead, behind = (
        _mean(_gradients(learner, _moved(theta, along, sign * PROBE / length), visits, seeds)) for sign in (1, -1)
    )
    difference = ahead.add(behind, -1.0)
    return Change(torch.zeros_like(along.dense)).add(difference, length / (2 * PROBE))


def _moved(theta: Theta, change: Change, scale: float) -> Theta:
    specific = theta.specific or Change(torch.zeros_like(theta.shared.dense))
    return Theta(theta.shared, specific.add(change, scale))


def _mean(changes: Sequence[Change]) -> Change:
    total = ChangeSum()
    for change in changes:
        total.add(change, 1 / len(changes))
    return total.total()
