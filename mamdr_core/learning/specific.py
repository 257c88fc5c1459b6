"""How theta_i learns: Domain Regularization (Alg. 2), and finetuning."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.parameters import Scope, Theta
from mamdr_core.engine.plan import parts_in_step
from mamdr_core.learning.learner import Learner, Round

PART_ROWS = 1 << 20
"""Training rows, of some domains, whose embedding rows finetuning keeps in reach at once."""


def regularize(learner: Learner, round_: Round) -> None:
    """One pass of Domain Regularization over this rank's domains (Alg. 2 for every i; Alg. 3, lines 3-5).

    All targets take a step of line 2's loop together, as independent trajectories. A target's visit is what it was
    dealt since the last pass; a support's is a part of its sample, never many times the target's (`support_ratio`).
    The result does not depend on which rank owns a domain. With k = 0, or where there is no other domain, theta_i
    learns on T^i alone.
    """
    for domain, rows in round_.slices.items():
        learner.pending.setdefault(domain, []).append(rows)
    learner.rounds_since_dr += 1
    if learner.rounds_since_dr < learner.dr.every:
        return
    learner.rounds_since_dr = 0
    targets = {domain: torch.cat(parts) for domain, parts in sorted(learner.pending.items())}
    learner.pending.clear()
    drawn = {domain: _draw_supports(learner, round_, domain, len(rows)) for domain, rows in targets.items()}  # line 1
    met = [visit for steps in drawn.values() for step in steps for visit in step]
    learner.reach([*met, *(Visit(learner.train, rows) for rows in targets.values())])
    for place in range(max((len(supports) for supports in drawn.values()), default=0)):  # line 2
        domains = [domain for domain in targets if place < len(drawn[domain])]
        visits = [[*drawn[domain][place], Visit(learner.train, targets[domain])] for domain in domains]
        changes = learner.engine.descend_many(  # lines 3-5
            [Theta(learner.shared, learner.specific[domain]) for domain in domains],
            visits,
            learner.dr.lr,
            learner.dr.optimizer,
            [specific_scope(learner, domain) for domain in domains],
            [learner.round_seed(round_, domain, place) for domain in domains],
        )
        for domain, change, own_visits in zip(domains, changes, visits, strict=True):
            learner.specific[domain] = learner.specific[domain].add(change, learner.dr.gamma)  # line 6
            learner.count(own_visits)


def finetune(learner: Learner, epochs: int, val: Columns, measure: Callable[[int, Theta], float]) -> None:
    """Finetune theta_i on T^i alone, the best epoch on the domain's own validation AUC kept (appendix A.3).

    Args:
        learner: theta_S is trained and stays.
        epochs: passes over T^i at most; stops at the first that is not better.
        val: what `measure` looks at.
        measure: the validation AUC of a domain at a point; NaN where it cannot be measured.
    """
    for domain in _in_reach(learner, val):
        rows = _rows_of(learner, domain)
        if not len(rows):
            continue
        best = measure(domain, Theta(learner.shared))
        for epoch in range(epochs):
            round_ = Round(-1, epoch, {}, rows)
            seed = learner.round_seed(round_, domain)
            shuffled = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
            visits = [Visit(learner.train, shuffled)]
            theta = Theta(learner.shared, learner.specific[domain])
            change = learner.engine.descend(
                theta, visits, learner.dr.lr, learner.dr.optimizer, scope=specific_scope(learner, domain), seed=seed
            )
            learner.count(visits)
            tried = learner.specific[domain].add(change, 1.0)
            reached = measure(domain, Theta(learner.shared, tried))
            if not reached > best:
                break
            best, learner.specific[domain] = reached, tried


def _in_reach(learner: Learner, val: Columns) -> Iterator[int]:
    """This rank's domains, while the embedding rows of their training and validation rows are in reach."""
    for first, last in parts_in_step(learner.train.offsets.numpy(), PART_ROWS, learner.most):
        spans = [(columns, columns.offsets[[first, last]].tolist()) for columns in (learner.train, val)]
        device = learner.train.labels.device
        learner.reach([Visit(columns, torch.arange(*span, device=device)) for columns, span in spans])
        yield from (domain for domain in range(first, last) if domain in learner.specific)


def specific_scope(learner: Learner, domain: int) -> Scope:
    """What theta_i covers beyond dense parameters: the domain's own embedding, and rows of T^i's ids if so set."""
    own = {"domain": torch.tensor([domain + 1], device=learner.train.labels.device)}
    if learner.dr.rows == "none":
        return Scope(frozenset(own), own)
    rows = _rows_of(learner, domain)
    for table in learner.engine.trained_tables:
        if table.name != "domain":
            own[table.name] = learner.train.ids[table.column][rows].long().unique()
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
    candidates = np.flatnonzero(np.diff(offsets))
    if not settings.include_target:
        candidates = candidates[candidates != target]
    if not len(candidates):
        return [[]]
    random = np.random.default_rng(learner.round_seed(round_, target))
    chosen = random.choice(candidates, size=min(settings.k, len(candidates)), replace=False)
    most = max(1, round(settings.support_ratio * target_rows))
    steps = []
    for support in chosen:
        start, stop = offsets[support : support + 2]
        size = min(most, stop - start)
        first = int(random.integers(start, stop - size + 1))
        rows = torch.arange(first, first + size, device=learner.train.labels.device)
        steps.append([Visit(learner.supports, rows, as_domain=target)])
    return steps
