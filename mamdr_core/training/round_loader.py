"""Makes the rounds of a stage on a rank, with the order of rows, support samples and lent rows of each epoch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mamdr_core.config.training import TrainSettings
from mamdr_core.engine.plan import RoundPlan
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.method import Method
from mamdr_core.parallel.collective import Collective
from mamdr_core.parallel.lending import Lending
from mamdr_core.parallel.supports import SupportSample
from mamdr_core.runtime.clock import Clock
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.rounds import epoch_order, make_rounds
from mamdr_core.training.stages import Stage


@dataclass(frozen=True)
class RoundLoader:
    """Makes the rounds of a rank; all ranks must use it at the same time. See `Trainer` for the fields."""

    settings: TrainSettings
    learner: Learner
    method: Method
    counts_n: NDArray[np.int64]
    owned_n: NDArray[np.bool_]
    collective: Collective
    arrays: Arrays
    clock: Clock

    def rounds(self, stage: Stage, done: int) -> Iterator[Round]:
        """The rounds of a stage; at the start of each epoch, the learner gets new support samples.

        Args:
            done: number of rounds at its start that are skipped.
        """
        learner, settings = self.learner, self.settings
        plan = RoundPlan(self.counts_n, stage.rounds_per_epoch, settings.smallest_slice, settings.seed)
        lending = self._lending(stage)
        mixes = stage.learns_shared and self.method.mixes
        begun, skipped = divmod(done, stage.rounds_per_epoch)
        for epoch in range(stage.first_epoch + begun, stage.first_epoch + stage.epochs):
            with self.clock.phase("deal"):
                order = epoch_order(plan, epoch, learner.train, self.arrays)
            if stage.learns_specific and learner.settings.dr.k > 0:
                with self.clock.phase("exchange"):
                    rows = learner.settings.dr.support_rows
                    learner.supports = SupportSample(self.collective, learner.train, rows, order)
            rank = self.collective.rank
            rounds = make_rounds(plan, epoch, learner.train, rank, self.arrays, skipped, order, mixes, lending)
            for round_ in self._timed(rounds):
                yield self._with_rates(round_, stage)
            skipped = 0

    def _with_rates(self, round_: Round, stage: Stage) -> Round:
        """The round with the learning rates of theta_S, which depend only on its number within the stage."""
        number = (round_.epoch - stage.first_epoch) * stage.rounds_per_epoch + round_.number
        inner, outer = self.settings.lr_schedule.factors(number, stage.most_rounds)
        return replace(round_, inner_factor=inner, outer_factor=outer)

    def _timed(self, rounds: Iterator[Round]) -> Iterator[Round]:
        """The rounds, with the time to make them, including the exchange of lent rows, added to the clock."""
        while True:
            with self.clock.phase("deal"):
                round_ = next(rounds, None)
            if round_ is None:
                return
            yield round_

    def _lending(self, stage: Stage) -> Lending | None:
        """Row lending, if it is enabled and theta_S learns from slices of domains on several ranks."""
        if not stage.learns_shared or self.method.mixes or self.collective.size == 1 or not self.settings.balance_ranks:
            return None
        own_n = torch.from_numpy(np.where(self.owned_n, self.collective.rank, 0))
        return Lending(self.collective, self.collective.all_reduce(own_n).numpy(), self.settings.batch_size)
