"""Which domains a run is about, learns and reads."""

import numpy as np
import pytest

from mamdr_core.config.job_config import load_config
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.preparing import check_names
from mamdr_core.training.run_domains import domains_of

ROWS = np.array([50, 0, *[7] * 98])


@pytest.fixture
def pinned():
    """A hundred domains d0 to d99, of which d1 has no row to train on."""
    ids = tuple(f"d{number}" for number in range(100))
    return PinnedExamples({"examples": 4}, (), ids, {"train": ROWS}, {"domain": 100}, {}, {})


def config(*overrides):
    return load_config(overrides=["train.method=mamdr", *overrides])


def test_a_run_is_about_all_domains_unless_some_are_named(pinned):
    domains = domains_of(config(), pinned)
    assert domains.is_whole
    assert domains.reads.all()
    assert np.array_equal(domains.rows(pinned), ROWS)


def test_named_domains_learn_and_as_many_others_are_read_as_can_be_supports(pinned):
    named = config("train.only_domains=[d0, d7]", "train.dr.k=2", "train.dr.epochs=5")
    domains = domains_of(named, pinned)
    assert not domains.is_whole
    assert np.flatnonzero(domains.learns).tolist() == [0, 7]
    assert domains.rows(pinned).sum() == 57
    assert domains.reads[[0, 7]].all()
    assert domains.reads.sum() == 2 + 2 * 5
    assert not domains.reads[1]
    assert np.array_equal(domains_of(named, pinned).reads, domains.reads)
    other = domains_of(
        config("train.only_domains=[d0, d7]", "train.dr.k=2", "train.dr.epochs=5", "train.seed=1"), pinned
    )
    assert not np.array_equal(other.reads, domains.reads)


def test_finetuning_reads_no_support(pinned):
    domains = domains_of(config("train.only_domains=[d7]", "train.method=finetune"), pinned)
    assert np.array_equal(domains.reads, domains.learns)
    mixed = domains_of(config("train.only_domains=[d7]", "train.method=mixed"), pinned)
    assert np.array_equal(mixed.reads, domains.reads)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("[d0, d100, e1]", r"examples version 4 has no domain 'd100', 'e1'"),
        ("[d0, d1]", r"examples version 4 has no training rows of domain 'd1': it is served with theta_S"),
    ],
)
def test_domains_that_cannot_learn_are_named(pinned, named, message):
    with pytest.raises(MamdrError, match=message):
        domains_of(config(f"train.only_domains={named}"), pinned)


def test_the_method_must_learn_theta_i():
    check_names(config("train.method=dn"))
    check_names(config("train.only_domains=[d0]"))
    check_names(config("train.only_domains=[d0]", "train.method=mixed"))
    with pytest.raises(MamdrError, match=r"train\.method dn has none: choose separate, dr, mamdr, finetune, mixed"):
        check_names(config("train.only_domains=[d0]", "train.method=dn"))


@pytest.mark.parametrize("named", ["[d0, d0]", "[1, '1']", "d0"])
def test_names_are_distinct_and_in_a_list_and_may_be_numbers(named):
    assert config("train.only_domains=[4711]").train.only_domains == ("4711",)
    with pytest.raises(MamdrError, match=r"train"):
        config(f"train.only_domains={named}")
