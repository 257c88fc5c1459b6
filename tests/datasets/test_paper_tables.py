"""The figures of the paper are consistent, and samples are counted as in its released code."""

import random
from pathlib import Path

import pytest

from mamdr_core.config.job_config import load_config
from mamdr_core.datasets.paper_tables import PAPER_SETS, DomainCounts, LogCounts, PaperSet, compare, find_paper_set

CONF = Path(__file__).parents[2] / "conf"
CONFIGS = {"Amazon-6": "amazon6", "Amazon-13": "amazon13"} | {f"Taobao-{n}": f"taobao{n}" for n in (10, 20, 30)}


@pytest.mark.parametrize("paper", PAPER_SETS, ids=lambda paper: paper.name)
def test_ratios_are_what_the_released_code_draws_with_its_seed(paper):
    draw = random.Random(123)
    assert [ratio for _, ratio in paper.domains.values()] == [round(draw.uniform(0.2, 0.5), 2) for _ in paper.domains]


@pytest.mark.parametrize("paper", PAPER_SETS, ids=lambda paper: paper.name)
def test_domains_add_up_to_table_1_unless_the_set_is_marked_doubtful(paper):
    total = sum(samples for samples, _ in paper.domains.values())
    assert (total == paper.samples) == (not paper.doubtful)


@pytest.mark.parametrize("paper", PAPER_SETS, ids=lambda paper: paper.name)
def test_our_configs_hold_the_ratios_of_the_tables(paper):
    config = load_config(str(CONF / f"{CONFIGS[paper.name]}.yaml"))
    assert config.examples.negatives.ctr_ratio == {name: ratio for name, (_, ratio) in paper.domains.items()}
    if paper.name.startswith("Amazon"):
        assert config.convert.categories == tuple(paper.domains)
    else:
        assert config.convert.themes == len(paper.domains)


def test_negatives_are_rounded_down_per_user_and_limited_by_the_items():
    # One user of 3 clicks gets int(3 / .4) = 7; two users who clicked 8 of the 10 items get 2 each, not 20.
    counts = DomainCounts(items=10, users_by_clicks={(3, 3): 1, (8, 8): 2})
    assert (counts.users, counts.clicks) == (3, 19)
    assert counts.samples(0.4) == 3 + 7 + 2 * (8 + 2)


def test_a_pair_that_the_paper_counts_twice_is_two_positives_of_one_item():
    counts = DomainCounts(items=100, users_by_clicks={(2, 1): 1})
    assert counts.clicks == 1
    assert counts.samples(0.5) == 2 + 4


def test_differences_are_reported_except_for_doubtful_figures():
    paper = PaperSet(
        "two", users=5, items=9, samples=14, domains={"a": (7, 0.5), "b": (8, 0.5)}, doubtful={"b.samples"}
    )
    domain = DomainCounts(items=9, users_by_clicks={(1, 1): 2})
    counts = LogCounts(users=4, items=9, domains={"a": domain, "b": domain})
    assert compare(counts, paper) == {
        "users": {"found": 4, "paper": 5},
        "samples": {"found": 12, "paper": 14},
        "a.samples": {"found": 6, "paper": 7},
    }


def test_a_set_is_recognised_by_exactly_its_domains():
    assert find_paper_set(reversed(PAPER_SETS[0].domains)) is PAPER_SETS[0]
    assert find_paper_set([*PAPER_SETS[0].domains, "Books"]) is None
    assert find_paper_set(list(PAPER_SETS[0].domains)[1:]) is None
