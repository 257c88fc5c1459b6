"""Garbage is collected seldom during training, and as before afterwards."""

import gc
import threading

import pytest

from mamdr_core.runtime.garbage import rare_collection


def test_collection_is_rare_within_the_block_and_as_before_after_an_error():
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with pytest.raises(ValueError, match="inside"), rare_collection():
        assert gc.get_threshold() > before
        assert gc.get_freeze_count() > frozen
        raise ValueError("inside")
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_another_thread_changes_nothing():
    seen = []

    def look():
        with rare_collection():
            seen.append((gc.get_threshold(), gc.get_freeze_count()))

    before = gc.get_threshold(), gc.get_freeze_count()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]
