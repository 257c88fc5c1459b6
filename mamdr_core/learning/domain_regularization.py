"""Domain Regularization: Algorithm 2, the update of every theta_i in MAMDR, or finetuning without support domains."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mamdr_core.engine.caches import known_ids
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Change, Scope, Theta
from mamdr_core.engine.plan import parts_in_step
from mamdr_core.learning.alternate import alternate
from mamdr_core.learning.learner import Draw, Learner, Round
from mamdr_core.learning.method import Method
from mamdr_core.learning.step_sizes import part_of, scaled_rate, step_rows, visit_rows
from mamdr_core.models.tables import readers
from mamdr_core.runtime.stateful import DomainRows, State

PART_ROWS = 1 << 20
"""Approximate number of rows of targets and supports that are fetched together, with their embedding rows."""


class DomainRegularization:
    """Algorithm 2 for every i (Alg. 3, lines 3 to 5). It is called every round; every `dr.every` rounds is a pass.

    Targets of similar size run each iteration of line 2's loop together, as independent trajectories. A target's visit
    has the rows of its slices since the last pass, or a part of them. A support's visit has a part of its sample, at
    most `dr.support_ratio` times the target's rows. The result does not depend, except for rounding, on which rank owns
    a domain. With k = 0, or without other domains, theta_i is trained on T^i alone.

    Args:
        learner: the learner with theta_S and the theta_i of this rank's domains.

    Attributes:
        pending: by domain, the rows of its slices since the last pass.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self.pending: dict[int, list[Tensor]] = {}
        self._rounds_since = 0
        self._scopes: dict[int, Scope] = {}

    def __call__(self, round_: Round) -> None:
        """Add a round's rows to the pending ones and, if a pass is due, update the theta_i of this rank's domains."""
        learner, dr, targets = self._learner, self._learner.settings.dr, self._take_pending(round_)
        if targets is None:
            return
        by_size = sorted(targets, key=lambda target: len(targets[target]))
        drawn = {target: self.draw_supports(round_, target, visit_rows(dr, len(targets[target]))) for target in by_size}
        rows = [len(targets[target]) + sum(size for _, _, size in drawn[target]) for target in by_size]
        for first, last in parts_in_step(np.cumsum([0, *rows]), PART_ROWS, learner.all_reduce_max):
            part = by_size[first:last]
            steps = self._visits({target: targets[target] for target in part}, drawn)
            learner.prefetch(visit for of_target in steps.values() for visits in of_target for visit in visits)
            self._regularize(round_, steps)
            del steps  # free the rows before those of the next part are fetched

    def _visits(
        self, targets: Mapping[int, Tensor], drawn: Mapping[int, Sequence[Draw]]
    ) -> dict[int, list[list[Visit]]]:
        """By target and iteration of line 2's loop: the visits to a support domain and to the target, or to the latter.

        Args:
            targets: by domain, its rows of the pass.
            drawn: by target, its support rows.
        """
        learner, dr = self._learner, self._learner.settings.dr
        columns = learner.train
        rows: Sequence[Tensor] = ()
        if learner.supports is not None:
            columns, rows = learner.supports.fetch([draw for target in targets for draw in drawn[target]])
        fetched = iter(rows)
        steps: dict[int, list[list[Visit]]] = {}
        for target, own in targets.items():
            visited = visit_rows(dr, len(own))
            size = step_rows(dr, visited, learner.engine.batch_size)
            supports = [[Visit(columns, next(fetched), target, size)] for _ in drawn[target]] or [[]]
            steps[target] = [
                [*support, Visit(learner.train, part_of(own, number * len(own) // len(supports), visited), None, size)]
                for number, support in enumerate(supports)
            ]
        return steps

    def _regularize(self, round_: Round, steps: Mapping[int, Sequence[Sequence[Visit]]]) -> None:
        """Algorithm 2 for some targets, whose embedding rows have been prefetched.

        Args:
            round_: the round, for the seeds of dropout.
            steps: by target and iteration of line 2's loop, its visits.
        """
        for group in self._learner.specific.groups(list(steps)):
            for number in range(max(len(steps[target]) for target in group)):  # line 2
                by_rate: dict[float, dict[int, Sequence[Visit]]] = {}
                for target in group:
                    if number < len(steps[target]):
                        visits = steps[target][number]
                        by_rate.setdefault(self._rate(visits), {})[target] = visits
                for rate, visits_by_target in by_rate.items():
                    self._step(round_, number, group, visits_by_target, rate)

    def _step(
        self,
        round_: Round,
        number: int,
        group: Mapping[int, Change],
        visits: Mapping[int, Sequence[Visit]],
        rate: float,
    ) -> None:
        """Lines 3 to 6 of Algorithm 2 for some targets with the same inner rate.

        Args:
            round_, number: the round and the iteration of line 2's loop, for the seeds of dropout.
            group: theta_i by target, updated in place.
            visits: the visits of each target.
            rate: learning rate of the inner steps.
        """
        learner, dr = self._learner, self._learner.settings.dr
        changes = learner.engine.descend_many(  # lines 3-5: theta~_i - theta_i
            [Theta(learner.shared, group[target]) for target in visits],
            list(visits.values()),
            rate,
            dr.optimizer,
            [self._scope(target) for target in visits],
            [learner.round_seed(round_, target, number) for target in visits],
        )
        for (target, target_visits), change in zip(visits.items(), changes, strict=True):
            group[target].move(change, dr.gamma)  # line 6
            learner.count(target_visits)

    def _rate(self, visits: Sequence[Visit]) -> float:
        """Inner learning rate of a target's visits."""
        return scaled_rate(self._learner.settings.dr, visits[-1].batch_size, self._learner.engine.batch_size)

    def draw_supports(self, round_: Round, target: int, target_rows: int) -> list[Draw]:
        """Draw the support domains of a target (Alg. 2, line 1), and consecutive rows of the sample of each.

        Args:
            round_: the round, from which the seed is derived.
            target: index of the target domain.
            target_rows: number of rows of the target's visit.

        Returns:
            One draw for each iteration of line 2's loop; empty if there are no support domains.
        """
        learner, dr = self._learner, self._learner.settings.dr
        if dr.k == 0 or learner.supports is None:
            return []
        candidates = learner.supports.occupied
        position = np.searchsorted(candidates, target)
        excludes_target = not dr.include_target and position < len(candidates) and candidates[position] == target
        count = len(candidates) - excludes_target
        if not count:
            return []
        random = np.random.default_rng(learner.round_seed(round_, target))
        chosen = random.choice(count, size=min(dr.k, count), replace=False)
        if excludes_target:
            chosen += chosen >= position
        max_rows = max(1, round(dr.support_ratio * target_rows))
        draws = []
        for support in candidates[chosen].tolist():
            sampled = int(learner.supports.counts_n[support])
            size = min(max_rows, sampled)
            draws.append((support, int(random.integers(sampled - size + 1)), size))
        return draws

    def _take_pending(self, round_: Round) -> dict[int, Tensor] | None:
        """By domain, the rows since the last pass, this round's included; None if no pass is due."""
        for domain, rows in round_.slices.items():
            self.pending.setdefault(domain, []).append(rows)
        self._rounds_since += 1
        if self._rounds_since < self._learner.settings.dr.every:
            return None
        self._rounds_since = 0
        targets = {domain: torch.cat(parts) for domain, parts in sorted(self.pending.items())}
        self.pending.clear()
        return targets

    def _scope(self, domain: int) -> Scope:
        """The embedding rows that theta_i covers, in addition to dense parameters; they are cached.

        They are the domain's row of every table that is looked up by domain (its embedding, its towers in multi-tower
        models) and, with `dr.rows` touched, the embedding rows of the ids in T^i.
        """
        if domain not in self._scopes:
            self._scopes[domain] = self._find_scope(domain)
        return self._scopes[domain]

    def _find_scope(self, domain: int) -> Scope:
        learner = self._learner
        tables = learner.engine.trained_tables
        device = learner.shared.dense.device
        row = torch.tensor([domain + 1], device=device)
        own = {table.name: row for table in tables if table.column == "domain"}
        if learner.settings.dr.rows == "none":
            return Scope(frozenset(own), own)
        start, stop = learner.train.offsets[domain : domain + 2].tolist()
        rows = torch.arange(start, stop, device=learner.train.labels.device)
        for table in tables:
            if table.name not in own:
                fields = readers(learner.engine.tables, table.name)
                read = [known_ids(field, learner.train.ids[field.column][rows].long()) for field in fields]
                own[table.name] = torch.cat(read).unique().to(device)
        return Scope(None, own)

    def state_dict(self) -> State:
        """Rounds since the last pass, and pending rows as positions within their domain."""
        rows_of = {domain: torch.cat(parts) for domain, parts in sorted(self.pending.items())}
        empty = torch.zeros(0, dtype=torch.long)
        domain_R = [torch.full((len(rows),), domain) for domain, rows in rows_of.items()]
        positions = [rows.cpu() - int(self._learner.train.offsets[domain]) for domain, rows in rows_of.items()]
        pending = DomainRows(torch.cat([empty, *domain_R]), torch.cat([empty, *positions]))
        return State(counters={"rounds_since": self._rounds_since}, domains={"pending": pending})

    def load_state_dict(self, state: State) -> None:
        """Load the rounds since the last pass, and the pending rows of this rank's domains."""
        self._rounds_since = state.counter("rounds_since")
        train = self._learner.train
        pending = state.domain_rows("pending", torch.zeros((), dtype=torch.long, device=train.labels.device))
        domains, counts = pending.domain_R.unique_consecutive(return_counts=True)
        for domain, positions in zip(domains.tolist(), pending.values.split(counts.tolist()), strict=True):
            self.pending.setdefault(domain, []).append(positions + int(train.offsets[domain]))


METHOD = Method(alternate, DomainRegularization)
"""MAMDR without DN, as in the paper's ablation."""
