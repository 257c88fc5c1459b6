"""The work of each rank in a production epoch, by the product's own plan, placement and stacking, without computing.

Rows and steps are those of all ranks. Stacks are those of some ranks: DomainRegularization runs there with an engine
that forms stacks and computes nothing.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from production_counting import counting_learner
from production_shape import Ints, row_bytes, rows_by_domain, stages_of

from mamdr_core.config.job_config import Config
from mamdr_core.engine.plan import RoundPlan
from mamdr_core.learning.domain_regularization import DomainRegularization
from mamdr_core.learning.learner import Round
from mamdr_core.learning.step_sizes import step_rows, visit_rows
from mamdr_core.parallel.balance import Batches, balance_ranks
from mamdr_core.parallel.placement import place_domains
from mamdr_core.training.building import load_of

FEW_TARGETS = 5_000
"""Targets of a rank up to which all of their trajectories are cut."""


@dataclass(frozen=True)
class Targets:
    """What DR does for each domain in a pass, [n]: rows and steps of all its trajectories, support rows of them."""

    rows_n: Ints
    steps_n: Ints
    support_n: Ints


def pass_of(config: Config, owned: Ints | slice = slice(None)) -> Round:
    """The round in which DR makes a pass over all rows of some domains, whose positions nobody reads."""
    counts_n, _ = rows_by_domain(config)
    stage = stages_of(config.train)[1]
    plan = RoundPlan(counts_n, stage.rounds_per_epoch, config.train.smallest_slice, config.train.seed)
    start_n, stop_n = plan.slices(stage.first_epoch, 0)
    rows_n = stop_n - start_n
    visited = np.arange(len(rows_n))[owned]
    nothing = torch.zeros(1, dtype=torch.int8)
    slices = {int(domain): nothing.expand(rows_n[domain]) for domain in visited if rows_n[domain]}
    return Round(stage.first_epoch, 0, slices)


def targets_of(config: Config) -> Targets:
    """What DR does for each domain, from the supports that it draws."""
    learner = counting_learner(config, "cpu")
    regularize, pass_ = DomainRegularization(learner), pass_of(config)
    dr, batch_size = learner.settings.dr, config.train.batch_size
    figures = np.zeros((3, len(learner.train.offsets) - 1), dtype=np.int64)
    for target, dealt in pass_.slices.items():
        rows = visit_rows(dr, len(dealt))
        largest = step_rows(dr, rows, batch_size)
        support = [size for _, _, size in regularize.draw_supports(pass_, target, rows)]
        steps = sum(-(-size // largest) for size in support) - (-rows // largest) * len(support)
        figures[:, target] = sum(support) + len(support) * rows, steps, sum(support)
    return Targets(*figures)


@dataclass(frozen=True)
class Visits:
    """DN's visits of a round on all ranks, [V]: the rank, and the rows."""

    rank_V: Ints
    rows_V: Ints

    def count(self, ranks: int, batch_size: int) -> Ints:
        """Rows, steps (what `Visit.batches` cuts) and visits of each rank, [3, W]."""
        each = (self.rows_V, -(-self.rows_V // batch_size), np.ones_like(self.rows_V))
        return np.array([np.bincount(self.rank_V, each_V, ranks) for each_V in each]).astype(np.int64)


def visits_of(batches: Batches) -> Visits:
    """A rank visits the batches of a domain that it holds together."""
    n = int(batches.domain_U.max(initial=0)) + 1
    pairs, place_U = np.unique(batches.holder_U * n + batches.domain_U, return_inverse=True)
    return Visits(pairs // n, np.bincount(place_U, batches.sizes, len(pairs)).astype(np.int64))


def count_rounds(config: Config, owner_n: Ints, ranks: int) -> dict[str, object]:
    """DN over an epoch, on every rank: what it visits with lending, and the owners' part alone."""
    train, stage = config.train, stages_of(config.train)[0]
    plan = RoundPlan(rows_by_domain(config)[0], stage.rounds_per_epoch, train.smallest_slice, train.seed)
    lends = train.balance_ranks and ranks > 1
    owned, held, slices, planned = [], [], [], 0.0
    received_W = np.zeros(ranks)
    for number in range(plan.rounds):
        started = time.process_time()  # of this core, whatever else the machine does
        start_n, stop_n = plan.slices(stage.first_epoch, number)
        plan.order(stage.first_epoch, number)  # for its time alone
        batches = balance_ranks(start_n, stop_n, owner_n, ranks, train.batch_size) if lends else None
        planned += time.process_time() - started
        visited = np.flatnonzero(stop_n > start_n)
        slices.append((stop_n - start_n)[visited])
        own = Visits(owner_n[visited], slices[-1])
        owned.append(own.count(ranks, train.batch_size))
        held.append((visits_of(batches) if batches else own).count(ranks, train.batch_size))
        if batches:
            received_W += np.bincount(batches.holder_U[batches.lent], batches.sizes[batches.lent], ranks)
    rows = np.concatenate(slices)
    counted = dict(zip(("rows", "steps", "visits"), np.stack(held, axis=1), strict=True))
    return {
        "rounds": plan.rounds,
        **{name: int(each.sum()) for name, each in counted.items()},
        "median_visit": float(np.median(rows)),
        "below_500": float((rows < 500).mean()),
        "rows_below_500": float(rows[rows < 500].sum() / max(rows.sum(), 1)),
        "planning_seconds": planned / plan.rounds,
        "largest_round": float(counted["rows"].max(initial=0)),
        **_imbalance(counted),
        "owned": _imbalance(dict(zip(("rows", "steps", "visits"), np.stack(owned, axis=1), strict=True))),
        "lent": {
            "rows": int(received_W.sum()),
            "bytes": row_bytes(config) * int(received_W.sum()),
            "most_received": row_bytes(config) * int(received_W.max()),
        },
    }


def _imbalance(counted: dict[str, Ints]) -> dict[str, object]:
    """The ranks that rounds wait for, of figures [R, W]."""
    return {
        "slowest_rows": float(counted["rows"].max(1).sum()),
        "slowest_steps": float(counted["steps"].max(1).sum()),
        "round_imbalance": {name: float((each.max(1) / each.mean(1)).mean()) for name, each in counted.items()},
        "epoch_imbalance": {name: float(each.sum(0).max() / each.sum(0).mean()) for name, each in counted.items()},
    }


def count_stacks(config: Config, owned: Ints, device: str) -> dict[str, float]:
    """DR's stacks of a pass on a rank that owns some domains.

    Of many targets, one of the k trajectories of each is cut and counts k times: they differ by their support alone.
    """
    k = config.train.dr.k
    times = k if len(owned) > FEW_TARGETS and k > 1 else 1
    if times > 1:
        config = replace(config, train=replace(config.train, dr=replace(config.train.dr, k=1)))
    learner = counting_learner(config, device)
    DomainRegularization(learner)(pass_of(config, owned))
    counted = {name: times * each for name, each in vars(learner.engine.count).items()}
    return counted | {"descended": times * learner.rows_descended, "counted_for": times}


def count_pass(config: Config, targets: Targets, owner_n: Ints, ranks: int) -> dict[str, object]:
    """A pass of DR, on every rank."""
    owned = {
        name: np.bincount(owner_n, weights=each_n, minlength=ranks)
        for name, each_n in (("rows", targets.rows_n), ("steps", targets.steps_n), ("targets", targets.rows_n > 0))
    }
    return {
        **{name: int(each.sum()) for name, each in owned.items()},
        **{f"slowest_{name}": float(each.max()) for name, each in owned.items()},
        "support_rows": int(targets.support_n.sum()),
        "longest_target": int(targets.steps_n.max()),
        "imbalance": {name: float(each.max() / each.mean()) for name, each in owned.items()},
    }


def replay(config: Config, ranks: int, targets: Targets, stack_ranks: int, devices: list[str]) -> dict[str, object]:
    """An epoch of DN and a pass of DR on W ranks.

    Args:
        config: of the run.
        ranks: W.
        targets: see there.
        stack_ranks: ranks whose stacks are cut: the one with most rows, and others evenly down to the median, or all.
        devices: types of device whose stacks are cut.
    """
    owner_n = place_domains(load_of(config.train, rows_by_domain(config)[0]), ranks)
    rows_W = np.bincount(owner_n, weights=targets.rows_n, minlength=ranks)
    last = ranks - 1 if stack_ranks >= ranks else ranks // 2
    chosen = np.argsort(-rows_W, kind="stable")[np.linspace(0, last, min(stack_ranks, ranks)).astype(int)]
    return {
        "ranks": ranks,
        "dn": count_rounds(config, owner_n, ranks),
        "dr": count_pass(config, targets, owner_n, ranks),
        "stack_ranks": [int(rank) for rank in chosen],
        "stacks": {
            device: [count_stacks(config, np.flatnonzero(owner_n == rank), device) for rank in chosen]
            for device in devices
        },
    }
