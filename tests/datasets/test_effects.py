"""Effects of users, items, users in a domain, and positions are added to the logit; CTRs do not change."""

import numpy as np
import pytest

from mamdr_core.config.datasets import SyntheticSettings
from mamdr_core.datasets.effects import POSITIONS
from mamdr_core.datasets.world import SCALE, draw_rows, make_world, score


def draw(**changes):
    """The world, its rows, and the part of each row's logit that neither the bias nor the score explains."""
    world = make_world(
        SyntheticSettings(
            rows=60_000, domains=12, users=2000, items=800, size_spread=1.0, ctr=0.05, factors=4, **changes
        )
    )
    rows = draw_rows(world, np.arange(60_000))
    logit = np.log(rows.true_probability) - np.log1p(-rows.true_probability)
    known = world.bias[rows.domain] + SCALE * score(world, rows.user, rows.item, rows.domain)
    return world, rows, logit - known


@pytest.mark.parametrize("name", ["user_effect", "item_effect", "pair_effect", "position_effect"])
def test_an_effect_has_its_deviation_and_does_not_change_the_ctr(name):
    world, rows, effect = draw(**{name: 2.0})
    if name == "position_effect":
        values, counts = np.unique(effect.round(6), return_counts=True)
        assert len(values) == POSITIONS
        assert counts == pytest.approx(6000, rel=0.05)
        assert np.diff(values)[-1] == np.diff(values).max(), "the step from the first slot to the second is the largest"
    else:
        unit = {"user_effect": rows.user, "item_effect": rows.item, "pair_effect": rows.user * 12 + rows.domain}[name]
        _, first, of_row = np.unique(unit, return_index=True, return_inverse=True)
        values = effect[first]
        assert effect == pytest.approx(values[of_row], abs=1e-4)
    assert values.std() == pytest.approx(2.0, rel=0.06)
    assert abs(values.mean()) < 0.15
    assert rows.true_probability.mean() == pytest.approx(0.05, rel=0.12)
    assert rows.label.mean() == pytest.approx(rows.true_probability.mean(), abs=0.003)
    assert np.array_equal(draw_rows(world, np.arange(700, 720)).true_probability, rows.true_probability[700:720])


def test_effects_add_up_and_raise_the_oracles_auc():
    _, _, none = draw()
    assert none == pytest.approx(0.0, abs=1e-5)
    _, rows, effect = draw(user_effect=0.5, item_effect=0.5, pair_effect=0.5, position_effect=0.5)
    assert effect.std() == pytest.approx(1.0, rel=0.05)
    clicked, skipped = (rows.true_probability[rows.label == label] for label in (1, 0))
    auc = np.searchsorted(np.sort(skipped), clicked).mean() / len(skipped)
    assert 0.85 < auc < 0.9
