"""theta_i of many domains: what is written is read back, by domain and by groups, and the best is kept aside."""

import resource

import pytest
import torch

from mamdr_core.engine import specific_store, vector_buffers
from mamdr_core.engine.parameters import Change, Rows
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.vector_buffers import FileBuffer, MemoryBuffer, buffer_for
from mamdr_core.runtime.errors import MamdrError

WIDTH = 5


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path, monkeypatch):
    """A store of 7 domains, in groups of 2 and blocks of 3 entries."""
    like = torch.zeros(WIDTH)
    monkeypatch.setitem(specific_store.GROUP_BYTES, "cpu", 2 * like.nbytes)
    monkeypatch.setattr(vector_buffers, "GROWTH_BYTES", 3 * like.nbytes)
    buffer = MemoryBuffer(like) if request.param == "memory" else FileBuffer(like, str(tmp_path))
    return SpecificStore(range(7), buffer, like)


def test_a_domain_is_zero_until_it_is_written(store):
    assert len(store) == 7
    assert list(store) == list(range(7))
    assert not store[4].dense.any()
    store[4] = Change(torch.arange(5.0), {"user": Rows(torch.tensor([3]), torch.ones(1, 2))})
    assert store[4].dense.tolist() == [0, 1, 2, 3, 4]
    assert store[4].rows["user"].ids.tolist() == [3]
    assert not store[3].dense.any()
    assert store.dense_bytes == WIDTH * 4
    assert store.row_bytes == 8 + 8


def test_groups_are_read_in_the_given_order_and_written(store):
    order = [6, 0, 3, 5, 1]
    for repeat in range(3):
        seen = []
        for group in store.groups(order):
            seen += group
            for domain, change in group.items():
                assert (change.dense == repeat * (domain + 1)).all()
                change.move(
                    Change(torch.full((WIDTH,), domain + 1.0), {"item": Rows(torch.tensor([2]), torch.ones(1, 1))}), 1.0
                )
        assert seen == order
    assert [store[d].dense[0].item() for d in range(7)] == [3, 6, 0, 12, 0, 18, 21]
    assert store[6].rows["item"].values.item() == 3.0
    for group in store.groups(order, changes=False):
        for change in group.values():
            change.dense.zero_()
    assert store[6].dense[0] == 21


def test_the_best_values_take_at_most_two_entries_per_domain(store):
    def set_all(value):
        for domain in range(7):
            store[domain] = Change(
                torch.full((WIDTH,), value + domain), {"user": Rows(torch.tensor([1]), torch.full((1, 1), value))}
            )

    for value in (10.0, 20.0, 30.0):
        set_all(value)
        store.keep()
        set_all(value + 1)
        set_all(value + 2)
        assert store[2].dense[0] == value + 4
        assert store.dense_bytes == 2 * 7 * WIDTH * 4
    store.restore()
    assert [store[d].dense[0].item() for d in range(7)] == [30.0 + d for d in range(7)]
    assert store[5].rows["user"].values.item() == 30.0
    set_all(50.0)
    assert store.dense_bytes == 2 * 7 * WIDTH * 4
    store.restore()
    assert store[0].dense[0] == 30.0


def test_values_of_a_checkpoint_do_not_change_and_can_be_loaded(store):
    def set_all(value):
        for domain in range(7):
            rows = Rows(torch.tensor([1]), torch.full((1, 1), value))
            store[domain] = Change(torch.full((WIDTH,), value), {"user": rows})

    set_all(1.0)
    store.keep()
    store[3] = Change(torch.full((WIDTH,), 2.0))
    best, now = store.hold()
    for value in (3.0, 4.0, 5.0):
        set_all(value)
        store.keep()
    assert {best[domain].dense[0].item() for domain in best} == {1.0}
    assert {domain: now[domain].dense[0].item() for domain in now} == {3: 2.0}
    assert best[6].rows["user"].values.item() == 1.0
    other = SpecificStore([2, 3], MemoryBuffer(torch.zeros(WIDTH)), torch.zeros(WIDTH))
    other.load(best, now)
    assert [other[domain].dense[0].item() for domain in other] == [1.0, 2.0]
    other.restore()
    assert [other[domain].dense[0].item() for domain in other] == [1.0, 1.0]
    store.release()
    set_all(6.0)
    assert store.dense_bytes <= 4 * 7 * WIDTH * 4
    store.restore()
    assert store[0].dense[0] == 5.0


def test_a_domain_of_another_rank_is_rejected(store):
    with pytest.raises(KeyError):
        store[9] = Change(torch.zeros(WIDTH))
    assert 9 not in store


def test_vectors_that_exceed_memory_are_in_an_unnamed_file(tmp_path):
    like = torch.zeros(WIDTH)
    assert buffer_for(like, 10, 200, str(tmp_path)).where == "memory"
    assert buffer_for(like, 11, 200, str(tmp_path)).where == "file"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_and_keeps_what_was_written(tmp_path, monkeypatch):
    like = torch.zeros(WIDTH)
    monkeypatch.setattr(vector_buffers, "GROWTH_BYTES", 3 * like.nbytes)
    store = SpecificStore(range(9), FileBuffer(like, str(tmp_path)), like)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6 * like.nbytes, before[1]))  # as if the disk were full there
    try:
        with pytest.raises(
            MamdrError, match=rf"train.scratch: cannot store theta_i in {tmp_path} \(.*\): choose a folder"
        ):
            fill(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [store[d].dense[0].item() for d in range(9)] == [1.0] * 6 + [0.0] * 3


def fill(store: SpecificStore) -> None:
    for group in store.groups(list(store)):
        for change in group.values():
            change.dense.fill_(1.0)


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(MamdrError, match=r"cannot store theta_i in .*/absent \(No such file or directory\)"):
        FileBuffer(torch.zeros(2), str(tmp_path / "absent"))
