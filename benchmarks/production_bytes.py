"""Bytes that a production run holds, exchanges and writes, by the product's own objects on tensors without storage."""

from itertools import chain

import numpy as np
import torch
from production_counting import counting_learner
from production_replay import Targets
from production_shape import Ints, inputs_of, row_bytes, rows_by_domain

from mamdr_core.config.job_config import Config
from mamdr_core.engine.parameters import Shared
from mamdr_core.learning.domain_negotiation import DomainNegotiation
from mamdr_core.learning.learner import Round
from mamdr_core.parallel.placement import place_domains
from mamdr_core.parallel.sharded import ShardedTable
from mamdr_core.runtime.stateful import State
from mamdr_core.training.building import load_of
from mamdr_core.training.early_stop import EarlyStop

LOCAL_COPIES = 5
"""Of a row of a sharded table that a rank reads in a round: fetched, at its start, trained, and Adam's two moments."""


class Rank:
    """Stands for the ranks where nothing is exchanged."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def theta_without_storage(config: Config, ranks: int, sharded: bool) -> Shared:
    """theta_S of rank 0, on torch's meta device."""
    tables = {}
    for table in (table for table in inputs_of(config).tables if table.trainable):
        rows = len(range(0, table.rows, ranks)) if sharded else table.rows
        own = torch.empty(rows, table.width, device="meta")
        tables[table.name] = ShardedTable(table, own, Rank(0, ranks)) if sharded else own
    parameters = len(counting_learner(config, "cpu").engine.flat.values_P)
    return Shared(torch.empty(parameters, device="meta"), tables)


def state_of(config: Config, ranks: int, sharded: bool) -> State:
    """What a checkpoint holds of rank 0 after a round and a validation, theta_i aside."""
    learner = counting_learner(config, "cpu", theta_without_storage(config, ranks, sharded))
    learner.prefetch = lambda visits: None
    negotiate, early_stop = DomainNegotiation(learner), EarlyStop(1, learner)
    negotiate(Round(0, 0, {}))
    early_stop.record(float("nan"), 1)
    parts = {"theta_S": learner, "early_stop": early_stop, "shared": negotiate}
    return State.join({name: each.state_dict() for name, each in parts.items()})


def count_bytes(config: Config, ranks: int, targets: Targets, largest_round: float) -> dict[str, object]:
    """Bytes of a run, by the number of ranks.

    Args:
        config: of the run.
        ranks: W.
        targets: what DR does for each domain.
        largest_round: rows of the rank and round that has most.
    """
    counts_n, _ = rows_by_domain(config)
    owner_n = place_domains(load_of(config.train, counts_n), ranks)
    inputs, parameters = inputs_of(config), len(counting_learner(config, "cpu").engine.flat.values_P)
    # Of every table that is looked up by domain, theta_i has one row with its id.
    own_rows = sum(4 * table.width + 8 for table in inputs.tables if table.trainable and table.column == "domain")
    each = 4 * parameters + own_rows
    domains_W = np.bincount(owner_n[counts_n > 0], minlength=ranks)
    theta_i = each * int(domains_W.sum())
    read = sum(table.width for table in inputs.tables if table.trainable and table.column != "domain")
    found: dict[str, object] = {"theta_i": theta_i, "theta_i_rank": each * int(domains_W.max())}
    for kind in ("replicated", "sharded"):
        state = state_of(config, ranks, kind == "sharded")
        same, own = (_nbytes(*groups) for groups in ((state.same,), (state.rows, state.own)))
        found[kind] = {
            "theta_S": sum(
                4 * getattr(table, "own", table).numel()
                for table in theta_without_storage(config, ranks, kind == "sharded").tables.values()
            ),
            "rank": same + own,
            "checkpoint": same + ranks * own + 2 * theta_i,
            "checkpoint_rank": same + own + 2 * each * int(domains_W.max()),
        }
    found["local_rows"] = LOCAL_COPIES * 4 * read * int(largest_round)
    found["exchanged_rows"] = 4 * 2 * read * int(largest_round)
    return found | _support_bytes(config, targets, counts_n, owner_n, ranks)


def _support_bytes(config: Config, targets: Targets, counts_n: Ints, owner_n: Ints, ranks: int) -> dict[str, object]:
    """Of the samples that supports are drawn from: what a rank holds, and what it receives in a pass, at most."""
    sizes = np.minimum(counts_n, config.train.dr.support_rows)
    held_W = np.bincount(owner_n, weights=sizes, minlength=ranks)
    drawn_W = np.bincount(owner_n, weights=targets.support_n, minlength=ranks)
    return {
        "support_rows": int(sizes.sum()),
        "support_received": row_bytes(config) * int(drawn_W.max()) if ranks > 1 else 0,
        "support_held": 8 * int(held_W.max()),  # positions
    }


def _nbytes(*groups: dict[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in chain.from_iterable(group.values() for group in groups))
