"""What a run does between reading and measuring: rounds that train theta_S, and theta_i beside it or after it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.plan import RoundPlan
from mamdr_core.errors import MamdrError
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.methods import Method
from mamdr_core.parallel.collective import Collective
from mamdr_core.parallel.supports import exchange_supports
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.early_stop import EarlyStop
from mamdr_core.training.evaluation import evaluate_columns
from mamdr_core.training.progress import Progress
from mamdr_core.training.rounds import deal_rounds
from mamdr_core.training.settings import TrainSettings


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds inside."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class Phase:
    """A part of a run with its own early stop.

    Attributes:
        moves: what a round does, in order.
        first_epoch: number of its first epoch, which with the seed decides its draws.
        epochs: times that every row is visited at most.
        rounds_per_epoch: R.
        validate_every: rounds between two validations.
        draws_supports: whether DR draws support rows in it.
    """

    moves: Sequence[Callable[[Learner, Round], None]]
    first_epoch: int
    epochs: int
    rounds_per_epoch: int
    validate_every: int
    draws_supports: bool


@dataclass(frozen=True)
class Trained:
    """What the phases did.

    Attributes:
        epochs: begun, of theta_S, and passes of DR after it.
        rounds: outer updates of theta_S.
        best_round: the one whose theta_S was kept.
        dr_passes: passes of DR once theta_S had settled.
    """

    epochs: int
    rounds: int
    best_round: int
    dr_passes: int


@dataclass(frozen=True)
class Training:
    """A rank's tools for its phases.

    Attributes:
        settings: of the run.
        counts_n: training rows by domain, of all ranks.
        collective: the ranks.
        val: this rank's validation rows.
        arrays: where an epoch's order lies.
        clock: counts seconds.
    """

    settings: TrainSettings
    counts_n: NDArray[np.int64]
    collective: Collective
    val: Columns
    arrays: Arrays
    clock: Clock

    def run(self, learner: Learner, method: Method) -> Trained:
        """Train; the best parameters are left in `learner`."""
        settings, draws = self.settings, learner.dr.k > 0
        settled = learner.dr.schedule == "settled"
        rounds = best_round = passes = 0
        if method.move_shared:
            beside = [method.move_specific] if method.move_specific and not settled else []
            phase = Phase(
                moves=[method.move_shared, *beside],
                first_epoch=0,
                epochs=settings.epochs,
                rounds_per_epoch=settings.rounds_per_epoch,
                validate_every=min(settings.validate_every, settings.rounds_per_epoch),
                draws_supports=draws and bool(beside),
            )
            rounds, best_round = self._run(phase, learner, EarlyStop(settings.patience), alone=not beside)
        if method.move_specific and settled:
            phase = Phase([method.move_specific], settings.epochs, learner.dr.epochs, 1, 1, draws)
            stop = EarlyStop(learner.dr.patience)
            self._validate(learner, stop, 0)  # theta_i as it starts (zero) stays, unless DR is better
            passes, _ = self._run(phase, learner, stop)
        return Trained(-(-rounds // settings.rounds_per_epoch) + passes, rounds, best_round, passes)

    def _run(self, phase: Phase, learner: Learner, stop: EarlyStop, alone: bool = False) -> tuple[int, int]:
        """Rounds until early stop or the last epoch; returns the rounds done, and the best.

        Every rank takes part in the same collectives in every round, whatever rows it has.

        Args:
            phase: what to do.
            learner: is left with the best parameters.
            stop: of the phase.
            alone: measure theta_S without theta_i.
        """
        done, most = 0, phase.epochs * phase.rounds_per_epoch
        progress = Progress(most, phase.rounds_per_epoch, self.collective.rank == 0)
        for round_ in self._rounds(phase, learner):
            with self.clock.phase("inner"):
                for move in phase.moves:
                    move(learner, round_)
            done += 1
            if done % phase.validate_every and done < most:
                continue
            auc, stopping = self._validate(learner, stop, done, alone)
            rows = learner.rows_descended * self.collective.size  # an estimate: ranks are balanced by rows
            progress.say(done, rows, self.clock.seconds["inner"], learner.engine.waited, auc, stop)
            if stopping:
                break
        assert stop.shared is not None
        learner.shared = stop.shared
        learner.specific.restore()
        return done, stop.best_round

    def _rounds(self, phase: Phase, learner: Learner) -> Iterator[Round]:
        settings = self.settings
        plan = RoundPlan(self.counts_n, phase.rounds_per_epoch, settings.smallest_slice, settings.seed)
        for epoch in range(phase.first_epoch, phase.first_epoch + phase.epochs):
            if phase.draws_supports:
                with self.clock.phase("exchange"):
                    seed = derive_seed(settings.seed, epoch, 7)
                    rows = learner.dr.support_rows
                    learner.supports = exchange_supports(self.collective, learner.train, rows, seed)
            yield from deal_rounds(plan, epoch, learner.train, self.collective.rank, self.arrays)

    def _validate(self, learner: Learner, stop: EarlyStop, done: int, alone: bool = False) -> tuple[float, bool]:
        """The mean validation AUC, and whether to stop."""
        with self.clock.phase("validate"):
            specific = {} if alone else learner.specific
            measured = evaluate_columns(learner.engine, learner.shared, specific, self.val, self.collective)
            if not learner.shared.dense.isfinite().all():
                raise MamdrError(f"theta_S is not finite after round {done}: lower train.inner.lr")
            auc = measured.mean_auc()
            return auc, stop.validated(auc, done, learner.shared, learner.specific)
