"""The parts of the job conflict at 69,102 domains: gradients at theta_S, their pairs, and rounds of DN.

    .venv/bin/python benchmarks/bench_conflict.py --domains 69102 --rows 4e6

Log-normal domains; the network of the small production run (three embeddings of 16, hidden layers of 64 and 32); one
thread unless --threads is given. Each part runs in two versions, one after the other: gradients one by one and in
stacks, and the same rounds of DN with the eager engine and with the fast engine, which compiles with an empty cache.
The largest difference is that of a value of a gradient, of a cosine, and of DN's change of theta_S relative to its
length.
"""

import argparse
import os
import tempfile
import time
from functools import partial
from itertools import islice

import numpy as np
import torch
from bench_domains import draw_columns
from machine import machine
from torch import Tensor

from mamdr_core.config.engine import InnerSettings, OuterSettings
from mamdr_core.config.learning import LearningSettings
from mamdr_core.config.models import ModelSettings
from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.dense_gradients import dense_gradients
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.parameters import Shared, Theta
from mamdr_core.engine.plan import RoundPlan
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.experiments.gradients import Pairs, draw_pairs, measure_pairs
from mamdr_core.learning.domain_negotiation import DomainNegotiation
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.methods import find_method
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.parallel.averaging import mean_change
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.rounds import make_rounds

ROWS, BATCH_ROWS = 1024, 1024
"""Of a domain's gradient, and of a step, at most."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=int, default=69_102)
    parser.add_argument("--rows", type=float, default=4e6)
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=16, help="of DN, of 64 an epoch")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    columns, sizes = draw_columns(int(options.rows), options.domains)
    inputs = declare_inputs(settings := ModelSettings(embedding_dim=16, hidden=(64, 32)), (), sizes)
    engines = [kind(build_model(settings, inputs), inputs.tables, {}, BATCH_ROWS) for kind in (EagerEngine, FastEngine)]
    shared = initial_shared(engines[0].flat.module, inputs.tables, 0)
    print(f"{machine()}; {len(columns):,} rows of {len(columns.occupied):,} domains, {options.threads} threads.\n")
    print("| part | before, s | now, s | ratio | largest difference |")
    print("|---|---|---|---|---|")
    pairs = draw_pairs(columns.occupied, options.pairs, 0)
    _measure_gradients(engines[0], shared, columns, pairs)
    plan = RoundPlan(np.diff(columns.offsets.numpy()), 64, 32, 0)
    rounds = list(islice(make_rounds(plan, 0, columns, 0, Arrays()), options.rounds))
    _measure_rounds(engines, shared, columns, rounds)


def _print(part: str, before: float, now: float, gap: float) -> None:
    print(f"| {part} | {before:.2f} | {now:.2f} | {before / now:.1f} | {gap:.1e} |", flush=True)


def _measure_gradients(engine: EagerEngine, shared: Shared, columns: Columns, pairs: Pairs) -> None:
    """Gradients of all domains of the pairs on their first rows, then cosines of these gradients."""
    domains, offsets = np.unique([pairs.first, pairs.second]), columns.offsets.tolist()
    rows = [torch.arange(offsets[d], min(offsets[d] + ROWS, offsets[d + 1])) for d in domains.tolist()]
    started = time.perf_counter()
    one_by_one = torch.stack([engine.gradient(Theta(shared), Visit(columns, own)).dense for own in rows])
    before = time.perf_counter() - started
    started = time.perf_counter()
    stacked = dense_gradients(engine, shared, columns, torch.cat(rows), np.cumsum([0, *map(len, rows)]))
    now = time.perf_counter() - started
    _print(
        f"gradients of {len(domains):,} domains, {sum(map(len, rows)):,} rows",
        before, now, float((one_by_one - stacked).abs().max()),
    )  # fmt: skip
    started = time.perf_counter()
    expected_K = _cosines_one_by_one(dict(zip(domains.tolist(), stacked, strict=True)), pairs)
    before = time.perf_counter() - started
    started = time.perf_counter()
    found = measure_pairs(lambda _: stacked, pairs, len(domains))  # all of them at once
    now = time.perf_counter() - started
    _print(f"cosines of {len(pairs.first):,} pairs", before, now, float(np.abs(found.cosine_K - expected_K).max()))


def _cosines_one_by_one(gradients: dict[int, Tensor], pairs: Pairs) -> np.ndarray:
    """As the job computed them before, [K]."""
    norms = {domain: float(vector.double().norm()) for domain, vector in gradients.items()}
    return np.array(
        [
            float(gradients[one].double() @ gradients[other].double()) / (norms[one] * norms[other])
            for one, other in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
        ]
    )


def _measure_rounds(engines: list[EagerEngine], shared: Shared, columns: Columns, rounds: list[Round]) -> None:
    """The same rounds with both engines, the fast one with an empty cache of compiled steps and then without one."""
    seconds, ends = [], []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for engine in (engines[0], engines[1], engines[1]):
            learner = _dn_learner(engine, shared.copy(), columns)
            negotiate = DomainNegotiation(learner)
            started = time.perf_counter()
            for round_ in rounds:
                negotiate(round_)
            seconds.append(time.perf_counter() - started)
            ends.append(learner.shared.dense)
    steps = sum(-(-len(own) // BATCH_ROWS) for round_ in rounds for own in round_.slices.values())
    moved = float((ends[0] - shared.dense).norm())
    for number, which in ((1, "compiling included"), (2, "compiled before")):
        gap = float((ends[number] - ends[0]).norm()) / moved
        _print(f"{len(rounds)} rounds of DN, {steps:,} steps, {which}", seconds[0], seconds[number], gap)


def _dn_learner(engine: EagerEngine, shared: Shared, columns: Columns) -> Learner:
    """With the steps that conflict takes by default."""
    inner, outer = InnerSettings(optimizer="sgd", lr=1e-3), OuterSettings(optimizer="sgd", beta=0.5)
    return Learner(
        engine=engine,
        train=columns,
        supports=None,
        shared=shared,
        specific=SpecificStore([], MemoryBuffer(shared.dense), shared.dense),
        average=partial(mean_change, SingleProcess()),
        settings=find_method("dn").settle(LearningSettings(inner=inner, outer=outer)),
        seed=0,
    )


if __name__ == "__main__":
    main()
