"""Effects of users, items, users in a domain, and positions: terms of the logit in addition to the score.

Shapes: N rows.
"""

import math

import numpy as np

from mamdr_core.config.datasets import SyntheticSettings
from mamdr_core.datasets.counters import Ids, Reals, normal, uniform

POSITIONS = 10
"""Number of positions in which an item may have been shown."""


def add_effects(logit: Reals, settings: SyntheticSettings, rows: Ids, user: Ids, item: Ids, domain: Ids) -> None:
    """Add the effects to the logits [N] in place; disabled effects cost nothing."""
    seed = settings.seed
    if settings.user_effect:
        logit += settings.user_effect * normal(seed, "user effect", user, 1)[:, 0]
    if settings.item_effect:
        logit += settings.item_effect * normal(seed, "item effect", item, 1)[:, 0]
    if settings.pair_effect:
        pair = user * settings.domains + domain
        logit += settings.pair_effect * normal(seed, "pair effect", pair, 1)[:, 0]
    if settings.position_effect:
        position = (POSITIONS * uniform(seed, "slot", rows, 1)[0]).astype(np.int64)
        logit += np.take(position_effects(settings), position)


def effects_deviation(settings: SyntheticSettings) -> float:
    """Standard deviation of the sum of the normally distributed effects, that is all but the position effect."""
    return math.hypot(settings.user_effect, settings.item_effect, settings.pair_effect)


def position_effects(settings: SyntheticSettings) -> Reals:
    """[POSITIONS] effects with mean 0 that decrease with the logarithm of the position; a single 0 if disabled."""
    if not settings.position_effect:
        return np.zeros(1)
    falling = -np.log(np.arange(1, POSITIONS + 1))
    scaled: Reals = settings.position_effect * (falling - falling.mean()) / falling.std()
    return scaled
