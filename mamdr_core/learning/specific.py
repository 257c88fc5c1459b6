"""How theta_i learns: Domain Regularization (Alg. 2); without support domains, finetuning."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Scope, Theta
from mamdr_core.engine.plan import parts_in_step
from mamdr_core.learning.learner import Learner, Round

PART_ROWS = 1 << 20
"""Rows of targets, about, whose embedding rows are in reach at once."""


def regularize(learner: Learner, round_: Round) -> None:
    """One pass of Domain Regularization over this rank's domains (Alg. 2 for every i; Alg. 3, lines 3-5).

    Targets of like size take a step of line 2's loop together, as independent trajectories. A target's visit is what it
    was dealt since the last pass; a support's is a part of its sample, never many times the target's (`support_ratio`).
    The result does not depend, but for rounding, on which rank owns a domain. With k = 0, or where there is no other
    domain, theta_i learns on T^i alone.
    """
    targets = _dealt_since(learner, round_)
    if targets is None:
        return

    def draw(target: int) -> list[list[Visit]]:
        return _draw_supports(learner, round_, target, len(targets[target]))

    own = {target: Visit(learner.train, rows, None, learner.dr.batch_size) for target, rows in targets.items()}
    alike = sorted(targets, key=lambda target: len(targets[target]))
    ends = np.cumsum([0, *(len(targets[target]) for target in alike)])
    for first, last in parts_in_step(ends, PART_ROWS, learner.most):
        part = alike[first:last]
        met = (visit for target in part for place in draw(target) for visit in place)
        learner.reach(chain(met, (own[target] for target in part)))
        _regularize(learner, round_, part, own, draw)


def _regularize(
    learner: Learner,
    round_: Round,
    part: Sequence[int],
    own: Mapping[int, Visit],
    draw: Callable[[int], list[list[Visit]]],
) -> None:
    """Alg. 2 for some targets, whose embedding rows are in reach."""
    for group in learner.specific.groups(part):
        scopes = {target: specific_scope(learner, target) for target in group}
        supports = {target: draw(target) for target in group}  # line 1
        for place in range(max(len(supports[target]) for target in group)):  # line 2
            domains = [target for target in group if place < len(supports[target])]
            visits = [[*supports[target][place], own[target]] for target in domains]
            changes = learner.engine.descend_many(  # lines 3-5
                [Theta(learner.shared, group[target]) for target in domains],
                visits,
                learner.dr.lr,
                learner.dr.optimizer,
                [scopes[target] for target in domains],
                [learner.round_seed(round_, target, place) for target in domains],
            )
            for target, change, own_visits in zip(domains, changes, visits, strict=True):
                group[target].move(change, learner.dr.gamma)  # line 6
                learner.count(own_visits)


def _dealt_since(learner: Learner, round_: Round) -> dict[int, Tensor] | None:
    """By domain, the rows dealt since DR's last pass; None where it is not time for the next."""
    for domain, rows in round_.slices.items():
        learner.pending.setdefault(domain, []).append(rows)
    learner.rounds_since_dr += 1
    if learner.rounds_since_dr < learner.dr.every:
        return None
    learner.rounds_since_dr = 0
    targets = {domain: torch.cat(parts) for domain, parts in sorted(learner.pending.items())}
    learner.pending.clear()
    return targets


def specific_scope(learner: Learner, domain: int) -> Scope:
    """What theta_i covers beyond dense parameters; the same in every pass, so found once.

    The domain's own row of every table looked up by domain (its embedding, its towers in multi-tower models), never
    another domain's; and embedding rows of T^i's ids if so set.
    """
    if domain not in learner.scopes:
        learner.scopes[domain] = _find_scope(learner, domain)
    return learner.scopes[domain]


def _find_scope(learner: Learner, domain: int) -> Scope:
    tables = learner.engine.trained_tables
    device = learner.shared.dense.device
    row = torch.tensor([domain + 1], device=device)
    own = {table.name: row for table in tables if table.column == "domain"}
    if learner.dr.rows == "none":
        return Scope(frozenset(own), own)
    rows = _rows_of(learner, domain)
    for table in tables:
        if table.name not in own:
            own[table.name] = learner.train.ids[table.column][rows].long().unique().to(device)
    return Scope(None, own)


def _rows_of(learner: Learner, domain: int) -> Tensor:
    start, stop = learner.train.offsets[domain : domain + 2].tolist()
    return torch.arange(start, stop, device=learner.train.labels.device)


def _draw_supports(learner: Learner, round_: Round, target: int, target_rows: int) -> list[list[Visit]]:
    """By step of line 2's loop, the visit to a support domain; one step without a visit where there is none to draw."""
    settings = learner.dr
    if settings.k == 0 or learner.supports is None:
        return [[]]
    offsets = learner.supports.offsets.numpy()
    candidates = learner.supports.occupied
    place = np.searchsorted(candidates, target)
    leaves_out = not settings.include_target and place < len(candidates) and candidates[place] == target
    count = len(candidates) - leaves_out
    if not count:
        return [[]]
    random = np.random.default_rng(learner.round_seed(round_, target))
    chosen = random.choice(count, size=min(settings.k, count), replace=False)
    if leaves_out:
        chosen += chosen >= place
    most = max(1, round(settings.support_ratio * target_rows))
    steps = []
    for support in candidates[chosen]:
        start, stop = offsets[support : support + 2]
        size = min(most, stop - start)
        first = int(random.integers(start, stop - size + 1))
        rows = torch.arange(first, first + size, device=learner.train.labels.device)
        steps.append([Visit(learner.supports, rows, target, settings.batch_size)])
    return steps
