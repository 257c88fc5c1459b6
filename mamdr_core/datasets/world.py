"""The model behind synthetic logs: domains with sizes, click-through rates and tastes; users and items with factors.

Shapes: D domains, N rows, K factors. Only arrays over domains are stored; the rest is a function of ids and the seed.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mamdr_core.config.datasets import SyntheticSettings
from mamdr_core.datasets.counters import Ids, Reals, Singles, normal, uniform
from mamdr_core.datasets.effects import add_effects, effects_deviation, position_effects
from mamdr_core.datasets.orthonormal import multiply, orthonormal
from mamdr_core.datasets.tastes import mixed_tastes

SCALE = 1.4
"""Standard deviation of the logit within a domain without effects; it gives the true probabilities an AUC near .8."""
CTR_SPREAD = 0.5
"""Standard deviation of the logit of a domain's CTR."""
SMALLEST_POOL = 20
"""Minimum size of the pools of users and items of a domain."""
GUIDES = 8
"""Entries per domain in the index from positions to domains; with 8, one position in 16 needs a binary search."""
DAY = 86_400_000_000
"""Microseconds per day."""


@dataclass(frozen=True)
class Pools:
    """Pools of users (or items) of the domains: `count` ids from `start`, modulo `total`."""

    total: int
    start: Ids
    count: Ids


@dataclass(frozen=True)
class World:
    """The parameters of the model: about 180 bytes per domain, of which the tastes (64 bytes) are per day with drift.

    `taste` and `leaning` are [D, K], or [days * D, K] in the order of days if tastes drift.
    """

    settings: SyntheticSettings
    offsets: Ids
    """[D+1] offsets of the rows of the domains before rows are shuffled."""
    guide: Ids
    """The domain of every `step`-th row before rows are shuffled."""
    step: int
    bias: Reals
    taste: Singles
    leaning: Singles
    users: Pools
    items: Pools


@dataclass(frozen=True)
class LogRows:
    """A block of rows of the log, arrays [N]."""

    user: Ids
    item: Ids
    domain: Ids
    label: NDArray[np.int32]
    time: Ids
    """Microseconds since 1970."""
    true_probability: Reals


def make_world(settings: SyntheticSettings) -> World:
    """Draw the parameters of the domains."""
    sizes = domain_sizes(settings)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    step = max(1, int(offsets[-1]) // (GUIDES * settings.domains))
    return World(
        settings=settings,
        offsets=offsets,
        guide=np.searchsorted(offsets, np.arange(0, offsets[-1], step), side="right") - 1,
        step=step,
        bias=_solve_bias(settings, _rates(settings, sizes)),
        taste=mixed_tastes(settings, "taste"),
        leaning=mixed_tastes(settings, "leaning"),
        users=_pools(settings.users, sizes),
        items=_pools(settings.items, sizes),
    )


def domain_sizes(settings: SyntheticSettings) -> Ids:
    """[D] rows per domain: log-normal, at least one each, `rows` in total (or one each if rows < domains)."""
    spread = settings.size_spread * _spread(settings, "size")
    weight = np.exp(spread - spread.max())
    free = max(settings.rows - settings.domains, 0)
    edges = np.floor(free * np.cumsum(weight) / weight.sum() + 0.5).astype(np.int64)
    edges[-1] = free
    return 1 + np.diff(edges, prepend=0)


def draw_rows(world: World, rows: Ids) -> LogRows:
    """Generate the rows with these numbers; a row depends only on its number and the settings."""
    settings = world.settings
    total = int(world.offsets[-1])
    user_rank, user_pool, item_rank, item_pool, time, threshold = uniform(settings.seed, "row", rows, 6)
    domain = _domain_at(world, rows * _stride(total) % total)
    user = _draw(world.users, domain, user_rank, user_pool < settings.overlap)
    item = _draw(world.items, domain, item_rank, item_pool < settings.overlap)
    day = _day_of(settings, rows, domain, total)
    logit = np.take(world.bias, domain) + SCALE * score(world, user, item, domain, day)
    add_effects(logit, settings, rows, user, item, domain)
    probability = 1.0 / (1.0 + np.exp(-logit))
    first_day = np.datetime64(settings.first_day, "us").astype(np.int64)
    return LogRows(
        user=user,
        item=item,
        domain=domain,
        label=(threshold < probability).astype(np.int32),
        time=first_day + day * DAY + (time * DAY).astype(np.int64),
        true_probability=probability,
    )


def factors(settings: SyntheticSettings, of: str, ids: Ids) -> Singles:
    """[N, K] true factors of users or items (`of`: user, item), N(0, 1)."""
    return normal(settings.seed, f"{of} factors", ids, settings.factors)


def published_vectors(settings: SyntheticSettings, of: str, ids: Ids) -> Singles:
    """[N, vectors] factors with noise; columns beyond the number of factors are only noise.

    With `rotate`, the factors of items are first multiplied by a random orthogonal matrix.
    """
    vectors = settings.noise * normal(settings.seed, f"{of} noise", ids, settings.vectors)
    known = min(settings.vectors, settings.factors)
    true = factors(settings, of, ids)
    if settings.rotate and of == "item":
        true = multiply(true, orthonormal(settings.seed, "item rotation", settings.factors, settings.factors))
    vectors[:, :known] += true[:, :known]
    return vectors


def score(world: World, user: Ids, item: Ids, domain: Ids, day: Ids | int = 0) -> Singles:
    """[N] affinity of a user to an item in a domain: (sum_k taste_k x_k y_k + leaning . y) / sqrt(2), with variance 1.

    Days count from 0 and matter only if tastes drift. Effects are not part of the score.
    """
    settings = world.settings
    x, y = factors(settings, "user", user), factors(settings, "item", item)
    place = domain + day * settings.domains if settings.drift else domain
    # np.take is 5 times as fast as indexing; allocating new arrays would take as long as the arithmetic.
    liked = np.take(world.taste, place, axis=0)
    liked *= x
    liked += np.take(world.leaning, place, axis=0)
    total: Singles = np.einsum("nk,nk->n", liked, y)
    return total / math.sqrt(2)


def _day_of(settings: SyntheticSettings, rows: Ids, domain: Ids, total: int) -> Ids:
    """[N] day of rows, from 0: equal shares in the order of row numbers; late domains skip the first day."""
    day = rows * settings.days // total
    if settings.late_domains:
        too_early = (day == 0) & (domain >= settings.domains - settings.late_domains)
        day = np.where(too_early, 1 + rows % (settings.days - 1), day)
    return day


def _spread(settings: SyntheticSettings, stream: str) -> Reals:
    """[D] numbers from N(0, 1)."""
    return normal(settings.seed, stream, np.arange(settings.domains), 1)[:, 0].astype(np.float64)


def _rates(settings: SyntheticSettings, sizes: Ids) -> Reals:
    """[D] CTRs around `ctr`, shifted so that their mean over rows is `ctr`."""
    spread = CTR_SPREAD * _spread(settings, "ctr")
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = float(np.average(1 / (1 + np.exp(-(spread + middle))), weights=sizes))
        low, high = (middle, high) if mean < settings.ctr else (low, middle)
    rates: Reals = 1 / (1 + np.exp(-(spread + low)))
    return rates


def _solve_bias(settings: SyntheticSettings, rates: Reals) -> Reals:
    """[D] biases b with E[sigmoid(b + scale z + position effect)] = rate for z ~ N(0, 1), by bisection.

    The mean over z uses Gauss-Hermite nodes; positions are processed one after another to save memory.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    nodes = math.hypot(SCALE, effects_deviation(settings)) * nodes
    weights = weights / weights.sum()
    effects = position_effects(settings)
    low, high = np.full_like(rates, -40.0), np.full_like(rates, 40.0)
    for _ in range(60):
        middle = (low + high) / 2
        mean = sum((1 / (1 + np.exp(-(middle[:, None] + (nodes + effect))))) @ weights for effect in effects) / len(
            effects
        )
        low, high = np.where(mean < rates, middle, low), np.where(mean < rates, high, middle)
    return low


def _pools(total: int, sizes: Ids) -> Pools:
    count = np.clip(np.round(total * sizes / sizes.sum()).astype(np.int64), min(total, SMALLEST_POOL), total)
    return Pools(total, (np.cumsum(count) - count) % total, count)


def _domain_at(world: World, position: Ids) -> Ids:
    """[N] domains of the rows at these positions before rows are shuffled."""
    domain = np.take(world.guide, position // world.step)
    beyond = np.flatnonzero(np.take(world.offsets[1:], domain) <= position)
    domain[beyond] = np.searchsorted(world.offsets, position[beyond], side="right") - 1
    return domain


def _draw(pools: Pools, domain: Ids, chance: Reals, of_all: NDArray[np.bool_]) -> Ids:
    """[N] ids, drawn from all or from the pool of the domain by rank floor(n u^1.5): low ranks are popular."""
    count = np.where(of_all, pools.total, np.take(pools.count, domain))
    rank = (chance * np.sqrt(chance) * count).astype(np.int64)
    own = np.take(pools.start, domain) + rank
    return np.where(of_all, rank * _stride(pools.total), own) % pools.total


@cache
def _stride(total: int) -> int:
    """A number coprime to `total`: multiplying by it modulo `total` permutes 0..total-1 and separates neighbours."""
    stride = max(1, min(int(total * 0.6180339887), 2**62 // total))
    while math.gcd(stride, total) != 1:
        stride -= 1
    return stride
