"""Garbage is collected seldom during training, and as before afterwards."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest

from mamdr_core.runtime.garbage import rare_collection


def state():
    return gc.get_threshold(), gc.get_freeze_count()


def fail_within(seen):
    with rare_collection():
        seen.append(state())
        raise ValueError("inside")


def test_collection_is_rare_within_the_block_and_as_before_after_an_error():
    before, seen = state(), []
    with pytest.raises(ValueError, match="inside"):
        fail_within(seen)
    ((thresholds, frozen),) = seen
    assert thresholds > before[0]
    assert frozen > before[1]
    assert state() == (before[0], 0)


def test_another_thread_changes_nothing():
    before, seen = state(), []
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="inside"):
        pool.submit(fail_within, seen).result()
    assert seen == [before]
