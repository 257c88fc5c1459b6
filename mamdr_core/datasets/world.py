"""The world behind synthetic logs: domains with sizes, click-through rates and tastes; users and items with factors.

Shapes: D domains, N rows, K factors. Only arrays over domains are held; all else is a function of ids and the seed.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mamdr_core.datasets.counters import Reals, normal, uniform
from mamdr_core.datasets.settings import SyntheticSettings

SCALE = 1.4
"""Standard deviation of the logit within a domain; it puts the oracle's AUC near .8."""
CTR_SPREAD = 0.5
"""Standard deviation of the logit of a domain's CTR."""
POPULARITY = 1.5
"""Users and items are drawn by rank floor(n * u ** POPULARITY) with u uniform: low ranks are popular."""
SMALLEST_POOL = 20
"""Smallest number of own users, and of own items, of a domain."""

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Pools:
    """Own users (or items) of each domain: `count` ids from `start`, wrapping around at `total`."""

    total: int
    start: Ids
    count: Ids


@dataclass(frozen=True)
class World:
    """What every row is drawn from. `offsets` [D+1] delimits the domains' rows before they are shuffled."""

    settings: SyntheticSettings
    offsets: Ids
    bias: Reals
    taste: Reals
    leaning: Reals
    users: Pools
    items: Pools


@dataclass(frozen=True)
class Rows:
    """A block of the log, arrays [N]."""

    user: Ids
    item: Ids
    domain: Ids
    label: NDArray[np.int32]
    time: Ids
    """Microseconds since 1970."""
    true_probability: Reals


def make_world(settings: SyntheticSettings) -> World:
    """Draw the domains."""
    domains = np.arange(settings.domains)
    sizes = domain_sizes(settings)
    rates = _rates(settings, sizes)
    return World(
        settings=settings,
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        bias=_solve_bias(rates),
        taste=_mixed(settings, "taste", domains),
        leaning=_mixed(settings, "leaning", domains),
        users=_pools(settings.users, sizes),
        items=_pools(settings.items, sizes),
    )


def domain_sizes(settings: SyntheticSettings) -> Ids:
    """[D] rows a domain: log-normal, at least one each, `rows` together (or one each where rows < domains)."""
    spread = normal(settings.seed, "size", np.arange(settings.domains), 1)[:, 0]
    weight = np.exp(settings.size_spread * spread)
    free = max(settings.rows - settings.domains, 0)
    edges = np.floor(free * np.cumsum(weight) / weight.sum() + 0.5).astype(np.int64)
    edges[-1] = free
    return 1 + np.diff(edges, prepend=0)


def draw_rows(world: World, rows: Ids) -> Rows:
    """The rows with these numbers; each depends on its number and the settings alone."""
    settings, seed = world.settings, world.settings.seed
    total = int(world.offsets[-1])
    domain = np.searchsorted(world.offsets, _shuffle(rows, total), side="right") - 1
    user = _draw(world, "user", world.users, rows, domain)
    item = _draw(world, "item", world.items, rows, domain)
    logit = world.bias[domain] + SCALE * score(world, user, item, domain)
    probability = 1.0 / (1.0 + np.exp(-logit))
    day = rows * settings.days // total
    start = np.datetime64(settings.first_day, "us").astype(np.int64)
    of_day = (uniform(seed, "time", rows) * 86_400_000_000).astype(np.int64)
    return Rows(
        user=user,
        item=item,
        domain=domain.astype(np.int64),
        label=(uniform(seed, "label", rows) < probability).astype(np.int32),
        time=start + day * 86_400_000_000 + of_day,
        true_probability=probability,
    )


def factors(settings: SyntheticSettings, of: str, ids: Ids) -> Reals:
    """[N, K] true factors of users or items (`of`: user, item), N(0, 1)."""
    return normal(settings.seed, f"{of} factors", ids, settings.factors)


def published_vectors(settings: SyntheticSettings, of: str, ids: Ids) -> Reals:
    """[N, vectors]: column k is factor k with noise; columns beyond the factors are noise alone."""
    vectors = settings.noise * normal(settings.seed, f"{of} noise", ids, settings.vectors)
    known = min(settings.vectors, settings.factors)
    vectors[:, :known] += factors(settings, of, ids)[:, :known]
    return vectors


def score(world: World, user: Ids, item: Ids, domain: Ids) -> Reals:
    """[N] how much a user likes an item in a domain: (sum_k taste_k x_k y_k + leaning . y) / sqrt(2), of variance 1."""
    x, y = factors(world.settings, "user", user), factors(world.settings, "item", item)
    liked = world.taste[domain] * x + world.leaning[domain]
    total: Reals = np.einsum("nk,nk->n", liked, y)
    return total / math.sqrt(2)


def _mixed(settings: SyntheticSettings, stream: str, domains: Ids) -> Reals:
    """[D, K] unit vectors: the shared one at conflict 0, one of each domain's own at 1."""
    shared = _unit(normal(settings.seed, f"shared {stream}", np.zeros(1, dtype=np.int64), settings.factors))
    own = _unit(normal(settings.seed, f"own {stream}", domains, settings.factors))
    return _unit(math.sqrt(1 - settings.conflict) * shared + math.sqrt(settings.conflict) * own)


def _unit(vectors: Reals) -> Reals:
    unit: Reals = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


def _rates(settings: SyntheticSettings, sizes: Ids) -> Reals:
    """[D] CTRs around `ctr`, shifted so that their mean over rows is `ctr`."""
    spread = CTR_SPREAD * normal(settings.seed, "ctr", np.arange(settings.domains), 1)[:, 0]
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = float(np.average(1 / (1 + np.exp(-(spread + middle))), weights=sizes))
        low, high = (middle, high) if mean < settings.ctr else (low, middle)
    rates: Reals = 1 / (1 + np.exp(-(spread + low)))
    return rates


def _solve_bias(rates: Reals) -> Reals:
    """[D] biases b with E[sigmoid(b + SCALE z)] = rate for z ~ N(0, 1), by bisection on Gauss-Hermite nodes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    low, high = np.full_like(rates, -40.0), np.full_like(rates, 40.0)
    for _ in range(60):
        middle = (low + high) / 2
        mean = (1 / (1 + np.exp(-(middle[:, None] + SCALE * nodes)))) @ (weights / weights.sum())
        low, high = np.where(mean < rates, middle, low), np.where(mean < rates, high, middle)
    return low


def _pools(total: int, sizes: Ids) -> Pools:
    count = np.clip(np.round(total * sizes / sizes.sum()).astype(np.int64), min(total, SMALLEST_POOL), total)
    return Pools(total, (np.cumsum(count) - count) % total, count)


def _draw(world: World, of: str, pools: Pools, rows: Ids, domain: Ids) -> Ids:
    seed = world.settings.seed
    popularity = uniform(seed, f"{of} rank", rows) ** POPULARITY
    of_all = _shuffle((popularity * pools.total).astype(np.int64), pools.total)
    of_own = (pools.start[domain] + (popularity * pools.count[domain]).astype(np.int64)) % pools.total
    return np.where(uniform(seed, f"{of} pool", rows) < world.settings.overlap, of_all, of_own)


def _shuffle(numbers: Ids, total: int) -> Ids:
    """A fixed permutation of 0..total-1 that keeps neighbours apart: multiplication by a number coprime to `total`."""
    factor = max(1, min(int(total * 0.6180339887), 2**62 // total))
    while math.gcd(factor, total) != 1:
        factor -= 1
    return (numbers * factor) % total
