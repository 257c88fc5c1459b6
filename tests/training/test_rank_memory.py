"""The formula for a rank's memory, against what the kernel measured, and by hand."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from mamdr_core.config.engine import InnerSettings, OuterSettings
from mamdr_core.config.learning import DRSettings
from mamdr_core.config.training import CheckpointSettings, TrainSettings
from mamdr_core.models.tables import Table
from mamdr_core.training.rank_memory import RankShape, rank_memory

USER = Table("user", "user", rows=1000, width=16)
DOMAIN = Table("domain", "domain", rows=11, width=16)
VECTORS = Table("pixels", "item", rows=500, width=8, trainable=False)
SHAPE = RankShape(
    ranks=1, tables=(USER, DOMAIN, VECTORS), dense=100, columns=3, train_rows=600, rows=800, all_train_rows=600,
    domains=10,
)  # fmt: skip
HELD = 4 * (100 + 1011 * 16)
NO_CHECKPOINTS = CheckpointSettings(minutes=0)


def needs(shape=SHAPE, specific_bytes=1e9, **train):
    return rank_memory(replace(TrainSettings(), **train), shape, specific_bytes)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["replicated", "mapped", "touched", "vectors", "statistics"])
def test_the_formula_is_within_a_quarter_of_the_measured_resident_size(run):
    command = [sys.executable, "-m", "tests.training.measured_memory", run]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["measured"] > (50e6 if run == "mapped" else 100e6)
    assert found["formula"] == pytest.approx(found["measured"], rel=0.25)


def test_rows_are_held_once_or_memory_mapped_and_vectors_on_a_gpu_alone():
    parts = needs(method="joint").always
    assert (parts["rows"], parts["orders"], parts["vectors"]) == (800 * (3 * 4 + 12), 600 * 32, 0)
    assert rank_memory(TrainSettings(), SHAPE, 1e9, on_gpu=True).always["vectors"] == 500 * 8 * 4
    mapped = rank_memory(TrainSettings(method="joint"), SHAPE, 1e9, is_mapped=True).always
    assert (mapped["rows"], mapped["orders"], mapped["vectors"], mapped["theta_S"]) == (0, 0, 0, HELD)


def test_vectors_that_tables_start_from_are_held_whole_before_training():
    shape = replace(SHAPE, starts=1000 * 64)
    found, without = needs(shape, method="separate"), needs(method="separate")
    assert (found.start, found.parts["start"]) == ({"start": 1000 * 64 * 4}, 1000 * 64 * 4)
    assert found.total == sum(found.always.values()) + 1000 * 64 * 4
    assert found.total > without.total
    assert needs(shape, method="dn").total == needs(method="dn").total  # by then they are released
    assert needs(replace(shape, ranks=4), method="separate", tables="sharded").start == found.start
    assert not rank_memory(TrainSettings(), shape, 1e9, is_mapped=True).start


@pytest.mark.parametrize(
    ("train", "copies"),
    [
        ({"method": "dn"}, 6),
        ({"method": "dn", "outer": OuterSettings(optimizer="nesterov")}, 5),
        ({"method": "dn", "outer": OuterSettings(optimizer="sgd")}, 4),
        ({"method": "alternate"}, 4),
        ({"method": "reptile"}, 4),
        ({"method": "joint"}, 4),
        ({"method": "joint", "inner": InnerSettings(optimizer="sgd")}, 2),
        ({"method": "mixed"}, 5),
        ({"method": "separate"}, 1),
    ],
)
def test_copies_of_replicated_tables_follow_from_the_optimizers(train, copies):
    assert needs(**train).tables == copies * HELD


@pytest.mark.parametrize(
    ("train", "dense_copies"),
    [({"method": "dn"}, 5), ({"method": "joint"}, 3), ({"method": "mixed"}, 4)],
)
def test_mapped_state_leaves_theta_s_and_what_belongs_to_dense_parameters(train, dense_copies):
    found = rank_memory(TrainSettings(**train), SHAPE, 1e9, maps_state=True)
    assert found.tables == HELD + dense_copies * 4 * 100
    in_memory = needs(**train)
    assert (found.always, found.specific) == (in_memory.always, in_memory.specific)


def test_moments_that_are_fresh_in_each_round_are_not_mapped():
    train = TrainSettings(method="pcgrad", inner=InnerSettings(state="fresh"))
    assert rank_memory(train, SHAPE, 1e9, maps_state=True).shared["inner"] == 2 * HELD


@pytest.mark.parametrize(("sparse", "numbers"), [("sgd", 0), ("adagrad", 1011), ("adam", 2 * 1011 * 16)])
def test_what_optimizers_of_rows_keep_is_counted(sparse, numbers):
    for dense in ("adam", "sgd"):
        found = needs(method="joint", inner=InnerSettings(optimizer=dense, sparse_optimizer=sparse)).shared["inner"]
        assert found == 4 * (numbers + (200 if {dense, sparse} != {"sgd"} else 0))


def test_statistics_are_counted_in_theta_s_and_while_they_are_measured():
    mean = Table("normalization.mean", "domain", 11, 24, feature=False, per_domain=True, measured=True)
    shape = replace(SHAPE, tables=(*SHAPE.tables, mean))
    plain, found = needs(method="dn"), needs(shape, method="dn")
    assert found.always["statistics"] == 6 * 8 * 11 * 24
    assert needs(replace(shape, ranks=2), method="dn").always["statistics"] == 7 * 8 * 11 * 24
    assert plain.always["statistics"] == 0
    assert found.always["theta_S"] - plain.always["theta_S"] == 4 * 11 * 24
    assert found.shared["outer"] - plain.shared["outer"] == 2 * 4 * 11 * 24  # momenta that no step moves
    assert found.shared["inner"] == plain.shared["inner"]


def test_fresh_moments_cover_touched_rows_unless_steps_combine_gradients():
    fresh = InnerSettings(state="fresh")
    assert needs(method="dn", inner=fresh).shared["inner"] == 2 * 4 * 100
    assert needs(method="pcgrad", inner=fresh).shared["inner"] == 2 * HELD


def test_a_sequence_that_shares_a_table_adds_what_it_reads_and_no_rows():
    history = replace(USER, name="history", column="history", length=5, shares="user")
    with_sequence = replace(SHAPE, tables=(*SHAPE.tables, history), columns=8)
    plain, found = needs(method="dn"), needs(with_sequence, method="dn")
    assert found.tables == plain.tables
    assert found.always["rows"] - plain.always["rows"] == 800 * 4 * 5
    few, more = (needs(each, method="dn", rounds_per_epoch=60).shared["round"] for each in (SHAPE, with_sequence))
    assert more - few == (60 - 10) * (7 * 64 + 16) + (60 - 10) * 48  # ten rows a round, of six ids each
    assert found.always["step"] > plain.always["step"] + 4 * 600 * 4 * 5 * 16


def test_of_sharded_tables_a_rank_holds_its_rows_and_no_inner_moments():
    sharded = needs(replace(SHAPE, ranks=4), method="dn", tables="sharded")
    held = 4 * (100 + (250 + 3) * 16)
    assert (sharded.always["theta_S"], sharded.shared["outer"], sharded.shared["best"]) == (held, 2 * held, held)
    assert sharded.shared["inner"] == 2 * 4 * 100


def test_specific_parameters_take_two_copies_and_two_more_during_a_checkpoint():
    found = needs(method="mamdr", checkpoint=NO_CHECKPOINTS).specific
    buffers = 3 * 10 * 400
    assert found["theta_i"] == buffers + 2 * 10 * 400
    assert needs(method="mamdr").specific["theta_i"] == buffers + 4 * 10 * 400
    assert needs(method="mamdr", specific_bytes=0).specific["theta_i"] == buffers  # in a file


def test_touched_rows_count_by_distinct_id_and_copy():
    shape, touched = replace(SHAPE, touched={"user": 500}), DRSettings(rows="touched")
    few, many = (needs(each, method="mamdr", dr=touched, checkpoint=NO_CHECKPOINTS) for each in (SHAPE, shape))
    added = many.specific["rows of theta_i"] - few.specific["rows of theta_i"]
    assert added == 500 * (2 * 8 + 2 * 16 * 4) + 700 * 2 * 10


def test_memory_on_a_gpu_is_left_out_of_each_stage_before_the_maximum():
    """theta_S's stage is the larger one on a CPU; next to a GPU theta_i's is."""
    found = needs(replace(SHAPE, touched={"user": 500}), method="mamdr", dr=DRSettings(rows="touched"))
    assert sum(found.shared.values()) > sum(found.specific.values())
    assert found.on_host(()) == found.total - found.always["rows"]
    on_device = ("theta_S", "vectors", "step", *found.shared)
    assert found.on_host(on_device) == found.always["orders"] + sum(found.specific.values())


def test_a_rank_below_the_mean_borrows_rows_where_ranks_lend():
    below, mean = (replace(SHAPE, ranks=2, all_train_rows=128_000, train_rows=rows) for rows in (600, 64_000))
    lending, alone, at_mean = (
        needs(shape, method="dn", balance_ranks=lends).shared["round"]
        for shape, lends in ((below, True), (below, False), (mean, True))
    )
    assert alone < lending == at_mean + (1000 - 10) * (3 * 4 + 12)


def test_settled_stages_do_not_add_up_and_those_of_rounds_do():
    settled = needs(method="mamdr")
    assert settled.total == sum(settled.always.values()) + sum(settled.shared.values())
    rounds = needs(method="mamdr", dr=DRSettings(schedule="rounds"))
    assert rounds.total == settled.total + sum(settled.specific.values())
