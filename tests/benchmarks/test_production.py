"""The production benchmark counts what the engine really runs, and its three parts fit together."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mamdr_core.engine.plan import RoundPlan
from mamdr_core.parallel.collective import run_simulated
from mamdr_core.parallel.lending import Lending
from mamdr_core.parallel.placement import place_domains
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.rounds import make_rounds
from tests.engine.small_models import random_columns

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = [
    "synthetic.rows=2800", "synthetic.users=50", "synthetic.items=30", "synthetic.domains=12",
    "model.embedding_dim=4", "model.hidden=[8]", "train.rounds_per_epoch=4", "train.batch_size=64",
    "train.dr.batch_size=16",
]  # fmt: skip


@pytest.fixture
def load(monkeypatch):
    """Imports a module of the benchmarks, which are scripts."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["trained", "fixed"])
def test_the_replay_counts_the_steps_that_a_run_makes(load, monkeypatch, kind):
    shape, sample, replay = (load(f"production_{name}") for name in ("shape", "sample", "replay"))
    config = shape.production_config(SMALL)
    train, val = sample.draw_columns(config)
    for module in (load("production_counting"), replay):  # a log's rows by domain differ a little from their shares
        monkeypatch.setattr(module, "rows_by_domain", lambda _: (train.counts.numpy(), val.counts.numpy()))
    config = config if kind == "trained" else shape.with_fixed_vectors(config)
    found = sample.run_sample(shape.production_config(SMALL), "cpu", [kind], compiles=False)[kind]
    config = sample.shortened(config)  # the number of epochs decides what DR draws
    targets = replay.targets_of(config)
    counted = replay.replay(config, 1, targets, 1, ["cpu"])
    (stacks,) = counted["stacks"]["cpu"]
    assert (found["rounds"], found["passes"], found["checkpoints"] > 0) == (4, 1, True)
    assert found["rows"]["dn"] == counted["dn"]["rows"] == len(train)
    assert found["steps"]["dn"] == counted["dn"]["steps"]
    assert found["rows"]["dr"] == counted["dr"]["rows"] == stacks["rows"] == stacks["descended"]
    assert found["steps"]["dr"] == stacks["steps"]
    assert found["padded"]["dr"] == stacks["padded"]
    assert stacks["trajectories"] == 5 * counted["dr"]["targets"]
    assert found["seconds"]["dn"] + found["seconds"]["dr"] < found["trained"]


def test_ranks_share_out_all_rows_and_steps(load):
    shape, replay = load("production_shape"), load("production_replay")
    config = shape.production_config([], domains=40)
    targets = replay.targets_of(config)
    one, three = (replay.replay(config, ranks, targets, ranks, ["cpu"]) for ranks in (1, 3))
    assert one["dn"]["rows"] == three["dn"]["rows"] == shape.rows_by_domain(config)[0].sum()
    for of in ("rows", "steps", "targets"):
        assert one["dr"][of] == three["dr"][of]
    assert sum(stacks["rows"] for stacks in three["stacks"]["cpu"]) == one["dr"]["rows"]
    assert one["dr"]["steps"] == targets.steps_n.sum()
    assert one["dn"]["epoch_imbalance"]["rows"] == 1 < three["dn"]["round_imbalance"]["rows"]


def test_the_replay_counts_what_ranks_visit_with_lending(load):
    """Three ranks deal the rounds of an epoch of 40 domains, and of each visit the engine's batches are counted."""
    shape, replay = load("production_shape"), load("production_replay")
    config = shape.production_config(["train.batch_size=64", "train.rounds_per_epoch=4"], domains=40)
    counts_n, _ = shape.rows_by_domain(config)
    owner_n, columns = place_domains(counts_n, 3), random_columns(counts_n.tolist())
    plan = RoundPlan(counts_n, 4, config.train.smallest_slice, config.train.seed)

    def task(collective):
        train = columns.take(
            (torch.from_numpy(owner_n)[columns.ids["domain"].long() - 1] == collective.rank).nonzero()[:, 0]
        )
        lending = Lending(collective, owner_n, 64)
        rounds = make_rounds(plan, 0, train, collective.rank, Arrays(), lending=lending)
        visits = [list(round_.visits(train).values()) for round_ in rounds]
        return [(sum(len(v.rows) for v in own), sum(len(v.batches(64)) for v in own), len(own)) for own in visits]

    found = np.array(run_simulated(task, 3))  # [rank, round, figure]
    counted = replay.count_rounds(config, owner_n, 3)
    assert [counted[of] for of in ("rows", "steps", "visits")] == found.sum((0, 1)).tolist()
    assert counted["slowest_rows"] == found[..., 0].max(0).sum()
    assert counted["slowest_steps"] == found[..., 1].max(0).sum()
    assert counted["slowest_steps"] < counted["owned"]["slowest_steps"]
    assert 0 < counted["lent"]["rows"] < counted["rows"] / 2


def test_of_many_targets_one_trajectory_stands_for_all(load, monkeypatch):
    shape, replay = load("production_shape"), load("production_replay")
    config = shape.production_config([], domains=100)
    exact = replay.count_stacks(config, np.arange(100), "cuda")
    monkeypatch.setattr(replay, "FEW_TARGETS", 10)
    about = replay.count_stacks(config, np.arange(100), "cuda")
    assert (exact["counted_for"], about["counted_for"]) == (1, 5)
    assert about["trajectories"] == exact["trajectories"] == 500
    for of, within in (("rows", 0.01), ("padded", 0.01), ("steps", 0.1)):
        assert about[of] == pytest.approx(exact[of], rel=within)


def test_the_estimate_takes_what_the_other_two_write(load, tmp_path, capsys):
    bench = load("bench_production")
    counted, sampled, estimated = (tmp_path / f"{name}.json" for name in ("replay", "sample", "estimate"))
    sets = [word for each in SMALL if not each.startswith("synthetic.") for word in ("--set", each)]
    bench.main(["replay", "--domains", "20", "--ranks", "2", "8", "--out", str(counted), *sets])
    short = ["--scale", "0.003", "--no-compile", "--threads", "1", *sets]
    bench.main(["sample", *short, "--out", str(sampled)])
    bench.main(
        ["estimate", "--replay", str(counted), "--sample", str(sampled), "--cores", "2", "--out", str(estimated)]
    )
    terms = json.loads(estimated.read_text())
    assert set(terms) == {
        f"{on}, {kind}" for on in ("2 cores, 2 ranks of 1 threads", "8 H100s") for kind in ("trained", "fixed")
    }
    assert all(term["seconds"] >= 0 for each in terms.values() for term in each)
    printed = capsys.readouterr().out
    assert "share of the products of its steps" in printed
    assert "an epoch of DN and a pass of DR" in printed
