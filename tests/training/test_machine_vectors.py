"""Fixed vectors are read once for each machine and are the same on all ranks, whatever goes wrong on one of them."""

import errno
import fcntl
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mamdr_core.config.features import Feature
from mamdr_core.parallel.collective import SingleProcess, all_reduce_max, gather_texts, run_simulated
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training import machine_vectors as module
from mamdr_core.training.machine_vectors import machine_vectors

TASTE = Feature(name="taste", kind="vector", of="user", size=3, path="nowhere")
LOOK = Feature(name="look", kind="vector", of="item", size=5, path="nowhere")
START = Feature(name="start", kind="vector", of="user", size=2, path="nowhere", trainable=True)
SIZES = {"user": 50, "item": 20, "domain": 4}
NOTHING = np.zeros(4, dtype=np.bool_)


def write_vectors(file, vectors):
    """A file of vectors by name, of the ids from 0 on."""
    parts = [
        pa.table({
            "index": pa.array(range(len(own)), pa.int32()), "name": [name] * len(own),
            "vector": pa.ListArray.from_arrays(np.arange(len(own) + 1, dtype=np.int32) * own.shape[1], own.ravel()),
        })
        for name, own in vectors.items()
    ]  # fmt: skip
    pq.write_table(pa.concat_tables(parts), file, row_group_size=20_000)
    return (f"file:{file}",)


@pytest.fixture
def make_share(tmp_path):
    """A rank's reader of 40 vectors of users, 20 of items, and vectors that a table starts from."""
    random = np.random.default_rng(0)
    vectors = {
        of.name: random.random((40 if of.of == "user" else 20, of.size), np.float32) for of in (TASTE, LOOK, START)
    }
    files = {
        "user": write_vectors(tmp_path / "user.parquet", {name: vectors[name] for name in ("taste", "start")}),
        "item": write_vectors(tmp_path / "item.parquet", {"look": vectors["look"]}),
    }
    pinned = PinnedExamples({"examples": 3}, (), ("a",) * 4, {}, SIZES, files, {})

    def make(features=(TASTE, LOOK, START)):
        return Share(pinned, features, NOTHING, scratch=str(tmp_path), reader="arrow")

    return make


@pytest.fixture
def scratch(tmp_path):
    """An empty folder."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def on_machines(monkeypatch, machines, task):
    """Run a task on ranks, of which each is on the machine of that name; returns the ranks' results."""
    at = iter(machines)  # simulated ranks run in turns, in rank order
    monkeypatch.setattr(module, "sharing_key", lambda folder: next(at))
    return run_simulated(task, len(machines))


def test_one_rank_of_each_machine_reads_and_all_have_the_same_vectors(make_share, scratch, monkeypatch):
    shares = [make_share() for _ in range(5)]
    machines = ["east", "west", "east", "west", "east"]

    def task(collective):
        return machine_vectors(shares[collective.rank], collective, str(scratch))

    found = on_machines(monkeypatch, machines, task)
    assert not list(scratch.iterdir())
    assert [share.figures.row_groups > 0 for share in shares] == [True, True, False, False, False]
    expected = make_share().vectors(trainable=False)
    assert expected["taste"].count_nonzero() == 40 * 3
    for vectors in found:
        assert vectors.keys() == expected.keys() == {"taste", "look"}
        assert all(torch.equal(vectors[name], values) for name, values in expected.items())


def test_what_a_rank_writes_by_mistake_does_not_reach_the_others(make_share, scratch, monkeypatch):
    def task(collective):
        vectors = machine_vectors(make_share(), collective, str(scratch))
        vectors["taste"][:] = collective.rank
        collective.all_gather(torch.zeros(1))
        return vectors["taste"].unique().tolist()

    assert on_machines(monkeypatch, ["east"] * 3, task) == [[0.0], [1.0], [2.0]]


def test_an_error_on_one_machine_is_the_same_on_all_ranks_and_leaves_no_file(make_share, scratch, monkeypatch):
    wide, errors = replace(LOOK, size=6), []

    def task(collective):
        features = (TASTE, wide) if collective.rank == 1 else (TASTE, LOOK)
        with pytest.raises(MamdrError) as caught:
            machine_vectors(make_share(features), collective, str(scratch))
        errors.append(str(caught.value))
        return collective.all_gather(torch.tensor([collective.rank])).tolist()  # all are here

    assert on_machines(monkeypatch, ["east", "west", "east"], task) == [[0, 1, 2]] * 3
    assert len(set(errors)) == 1
    assert errors[0].startswith("item_features holds no vectors look of length 6: run build_examples again (rank 1)")
    assert not list(scratch.iterdir())


def test_a_scratch_folder_without_room_is_an_error_that_names_it(make_share, scratch):
    with pytest.raises(MamdrError, match=r"train\.scratch: cannot store .* GB of vectors in /nowhere/at/all"):
        machine_vectors(make_share(), SingleProcess(), "/nowhere/at/all")


def test_a_file_system_without_locks_is_an_error_and_leaves_nothing(make_share, scratch, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(MamdrError, match=r"No locks available\): choose a folder on a disk .* with file locks"):
        machine_vectors(make_share(), SingleProcess(), str(scratch))
    assert not list(scratch.iterdir())


def test_a_rank_that_cannot_open_the_file_reads_its_own(make_share, scratch, monkeypatch):
    """Such as on a machine that was started from another's snapshot, and has its name."""
    shares = [make_share() for _ in range(3)]

    def gather(collective, text):
        texts = gather_texts(collective, text)
        names_the_file = any(text.endswith(module.SUFFIX) for text in texts)
        return ["/nowhere/at/all"] * 3 if names_the_file and collective.rank == 2 else texts

    monkeypatch.setattr(module, "gather_texts", gather)
    found = on_machines(
        monkeypatch,
        ["east"] * 3,
        lambda collective: machine_vectors(shares[collective.rank], collective, str(scratch)),
    )
    assert [share.figures.row_groups > 0 for share in shares] == [True, False, True]
    assert all(torch.equal(each[name], found[0][name]) for each in found for name in ("taste", "look"))
    assert not list(scratch.iterdir())


def test_ranks_that_wait_for_a_reader_take_part_in_a_collective_while_it_reads(make_share, scratch, monkeypatch):
    """So that each of them shows a heartbeat: `parallel.watch` counts the start and the end of a collective."""
    monkeypatch.setattr(module, "EXCHANGE_SECONDS", 0.0)
    shares, read_at_exchanges, batches = [make_share() for _ in range(2)], [], 0
    fill = shares[0].fill_vectors

    def count(tables, trainable):
        nonlocal batches
        for _ in fill(tables, trainable):
            batches += 1
            yield

    def exchange(collective, number):
        if collective.rank == 1:
            read_at_exchanges.append(batches)
        return all_reduce_max(collective, number)

    monkeypatch.setattr(shares[0], "fill_vectors", count)
    monkeypatch.setattr(module, "all_reduce_max", exchange)
    found = on_machines(
        monkeypatch, ["east"] * 2, lambda collective: machine_vectors(shares[collective.rank], collective, str(scratch))
    )
    assert batches >= 2
    assert set(range(batches + 1)) <= set(read_at_exchanges)  # none of its batches passes without an exchange
    assert torch.equal(found[0]["look"], found[1]["look"])


def test_what_a_killed_run_left_is_removed_and_what_another_run_fills_stays(make_share, scratch):
    left, filled = (scratch / f"{module.PREFIX}{name}{module.SUFFIX}" for name in ("left", "filled"))
    for file in (left, filled):
        file.write_bytes(b"vectors")
    with filled.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        machine_vectors(make_share(), SingleProcess(), str(scratch))
        assert list(scratch.iterdir()) == [filled]
    machine_vectors(make_share(), SingleProcess(), str(scratch))
    assert not list(scratch.iterdir())


def mapped_of(scratch):
    """Kilobytes of what this process has mapped of a folder's files that have lost their names: Rss and Anonymous."""
    found, is_of_folder = {"Rss": 0, "Anonymous": 0}, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
            is_of_folder = str(scratch) in line and line.endswith(f"{module.SUFFIX} (deleted)")
        elif is_of_folder and key in found:
            found[key] += int(value.split()[0])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc on this system")
def test_vectors_take_no_memory_that_the_kernel_cannot_take_back(tmp_path, scratch):
    values = np.random.default_rng(0).random((100_000, 8), np.float32)  # 3.2 MB
    wide = Feature(name="wide", kind="vector", of="user", size=8, path="nowhere")
    files = {"user": write_vectors(tmp_path / "wide.parquet", {"wide": values})}
    pinned = PinnedExamples({"examples": 3}, (), ("a",) * 4, {}, {**SIZES, "user": 100_000}, files, {})
    share = Share(pinned, (wide,), NOTHING, reader="arrow", holds_fixed=False)
    assert share.needed_bytes() == 0
    vectors = machine_vectors(share, SingleProcess(), str(scratch))
    assert torch.equal(vectors["wide"][1:], torch.from_numpy(values))
    mapped = mapped_of(scratch)
    assert mapped["Rss"] == pytest.approx(values.nbytes / 1024, rel=0.05)
    assert mapped["Anonymous"] == 0
    vectors["wide"][0, 0] = 1.0  # a page of its own
    assert 0 < mapped_of(scratch)["Anonymous"] < 100
