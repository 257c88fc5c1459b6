"""What a run does between reading and measuring: rounds that train theta_S, and theta_i beside it or after it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
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
from mamdr_core.training.checkpoints import Checkpoints
from mamdr_core.training.curve import Validation, aucs_of
from mamdr_core.training.early_stop import EarlyStop
from mamdr_core.training.evaluation import evaluate_columns
from mamdr_core.training.progress import Progress
from mamdr_core.training.rounds import deal_rounds
from mamdr_core.training.settings import TrainSettings
from mamdr_core.training.state import Position


class Clock:
    """Seconds by phase, and since it was made or an earlier attempt's was."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    def add_attempt(self, seconds: float) -> None:
        """Count an earlier attempt that took so long."""
        self._started -= seconds

    @property
    def passed(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._started

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
        patience: of its early stop.
        draws_supports: whether DR draws support rows in it.
        moves_shared: whether theta_S moves; if it does alone, validations are without theta_i.
    """

    moves: Sequence[Callable[[Learner, Round], None]]
    first_epoch: int
    epochs: int
    rounds_per_epoch: int
    validate_every: int
    patience: int
    draws_supports: bool
    moves_shared: bool

    @property
    def most_rounds(self) -> int:
        """Rounds that it has at most."""
        return self.epochs * self.rounds_per_epoch


@dataclass(frozen=True)
class Trained:
    """What the phases did.

    Attributes:
        epochs: begun, of theta_S, and passes of DR after it.
        rounds: outer updates of theta_S.
        best_round: the one whose theta_S was kept.
        dr_passes: passes of DR once theta_S had settled.
        curve: on rank 0, every validation.
    """

    epochs: int
    rounds: int
    best_round: int
    dr_passes: int
    curve: list[Validation]


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
        checkpoints: of the run.
        warm: whether the run started from another's parameters, which then stay unless it finds better ones.
    """

    settings: TrainSettings
    counts_n: NDArray[np.int64]
    collective: Collective
    val: Columns
    arrays: Arrays
    clock: Clock
    checkpoints: Checkpoints
    warm: bool = False

    def run(self, learner: Learner, method: Method) -> Trained:
        """Train, from the newest checkpoint if there is one; the best parameters are left in `learner`.

        Raises:
            StoppedError: asked to stop.
        """
        phases = self._phases(learner, method)
        patience = {number: phase.patience for number, phase in enumerate(phases)}
        at = self.checkpoints.restore(learner, patience) or Position(EarlyStop(phases[0].patience))
        self.clock.seconds["inner"] = at.inner_seconds
        self.clock.add_attempt(at.seconds)
        passes = 0
        while at.phase < len(phases):
            phase = phases[at.phase]
            self._run(phase, learner, at)
            if phase.moves_shared:
                at.rounds, at.best_round = at.done, at.stop.best_round
            else:
                passes = at.done
            at.phase, at.done = at.phase + 1, 0
            at.stop = EarlyStop(patience.get(at.phase, 0))
        self.checkpoints.close(learner)
        epochs = -(-at.rounds // self.settings.rounds_per_epoch) + passes
        return Trained(epochs, at.rounds, at.best_round, passes, at.curve)

    def _phases(self, learner: Learner, method: Method) -> list[Phase]:
        settings, dr, draws = self.settings, learner.dr, learner.dr.k > 0
        settled = dr.schedule == "settled"
        phases = []
        if method.move_shared and not settings.only_domains:
            beside = [method.move_specific] if method.move_specific and not settled else []
            phases += [
                Phase(
                    moves=[method.move_shared, *beside],
                    first_epoch=0,
                    epochs=settings.epochs,
                    rounds_per_epoch=settings.rounds_per_epoch,
                    validate_every=min(settings.validate_every, settings.rounds_per_epoch),
                    patience=settings.patience,
                    draws_supports=draws and bool(beside),
                    moves_shared=True,
                )
            ]
        if method.move_specific and settled:
            moves = [method.move_specific]
            phases += [Phase(moves, settings.epochs, dr.epochs, 1, 1, dr.patience, draws, moves_shared=False)]
        return phases

    def _run(self, phase: Phase, learner: Learner, at: Position) -> None:
        """Rounds until early stop or the last epoch; `learner` is left with the best parameters.

        Every rank takes part in the same collectives in every round, whatever rows it has.

        Args:
            phase: what to do.
            learner: is trained.
            at: where the phase begins; counts its rounds.
        """
        progress = Progress(phase.most_rounds, self.collective.rank == 0, at.done)
        if (self.warm or not phase.moves_shared) and at.stop.shared is None:
            self._validate(phase, learner, at)  # what a phase starts with stays, unless it finds better
        for round_ in self._rounds(phase, learner, at.done):
            with self.clock.phase("inner"):
                for move in phase.moves:
                    move(learner, round_)
            at.done += 1
            if at.done % phase.validate_every == 0 or at.done == phase.most_rounds:
                found, stopping = self._validate(phase, learner, at)
                progress.say(found, self.clock.seconds["inner"], learner.engine.waited, at.stop)
                if stopping:
                    break
            at.inner_seconds, at.seconds = self.clock.seconds["inner"], self.clock.passed
            with self.clock.phase("checkpoint"):
                self.checkpoints.after_round(learner, at)
        assert at.stop.shared is not None
        learner.shared = at.stop.shared
        learner.specific.restore()

    def _rounds(self, phase: Phase, learner: Learner, done: int) -> Iterator[Round]:
        """The phase's rounds, but for those that are done."""
        settings = self.settings
        plan = RoundPlan(self.counts_n, phase.rounds_per_epoch, settings.smallest_slice, settings.seed)
        begun, within = divmod(done, phase.rounds_per_epoch)
        for epoch in range(phase.first_epoch + begun, phase.first_epoch + phase.epochs):
            if phase.draws_supports:
                with self.clock.phase("exchange"):
                    seed = derive_seed(settings.seed, epoch, 7)
                    rows = learner.dr.support_rows
                    learner.supports = exchange_supports(self.collective, learner.train, rows, seed)
            yield from deal_rounds(plan, epoch, learner.train, self.collective.rank, self.arrays, within)
            within = 0

    def _validate(self, phase: Phase, learner: Learner, at: Position) -> tuple[Validation, bool]:
        """What a validation finds, the same on every rank but for the seconds, and whether to stop."""
        with self.clock.phase("validate"):
            alone = phase.moves_shared and len(phase.moves) == 1
            specific = {} if alone else learner.specific
            measured = evaluate_columns(learner.engine, learner.shared, specific, self.val, self.collective)
            if not learner.shared.dense.isfinite().all():
                raise MamdrError(f"theta_S is not finite after round {at.done}: lower train.inner.lr")
            stopping = at.stop.validated(measured.mean_auc(), at.done, learner.shared, learner.specific)
            descended = torch.tensor([learner.rows_descended], dtype=torch.float64)
            found = Validation(
                phase="shared" if phase.moves_shared else "specific",
                round=at.done,
                epoch=-(-at.done // phase.rounds_per_epoch),
                rows=int(self.collective.all_reduce(descended)),
                seconds=round(self.clock.passed, 3),
                **aucs_of(measured),
                best=at.stop.best_round == at.done,
            )
            if self.collective.rank == 0:
                at.curve.append(found)
            return found, stopping
