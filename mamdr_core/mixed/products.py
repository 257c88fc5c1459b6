"""Products of users' and items' fixed vectors in directions that all domains share.

The interaction of a user's vector u and an item's vector v in domain i is a bilinear form u' W_i v. W_i has as many
numbers as there are pairs of entries, too many for a small domain. With W_i = sum over r of w_ir a_r b_r' (a CP
decomposition of the tensor of all W_i, Kolda and Bader 2009, section 3), a domain has R parameters, the weights of
products

    p_r(x) = (a_r . u) (b_r . v),  r = 1, ..., R.

This module learns the directions by a trilinear model of the largest domains; `DomainWeights` learns the weights.

Shape suffixes: N rows of the sample, H of them held out, S domains, U and V entries of the vectors, R products, B rows
of a batch.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.optimizers import AdamMoments, adam_change
from mamdr_core.parallel.collective import Collective
from mamdr_core.runtime.heartbeat import beat

logger = logging.getLogger(__name__)

MOST_ROWS, MOST_DOMAINS, ROWS_PER_DOMAIN = 300_000, 2_000, 2_000
"""Largest numbers of the sample's rows, of its domains, and of rows of one domain."""
HELD_OUT = 5
"""One in this number of rows is held out, for early stopping and to decide whether learned directions are used."""
EPOCHS, PATIENCE = 20, 3
LR = 0.01
PRECISION = 50.0
"""Precision of the Gaussian prior of the trilinear model's weights, for standardised vectors."""
LEAST_BATCH, MOST_BATCH, STEPS = 64, 2048, 100
"""Smallest and largest batch size, and the number of steps of an epoch if the size is between them."""
_LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Projection:
    """Projects vectors on R directions: (v - shift) @ directions.

    Attributes:
        shift_D: offset of vectors of width D.
        directions_DR: the directions.
    """

    shift_D: Tensor
    directions_DR: Tensor

    @classmethod
    def plain(cls, width: int, factors: int) -> "Projection":
        """The initial projection: the entries of the vectors if there are R, else random directions.

        Users and items with vectors of one width have the same directions, in case the vectors share a space.
        """
        if width == factors:
            return cls(torch.zeros(width), torch.eye(width))
        drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return cls(torch.zeros(width), torch.linalg.qr(drawn).Q[:, :factors].float())

    def __call__(self, vectors_MD: Tensor) -> Tensor:
        """Projected vectors, [M, R]."""
        return (vectors_MD - self.shift_D) @ self.directions_DR


@dataclass(frozen=True)
class Sample:
    """Rows sorted by domain.

    Attributes:
        users_NU, items_NV: fixed vectors.
        domain_N: number of each row's domain in the sample.
        labels_N: 0. or 1.
    """

    users_NU: Tensor
    items_NV: Tensor
    domain_N: Tensor
    labels_N: Tensor


def sampled_rows(columns: Columns, collective: Collective) -> tuple[Tensor, Tensor]:
    """This rank's rows in the sample, evenly spaced rows of the largest domains of all ranks; a collective call.

    Returns:
        Positions of the rows, and the number of each row's domain in the sample.
    """
    counts_n = columns.counts
    limited_n = collective.all_reduce(counts_n.double()).clamp_max(ROWS_PER_DOMAIN)
    largest = limited_n.sort(descending=True, stable=True).indices[:MOST_DOMAINS]
    chosen = largest[limited_n[largest].cumsum(0) <= MOST_ROWS].sort().values
    rows, numbers = [torch.zeros(0, dtype=torch.long)], [torch.zeros(0, dtype=torch.long)]
    for number in (counts_n[chosen] > 0).nonzero().squeeze(1).tolist():
        domain = int(chosen[number])
        count = int(counts_n[domain])
        sampled = min(count, ROWS_PER_DOMAIN)
        rows.append(columns.offsets[domain] + torch.arange(sampled) * count // sampled)
        numbers.append(torch.full((sampled,), number))
    return torch.cat(rows), torch.cat(numbers)


def learn_products(
    own: Sample, start: tuple[Projection, Projection], collective: Collective
) -> tuple[Projection, Projection]:
    """Learn directions a_r and b_r from the sampled rows of all ranks; a collective call with one result for all.

    Args:
        own: this rank's rows of the sample.
        start: initial projections of users' and of items' vectors.
        collective: the ranks.

    Returns:
        Projections of users' and of items' vectors.
    """
    sample = _gather(own, collective)
    moments = [_moments(vectors) for vectors in (sample.users_NU, sample.items_NV)]
    standard = replace(
        sample,
        users_NU=(sample.users_NU - moments[0][0]) * moments[0][1],
        items_NV=(sample.items_NV - moments[1][0]) * moments[1][1],
    )
    directions = _learn(standard, [each.directions_DR for each in start], collective.rank == 0)
    users, items = (
        # Results may differ in the last bit between processors.
        Projection(collective.broadcast(mean_D), collective.broadcast(scale_D[:, None] * own_DR))
        for own_DR, (mean_D, scale_D) in zip(directions, moments, strict=True)
    )
    return users, items


def _gather(own: Sample, collective: Collective) -> Sample:
    """The rows of all ranks, in an order that does not depend on the placement of domains."""
    parts = [own.users_NU, own.items_NV, own.domain_N[:, None].float(), own.labels_N[:, None]]
    gathered = collective.all_gather(torch.cat(parts, 1))
    gathered = gathered[gathered[:, -2].sort(stable=True).indices]
    users_NU, items_NV, domain_N1, labels_N1 = gathered.split([part.shape[1] for part in parts], 1)
    return Sample(users_NU, items_NV, domain_N1.squeeze(1).long(), labels_N1.squeeze(1))


def _moments(vectors_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Means, and inverses of standard deviations, or 0 for constant entries; 0 and 1 if there are no rows."""
    if not len(vectors_ND):
        return torch.zeros(vectors_ND.shape[1]), torch.ones(vectors_ND.shape[1])
    mean_D, deviation_D = vectors_ND.double().mean(0), vectors_ND.double().std(0, correction=0)
    varies_D = deviation_D > _LEAST_DEVIATION * mean_D.abs().clamp_min(1)
    return mean_D.float(), torch.where(varies_D, 1 / deviation_D.clamp_min(1e-30), 0).float()


def _learn(sample: Sample, start: Sequence[Tensor], logs: bool) -> Sequence[Tensor]:
    """The directions that the trilinear model learns, if they lower its held-out logloss by two standard errors."""
    if len(sample.labels_N) < 2 * HELD_OUT:
        return start
    plain_H, _ = _train(sample, start, learns_directions=False)
    learned_H, directions = _train(sample, start, learns_directions=True)
    gain_H = plain_H - learned_H
    is_better = float(gain_H.mean()) > 2 * float(gain_H.std()) / len(gain_H) ** 0.5
    if logs:
        logger.info(
            "directions of %d products from %d rows of %d domains: held-out logloss %.4f learned, %.4f plain: using %s",
            start[0].shape[1], len(sample.labels_N), int(sample.domain_N.max()) + 1,
            float(learned_H.mean()), float(plain_H.mean()), "learned" if is_better else "plain",
        )  # fmt: skip
    return directions if is_better else start


@torch.enable_grad()
def _train(sample: Sample, start: Sequence[Tensor], learns_directions: bool) -> tuple[Tensor, Sequence[Tensor]]:
    """Train the trilinear model by Adam with early stopping.

    The logit is b_i + l_i . [u, v] + sum over r of w_ir (a_r . u) (b_r . v), with a Gaussian prior of l_i and w_i.

    Args:
        sample: rows with standardised vectors.
        start: directions [U, R] and [V, R].
        learns_directions: whether the directions are trained too.

    Returns:
        The losses of held-out rows [H] in the best epoch, and the directions after it.
    """
    domains = int(sample.domain_N.max()) + 1
    users_UR, items_VR = (each.clone().requires_grad_(learns_directions) for each in start)
    weights_SR = torch.zeros(domains, users_UR.shape[1], requires_grad=True)
    linear_SL = torch.zeros(domains, len(users_UR) + len(items_VR), requires_grad=True)
    clicks_S = torch.bincount(sample.domain_N, sample.labels_N, minlength=domains)
    rows_S = torch.bincount(sample.domain_N, minlength=domains)
    bias_S = ((clicks_S + 0.5) / (rows_S + 1)).logit().float().requires_grad_()

    def logits(rows_B: Tensor) -> Tensor:
        user_BU, item_BV, domain_B = sample.users_NU[rows_B], sample.items_NV[rows_B], sample.domain_N[rows_B]
        products_BR = (user_BU @ users_UR) * (item_BV @ items_VR)
        linear_B = (torch.cat([user_BU, item_BV], 1) * linear_SL[domain_B]).sum(1)
        return bias_S[domain_B] + linear_B + (products_BR * weights_SR[domain_B]).sum(1)

    @torch.no_grad()
    def held_out_losses() -> Tensor:
        logits_H = torch.cat([logits(rows_B) for rows_B in held_out.split(1 << 16)])
        return binary_cross_entropy_with_logits(logits_H, sample.labels_N[held_out], reduction="none").double()

    every_N = torch.arange(len(sample.labels_N))
    held_out, train = every_N[every_N % HELD_OUT == 0], every_N[every_N % HELD_OUT != 0]
    trained = [each for each in (users_UR, items_VR, weights_SR, linear_SL, bias_S) if each.requires_grad]
    moments = [AdamMoments.zeros_like(each) for each in trained]
    generator = torch.Generator().manual_seed(0)
    batch = min(max(len(train) // STEPS, LEAST_BATCH), MOST_BATCH)
    best_H, best, best_epoch, step = held_out_losses(), list(start), 0, 0
    for epoch in range(1, EPOCHS + 1):
        for rows_B in train[torch.randperm(len(train), generator=generator)].split(batch):
            step += 1
            squares = weights_SR.square().sum() + linear_SL.square().sum()
            loss = binary_cross_entropy_with_logits(logits(rows_B), sample.labels_N[rows_B])
            gradients = torch.autograd.grad(loss + PRECISION / 2 / len(train) * squares, trained)
            with torch.no_grad():
                for each, gradient, own in zip(trained, gradients, moments, strict=True):
                    each -= adam_change(gradient, own.first, own.second, step, LR)
        beat()
        if (found_H := held_out_losses()).mean() < best_H.mean():
            best_H, best, best_epoch = found_H, [users_UR.detach().clone(), items_VR.detach().clone()], epoch
        elif epoch - best_epoch >= PATIENCE:
            break
    return best_H, best
