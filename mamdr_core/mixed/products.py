"""Products of users' and items' fixed vectors in directions that all domains share.

What domain i makes of a user's vector u and an item's v is a bilinear form u' W_i v. W_i has as many numbers as there
are pairs of entries, far more than a small domain can learn. With W_i = sum over r of w_ir a_r b_r' (a CP decomposition
of the tensor of all W_i, Kolda and Bader 2009, section 3) the domain has R numbers of its own, the weights of products

    p_r(x) = (a_r . u) (b_r . v),  r = 1, ..., R.

The directions are learned here, by a trilinear model of the largest domains; `DomainWeights` learns the weights.

Shape suffixes: N rows of the sample, S domains of it, U and V entries of the vectors, R products, B rows of a batch.
"""

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.engine.columns import Columns
from mamdr_core.heartbeat import beat
from mamdr_core.parallel.collective import Collective

logger = logging.getLogger(__name__)

MOST_ROWS, MOST_DOMAINS, ROWS_A_DOMAIN = 300_000, 2_000, 2_000
"""Rows of the sample, its domains, and rows of one domain, at most."""
HELD_OUT = 5
"""One row of so many is held out: it decides when to stop."""
EPOCHS, PATIENCE = 20, 3
LR = 0.01
PRECISION = 50.0
"""Of the Gaussian prior of the trilinear model's weights; they are of standardised vectors."""
LEAST_BATCH, MOST_BATCH, STEPS = 64, 2048, 100
"""Bounds of the batch, and steps of an epoch that it aims at."""
_LEAST_DEVIATION = 1e-6


def sampled_rows(columns: Columns, collective: Collective) -> Tensor:
    """Positions of this rank's rows in the sample: of the largest domains of all ranks, spread over each evenly."""
    counts_n = columns.counts
    limited_n = collective.all_reduce(counts_n.double()).clamp_max(ROWS_A_DOMAIN)
    largest = limited_n.sort(descending=True, stable=True).indices[:MOST_DOMAINS]
    chosen = largest[limited_n[largest].cumsum(0) <= MOST_ROWS].sort().values
    places = [torch.zeros(0, dtype=torch.long)]
    for domain in chosen[counts_n[chosen] > 0].tolist():
        rows = int(counts_n[domain])
        taken = min(rows, ROWS_A_DOMAIN)
        places.append(columns.offsets[domain] + torch.arange(taken) * rows // taken)
    return torch.cat(places)


@dataclass(frozen=True)
class Sample:
    """Rows sorted by domain.

    Attributes:
        users_NU, items_NV: fixed vectors.
        domain_N: what the rows' domains are called; any numbers.
        labels_N: 0. or 1.
    """

    users_NU: Tensor
    items_NV: Tensor
    domain_N: Tensor
    labels_N: Tensor


def learn_products(own: Sample, factors: int, collective: Collective) -> tuple[Tensor, Tensor]:
    """Directions a_r and b_r from the sampled rows of all ranks; every rank takes part and gets the same.

    Args:
        own: this rank's rows of the sample.
        factors: R.
        collective: the ranks.

    Returns:
        Maps [U + 1, R] and [V + 1, R] of vectors to a_r . u and b_r . v, the last row added: see `project`.
    """
    sample = _gather(own, collective)
    users, items = (_shift_and_scale(vectors) for vectors in (sample.users_NU, sample.items_NV))
    standard = replace(
        sample,
        users_NU=(sample.users_NU - users[0]) * users[1],
        items_NV=(sample.items_NV - items[0]) * items[1],
        domain_N=sample.domain_N.unique(return_inverse=True)[1],
    )
    start = [_directions(vectors.shape[1], factors) for vectors in (sample.users_NU, sample.items_NV)]
    users_UR, items_VR = _learn(standard, *start)
    return _unstandardised(users_UR, *users), _unstandardised(items_VR, *items)


def _gather(own: Sample, collective: Collective) -> Sample:
    """All ranks' rows in an order that does not depend on who has which domain."""
    parts = [own.users_NU, own.items_NV, own.domain_N[:, None].float(), own.labels_N[:, None]]
    gathered = collective.all_gather(torch.cat(parts, 1))
    gathered = gathered[gathered[:, -2].sort(stable=True).indices]
    users_NU, items_NV, domain_N1, labels_N1 = gathered.split([part.shape[1] for part in parts], 1)
    return Sample(users_NU, items_NV, domain_N1.squeeze(1), labels_N1.squeeze(1))


def _unstandardised(directions_DR: Tensor, shift_D: Tensor, scale_D: Tensor) -> Tensor:
    """The map of plain vectors that does what the directions do to standardised ones, [D + 1, R]."""
    return torch.cat([scale_D[:, None] * directions_DR, -(shift_D * scale_D)[None] @ directions_DR])


def project(vectors_MD: Tensor, map_DR: Tensor) -> Tensor:
    """Vectors along R directions, [M, R]; the map's last row is added."""
    return vectors_MD @ map_DR[:-1] + map_DR[-1]


def plain_map(width: int, factors: int) -> Tensor:
    """The map of the directions that learning starts at, [width + 1, R]."""
    return torch.cat([_directions(width, factors), torch.zeros(1, factors)])


def _directions(width: int, factors: int) -> Tensor:
    """Orthonormal directions [width, R]: the entries themselves where there are as many, else random ones.

    Those of users and items of one space are the same, so that products of what agrees are where learning starts.
    """
    if width == factors:
        return torch.eye(width)
    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions: Tensor = torch.linalg.qr(drawn).Q[:, :factors].float()
    return directions


def _shift_and_scale(vectors_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Means, and 1 over standard deviations, or 0 for an entry that never varies."""
    if not len(vectors_ND):
        return torch.zeros(vectors_ND.shape[1]), torch.ones(vectors_ND.shape[1])
    deviation = vectors_ND.std(0, correction=0)
    return vectors_ND.mean(0), torch.where(deviation > _LEAST_DEVIATION, 1 / deviation.clamp_min(_LEAST_DEVIATION), 0)


@torch.enable_grad()
def _learn(sample: Sample, users_UR: Tensor, items_VR: Tensor) -> tuple[Tensor, Tensor]:
    """Directions of the trilinear model with the best held-out logloss, by Adam; those given if none are better.

    Its logit is b_i + l_i . [u, v] + sum over r of w_ir (a_r . u) (b_r . v), with a Gaussian prior of l_i and w_i.
    """
    domains = int(sample.domain_N.max()) + 1 if len(sample.domain_N) else 0
    users_UR, items_VR = (each.clone().requires_grad_() for each in (users_UR, items_VR))
    weights_SR = torch.zeros(domains, users_UR.shape[1], requires_grad=True)
    linear_SL = torch.zeros(domains, len(users_UR) + len(items_VR), requires_grad=True)
    clicks_S, rows_S = (
        torch.bincount(sample.domain_N, weights, minlength=domains) for weights in (sample.labels_N, None)
    )
    bias_S = ((clicks_S + 0.5) / (rows_S + 1)).logit().float().requires_grad_()

    def logits(rows_B: Tensor) -> Tensor:
        user_BU, item_BV, domain_B = sample.users_NU[rows_B], sample.items_NV[rows_B], sample.domain_N[rows_B]
        products_BR = (user_BU @ users_UR) * (item_BV @ items_VR)
        linear_B = (torch.cat([user_BU, item_BV], 1) * linear_SL[domain_B]).sum(1)
        return bias_S[domain_B] + linear_B + (products_BR * weights_SR[domain_B]).sum(1)

    @torch.no_grad()
    def held_out_loss() -> float:
        parts = [(logits(rows_B), sample.labels_N[rows_B]) for rows_B in held_out.split(1 << 16)]
        logits_N, labels_N = (torch.cat(part) for part in zip(*parts, strict=True))
        return float(binary_cross_entropy_with_logits(logits_N, labels_N))

    every_N = torch.arange(len(sample.labels_N))
    held_out, train = every_N[every_N % HELD_OUT == 0], every_N[every_N % HELD_OUT != 0]
    best = users_UR.detach().clone(), items_VR.detach().clone()
    if not len(train):
        return best
    optimizer = torch.optim.Adam([users_UR, items_VR, weights_SR, linear_SL, bias_S], LR)
    generator = torch.Generator().manual_seed(0)
    batch = min(max(len(train) // STEPS, LEAST_BATCH), MOST_BATCH)
    losses = [held_out_loss()]
    for epoch in range(1, EPOCHS + 1):
        for rows_B in train[torch.randperm(len(train), generator=generator)].split(batch):
            squares = weights_SR.square().sum() + linear_SL.square().sum()
            loss = binary_cross_entropy_with_logits(logits(rows_B), sample.labels_N[rows_B])
            optimizer.zero_grad()
            (loss + PRECISION / 2 / len(train) * squares).backward()
            optimizer.step()
        losses.append(held_out_loss())
        beat()
        if losses[-1] == min(losses):
            best = users_UR.detach().clone(), items_VR.detach().clone()
        elif epoch - losses.index(min(losses)) >= PATIENCE:
            break
    logger.info(
        "directions of %d products by %d rows of %d domains: held-out logloss %.4f, before %.4f",
        users_UR.shape[1], len(every_N), domains, min(losses), losses[0],
    )  # fmt: skip
    return best
