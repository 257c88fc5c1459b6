"""Effects of users, items, users in a domain and slots: terms of a row's logit that are added to its score.

Shapes: N rows.
"""

import math

import numpy as np

from mamdr_core.datasets.counters import Ids, Reals, normal, uniform
from mamdr_core.datasets.settings import SyntheticSettings

SLOTS = 10
"""Number of slots in which a row may have been shown."""


def add_effects(logit: Reals, settings: SyntheticSettings, rows: Ids, user: Ids, item: Ids, domain: Ids) -> None:
    """Add the effects to the logits [N] of rows in place; an effect that is off costs nothing."""
    seed = settings.seed
    if settings.user_effect:
        logit += settings.user_effect * normal(seed, "user effect", user, 1)[:, 0]
    if settings.item_effect:
        logit += settings.item_effect * normal(seed, "item effect", item, 1)[:, 0]
    if settings.pair_effect:
        pair = user * settings.domains + domain
        logit += settings.pair_effect * normal(seed, "pair effect", pair, 1)[:, 0]
    if settings.position_effect:
        slot = (SLOTS * uniform(seed, "slot", rows, 1)[0]).astype(np.int64)
        logit += np.take(slot_effects(settings), slot)


def effects_deviation(settings: SyntheticSettings) -> float:
    """Standard deviation of the sum of a row's effects but that of its slot, which is not normally distributed."""
    return math.hypot(settings.user_effect, settings.item_effect, settings.pair_effect)


def slot_effects(settings: SyntheticSettings) -> Reals:
    """[SLOTS] effects of mean 0 that fall with the logarithm of the slot's number, or one zero where they are off."""
    if not settings.position_effect:
        return np.zeros(1)
    falling = -np.log(np.arange(1, SLOTS + 1))
    scaled: Reals = settings.position_effect * (falling - falling.mean()) / falling.std()
    return scaled
