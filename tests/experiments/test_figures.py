"""RANK, wins and the paired test against numbers computed by hand."""

import numpy as np
import pytest

from mamdr_core.experiments.figures import compare_domains, mean_ranks, smallest_third, spread


def test_rank_is_the_mean_over_domains_and_ties_share_it():
    # Domain a: .7 .6 .7 are ranks 1.5 3 1.5; domain b: .5 .9 .8 are ranks 3 1 2.
    auc_MSn = np.array([[[0.7, 0.5]], [[0.6, 0.9]], [[0.7, 0.8]]])
    assert mean_ranks(auc_MSn).tolist() == [2.25, 2.0, 1.75]


def test_rank_is_averaged_over_seeds():
    # Seed 0: rows 0 and 1 win a domain each; seed 1: row 0 wins both.
    auc_MSn = np.array([[[0.7, 0.5], [0.9, 0.9]], [[0.6, 0.6], [0.8, 0.8]]])
    assert mean_ranks(auc_MSn).tolist() == [(1 + 2 + 1 + 1) / 4, (2 + 1 + 2 + 2) / 4]


def test_the_test_is_wilcoxons_exact_one():
    # |differences| .0625 .125 .25 .5 have ranks 1 to 4; the one negative has rank 1, so W- = 1. Of the 16 choices of
    # signs two have W- <= 1: p = 2 * 2 / 16.
    difference = np.array([0.125, -0.0625, 0.25, 0.5])
    against = compare_domains(0.25 + difference, np.full(4, 0.25))
    assert (against.wins, against.ties, against.losses) == (3, 0, 1)
    assert against.difference == 0.8125 / 4
    assert against.p_value == pytest.approx(0.25, abs=1e-12)


def test_domains_without_a_difference_are_ties_and_left_out_of_the_test():
    # Five domains, all won: p = 2 / 2^5, with or without the two ties.
    own = np.array([0.5, 0.5, 0.5625, 0.625, 0.75, 0.875, 0.9375])
    against = compare_domains(own, np.full(7, 0.5))
    assert (against.wins, against.ties, against.losses) == (5, 2, 0)
    assert against.p_value == pytest.approx(2 / 2**5, abs=1e-12)
    assert compare_domains(own, own).p_value is None


def test_the_smallest_third_is_rounded_down_but_never_empty():
    assert smallest_third(np.array([5, 1, 9, 2, 7, 3, 8])).tolist() == [False, True, False, True, False, False, False]
    assert smallest_third(np.array([4, 4])).tolist() == [True, False]


def test_spread_is_the_samples_standard_deviation():
    assert spread(np.array([0.5, 0.7])) == pytest.approx(0.02**0.5, abs=1e-12)
    assert spread(np.array([0.5])) is None
