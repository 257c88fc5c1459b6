"""Domain Regularization: Algorithm 2, the update of every theta_i in MAMDR; without support domains, finetuning."""

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
from mamdr_core.stateful import DomainRows, State

PART_ROWS = 1 << 20
"""Rows of targets and their supports, about, that are fetched at once, with their embedding rows."""


class DomainRegularization:
    """Algorithm 2 for every i (Alg. 3, lines 3 to 5). A call is a round; every `dr.every` rounds make one pass.

    Targets of similar size take a step of line 2's loop together, as independent trajectories. A target's visit is what
    it was dealt since the last pass, or a part of it; a support's visit is a part of its sample, at most
    `dr.support_ratio` times the target's. The result does not depend, except for rounding, on which rank owns a domain.
    With k = 0, or if there is no other domain, theta_i learns on T^i alone.

    Args:
        learner: has theta_S and the theta_i of this rank's domains.

    Attributes:
        pending: by domain, rows dealt since the last pass.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self.pending: dict[int, list[Tensor]] = {}
        self._rounds_since = 0
        self._scopes: dict[int, Scope] = {}

    def __call__(self, round_: Round) -> None:
        """Count a round's rows as pending and, if a pass is due, move the theta_i of this rank's domains."""
        learner, dr, targets = self._learner, self._learner.settings.dr, self._dealt_since(round_)
        if targets is None:
            return
        alike = sorted(targets, key=lambda target: len(targets[target]))
        drawn = {target: self.draw_supports(round_, target, visit_rows(dr, len(targets[target]))) for target in alike}
        rows = [len(targets[target]) + sum(size for _, _, size in drawn[target]) for target in alike]
        for first, last in parts_in_step(np.cumsum([0, *rows]), PART_ROWS, learner.most):
            part = alike[first:last]
            steps = self._visits({target: targets[target] for target in part}, drawn)
            learner.prefetch(visit for own in steps.values() for visits in own for visit in visits)
            self._regularize(round_, steps)
            del steps  # before the next part's rows are fetched

    def _visits(
        self, targets: Mapping[int, Tensor], drawn: Mapping[int, Sequence[Draw]]
    ) -> dict[int, list[list[Visit]]]:
        """By target and step of line 2's loop, visits to a support domain and to the target, or to the target alone.

        Args:
            targets: by domain, the rows dealt to it.
            drawn: by target, its support rows.
        """
        learner, dr = self._learner, self._learner.settings.dr
        columns = learner.train
        rows: Sequence[Tensor] = ()
        if learner.supports is not None:
            columns, rows = learner.supports.fetch([draw for target in targets for draw in drawn[target]])
        fetched = iter(rows)
        steps: dict[int, list[list[Visit]]] = {}
        for target, dealt in targets.items():
            most = visit_rows(dr, len(dealt))
            size = step_rows(dr, most, learner.engine.batch_size)
            supports = [[Visit(columns, next(fetched), target, size)] for _ in drawn[target]] or [[]]
            steps[target] = [
                [*support, Visit(learner.train, part_of(dealt, place * len(dealt) // len(supports), most), None, size)]
                for place, support in enumerate(supports)
            ]
        return steps

    def _regularize(self, round_: Round, steps: Mapping[int, Sequence[Sequence[Visit]]]) -> None:
        """Algorithm 2 for some targets, whose embedding rows have been prefetched.

        Args:
            round_: decides dropout.
            steps: by target and step of line 2's loop, its visits.
        """
        for group in self._learner.specific.groups(list(steps)):
            for place in range(max(len(steps[target]) for target in group)):  # line 2
                by_rate: dict[float, dict[int, Sequence[Visit]]] = {}
                for target in group:
                    if place < len(steps[target]):
                        visits = steps[target][place]
                        by_rate.setdefault(self._rate(visits), {})[target] = visits
                for rate, own in by_rate.items():
                    self._step(round_, place, group, own, rate)

    def _step(
        self, round_: Round, place: int, group: Mapping[int, Change], visits: Mapping[int, Sequence[Visit]], rate: float
    ) -> None:
        """Lines 3 to 6 of Algorithm 2 for some targets at the same inner rate.

        Args:
            round_, place: the round, and the step of line 2's loop; they decide dropout.
            group: theta_i by target, moved in place.
            visits: by target, those of the step.
            rate: of the inner steps.
        """
        learner, dr = self._learner, self._learner.settings.dr
        changes = learner.engine.descend_many(  # lines 3-5: theta~_i - theta_i
            [Theta(learner.shared, group[target]) for target in visits],
            list(visits.values()),
            rate,
            dr.optimizer,
            [self._scope(target) for target in visits],
            [learner.round_seed(round_, target, place) for target in visits],
        )
        for (target, own_visits), change in zip(visits.items(), changes, strict=True):
            group[target].move(change, dr.gamma)  # line 6
            learner.count(own_visits)

    def _rate(self, visits: Sequence[Visit]) -> float:
        """Inner rate of a target's visits."""
        return scaled_rate(self._learner.settings.dr, visits[-1].batch_size, self._learner.engine.batch_size)

    def draw_supports(self, round_: Round, target: int, target_rows: int) -> list[Draw]:
        """Draw the support domains of a target (Alg. 2, line 1), and of each a block of its sample.

        Args:
            round_: decides the draw, with the seed.
            target: index of the target domain.
            target_rows: number of rows of its visit.

        Returns:
            By step of line 2's loop, what is drawn of a support domain; nothing if there is none to draw.
        """
        learner, dr = self._learner, self._learner.settings.dr
        if dr.k == 0 or learner.supports is None:
            return []
        candidates = learner.supports.occupied
        place = np.searchsorted(candidates, target)
        leaves_out = not dr.include_target and place < len(candidates) and candidates[place] == target
        count = len(candidates) - leaves_out
        if not count:
            return []
        random = np.random.default_rng(learner.round_seed(round_, target))
        chosen = random.choice(count, size=min(dr.k, count), replace=False)
        if leaves_out:
            chosen += chosen >= place
        most = max(1, round(dr.support_ratio * target_rows))
        draws = []
        for support in candidates[chosen].tolist():
            sampled = int(learner.supports.counts_n[support])
            size = min(most, sampled)
            draws.append((support, int(random.integers(sampled - size + 1)), size))
        return draws

    def _dealt_since(self, round_: Round) -> dict[int, Tensor] | None:
        """By domain, the rows dealt since the last pass; None if it is not time for the next one."""
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
        """What theta_i covers beyond dense parameters; the same in every pass, so found once.

        The domain's own row of every table looked up by domain (its embedding, its towers in multi-tower models), never
        another domain's; and embedding rows of T^i's ids if so set.
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
        """Rounds since the last pass, and pending rows as places within their domain."""
        dealt = {domain: torch.cat(parts) for domain, parts in sorted(self.pending.items())}
        nothing = torch.zeros(0, dtype=torch.long)
        domain_R = [torch.full((len(rows),), domain) for domain, rows in dealt.items()]
        places = [rows.cpu() - int(self._learner.train.offsets[domain]) for domain, rows in dealt.items()]
        pending = DomainRows(torch.cat([nothing, *domain_R]), torch.cat([nothing, *places]))
        return State(counters={"rounds_since": self._rounds_since}, domains={"pending": pending})

    def load_state_dict(self, state: State) -> None:
        """Take over the rounds since the last pass, and the pending rows of this rank's domains.

        Raises:
            MamdrError: it is of another model.
        """
        self._rounds_since = state.counter("rounds_since")
        train = self._learner.train
        pending = state.domain_rows("pending", torch.zeros((), dtype=torch.long, device=train.labels.device))
        domains, counts = pending.domain_R.unique_consecutive(return_counts=True)
        for domain, places in zip(domains.tolist(), pending.values.split(counts.tolist()), strict=True):
            self.pending.setdefault(domain, []).append(places + int(train.offsets[domain]))


METHOD = Method(alternate, DomainRegularization)
"""MAMDR without DN: the paper's ablation."""
