"""Charts: scales with round ticks, and SVG of any values and texts."""

from xml.etree import ElementTree

import numpy as np
import pytest

from mamdr_core.reports.plot import NAMED, Plot, Scale, bars, heat_map, spanning
from tests.reports.example_facts import HOSTILE


def texts_of(svg):
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_ticks_are_round():
    assert [text for _, text in Scale(0.6612, 0.7421, form=".2f").ticks()] == ["0.68", "0.70", "0.72", "0.74"]
    assert Scale(20, 30_000, log=True).ticks() == [(100, "100"), (1000, "1k"), (10_000, "10k")]
    assert [text for _, text in Scale(0.012, 0.3, log=True, form=".2g").ticks()] == ["0.02", "0.05", "0.1", "0.2"]
    assert [text for _, text in Scale(-0.011, 0.011, form="+.3g").ticks()] == [
        "−0.01",
        "−0.005",
        "+0",
        "+0.005",
        "+0.01",
    ]


def test_values_are_mapped_between_the_ends_and_clipped():
    assert Scale(0, 4).share([-1, 0, 1, 4, 9]).tolist() == [0, 0, 0.25, 1, 1]
    assert Scale(1, 10_000, log=True).share([1, 100, 10_000]) == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize("values", [[], [np.nan], [0.0], [3.0, 3.0], [-1.0, 0.0]])
@pytest.mark.parametrize("log", [False, True])
def test_any_values_have_a_scale(values, log):
    scale = spanning(values, log)
    assert scale.high > scale.low > (0 if log else -np.inf)
    assert np.isfinite(scale.share([scale.low, scale.high])).all()


def test_values_that_cannot_be_shown_are_left_out():
    plot = Plot(Scale(1, 100, log=True), Scale(0, 1), "x", "y", "label")
    svg = plot.points([1, 0, np.nan, 10, -3], [0.5, 0.5, 0.5, np.nan, 0.2], list("abcde")).svg()
    assert [title.text for title in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}title")] == ["a"]


def test_many_points_are_drawn_as_one_small_path():
    random = np.random.default_rng(0)
    n = 20_000
    svg = Plot(Scale(0, 1), Scale(0, 1), "x", "y", "label").points(random.random(n), random.random(n), [""] * n).svg()
    assert n > NAMED
    assert svg.count('<path class="dots"') == 1
    assert len(svg) < 250_000


def test_names_are_escaped():
    matrix = np.full((len(HOSTILE), len(HOSTILE)), 0.5)
    plot = Plot(Scale(0, 1), Scale(0, 1), HOSTILE[0], HOSTILE[1], HOSTILE[2])
    count = len(HOSTILE)
    for svg in (
        heat_map(matrix, HOSTILE, HOSTILE[0]),
        bars(HOSTILE, [1] * count, HOSTILE, ["bar-a"] * count, HOSTILE[1]),
        plot.points([0.5] * count, [0.5] * count, HOSTILE).line([0, 1], [0, 1], marks=HOSTILE[:2]).svg(),
    ):
        kinds = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}
        assert kinds <= {"svg", "path", "text", "rect", "circle", "title"}
    assert texts_of(bars(HOSTILE, [1] * count, HOSTILE, ["bar-a"] * count, ""))[::2] == list(HOSTILE)
