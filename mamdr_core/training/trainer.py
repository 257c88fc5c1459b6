"""Training loop of a rank: stages of rounds with validation, early stop and checkpoints."""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from mamdr_core.config.training import TrainSettings
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.parameters import Change
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.mamdr import mamdr
from mamdr_core.learning.method import Method
from mamdr_core.parallel.collective import Collective
from mamdr_core.runtime.clock import Clock
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.stateful import Stateful
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.checkpoint.checkpoints import Checkpoints
from mamdr_core.training.checkpoint.position import Position
from mamdr_core.training.checkpoint.state import RunState
from mamdr_core.training.curve import Validation, aucs_of
from mamdr_core.training.early_stop import EarlyStop
from mamdr_core.training.evaluation import evaluate_columns
from mamdr_core.training.network_on_mixed import NetworkOnMixed
from mamdr_core.training.profiling import Profiler
from mamdr_core.training.progress import Progress
from mamdr_core.training.round_loader import RoundLoader
from mamdr_core.training.stages import Stage, make_stages
from mamdr_core.training.statistics import measure_statistics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOutcome:
    """Result of training.

    Attributes:
        epochs: epochs of theta_S that were started, plus passes of DR afterwards.
        rounds: outer updates of theta_S.
        best_round: round whose theta_S was kept.
        dr_passes: passes of DR after theta_S had settled.
        curve: on rank 0, all validations.
    """

    epochs: int
    rounds: int
    best_round: int
    dr_passes: int
    curve: list[Validation]


@dataclass
class Trainer:
    """Trains a learner with a method on one rank; all ranks train at the same time.

    Args:
        counts_n: training rows by domain, of all ranks, int64 [n].
        owned_n: mask of the domains of this rank, bool [n].
        arrays: allocates the order of rows of an epoch.
        warm: whether the run starts from the parameters of a parent, which are kept unless training improves them.
        mixed: fits the mixed model and then trains the network on top of it; None: the method has no mixed model.
        profiler: records some rounds of every stage; None: no profile.
        measured: training rows of the domains that learn, without other support domains; None: all rows of the learner.
    """

    settings: TrainSettings
    learner: Learner
    method: Method
    counts_n: NDArray[np.int64]
    owned_n: NDArray[np.bool_]
    collective: Collective
    val: Columns
    arrays: Arrays
    clock: Clock
    checkpoints: Checkpoints
    warm: bool = False
    mixed: NetworkOnMixed | None = None
    profiler: Profiler | None = None
    measured: Columns | None = None
    position: Position = field(init=False, default_factory=Position)

    def __post_init__(self) -> None:
        """Create the method's updates of the learner, and the stages in which they run."""
        updates = {"shared": self.method.shared, "specific": self.method.specific}
        self._updates = {name: make(self.learner) for name, make in updates.items() if make}
        may_drop_mixed = self.mixed is not None and not self.warm
        dr = self.learner.settings.dr
        self.stages = make_stages(
            self.settings, dr, "shared" in self._updates, "specific" in self._updates, may_drop_mixed
        )
        of_rank = self.counts_n, self.owned_n, self.collective, self.arrays, self.clock
        self._loader = RoundLoader(self.settings, self.learner, self.method, *of_rank)
        self.early_stop = EarlyStop(1, self.learner)  # replaced at the start of every stage

    def train(self) -> TrainingOutcome:
        """Train, starting from the newest checkpoint if there is one; the learner then has the best parameters.

        Raises:
            StoppedError: a stop was requested.
        """
        at, passes = self.position, 0
        resumed = self._resume()
        epochs = self._epochs(at.rounds)
        if self.mixed and not (self.stages and self.stages[at.stage].without_mixed):
            self._prepare_mixed(self.mixed, must_fit=not resumed)
        while at.stage < len(self.stages):
            stage = self.stages[at.stage]
            if at.done or self._begin(stage):
                self._train_stage(stage)
                if stage.without_mixed and self.mixed:
                    self.early_stop = self.mixed.choose(self.early_stop)
                    self._log("the network is kept %s the mixed model", "on" if self.mixed.is_kept else "without")
                if stage.learns_shared:
                    assert self.method.shared
                    self._updates["shared"] = self.method.shared(self.learner)  # releases the moments
                    epochs += self._epochs(at.done)
                    at.rounds, at.best_round = at.rounds + at.done, self.early_stop.best_round
                else:
                    passes = at.done
            at.stage, at.done = at.stage + 1, 0
        self.checkpoints.close(self.learner.specific)
        return TrainingOutcome(epochs + passes, at.rounds, at.best_round, passes, at.curve)

    def _begin(self, stage: Stage) -> bool:
        """Prepare a stage; returns whether to run it."""
        if stage.without_mixed and self.mixed:
            of_mixed, of_network = self.mixed.auc, self.early_stop.best
            adds_much = of_network > of_mixed + self.mixed.alone_above  # False if one is not a number
            if not adds_much:
                return False
            self._log(
                "the network raises the mixed model's AUC from %.4f to %.4f: it is trained again without it",
                *(of_mixed, of_network),
            )
            self.val = self.mixed.start_without_mixed(self.early_stop, self.val)
        self.early_stop = EarlyStop(stage.patience, self.learner, stage.learns_shared)
        return True

    def _train_stage(self, stage: Stage) -> None:
        """Train until early stop or the last epoch; the learner then has the best parameters of the stage.

        All ranks take part in the same collectives in every round, even if they have no rows.
        """
        at = self.position
        before = self._rounds_before(stage)
        progress = Progress(before + stage.most_rounds, self.collective.rank == 0, before + at.done)
        if self.early_stop.shared is None:  # not resumed: validate the initial parameters, which may be the best
            if self.warm or not stage.learns_shared:
                self._validate(stage)
            elif not at.done:  # a checkpoint from before the first validation has them
                with self.clock.phase("validate"):
                    self._measure_statistics(stage)
            if self.mixed and not stage.without_mixed:
                self._validate_mixed(stage, self.mixed)
        with self.profiler.stage(stage) if self.profiler else nullcontext():
            mamdr(
                self._loader.rounds(stage, self.position.done),
                self._timed("shared") if stage.learns_shared else None,
                self._timed("specific") if stage.learns_specific else None,
                lambda: self._after_round(stage, progress),
            )
        self.early_stop.restore_best()

    def _prepare_mixed(self, on: NetworkOnMixed, must_fit: bool) -> None:
        """Fit the mixed model unless it was restored, and use its predictions as base logits of the network."""
        with self.clock.phase("mixed"):
            if must_fit and self.settings.only_domains:
                on.mixed.refit(self.learner.train)
            elif must_fit:
                on.mixed.fit(self.learner.train)
            self.val = on.set_base_logits(self.val)

    def _validate_mixed(self, stage: Stage, on: NetworkOnMixed) -> None:
        """Validate the mixed model with a theta_S of zeros, which is kept if no round is better."""
        started = self.learner.shared
        self.learner.shared = started.zeros_like()
        found, _ = self._validate(stage)
        on.auc = float("nan") if found.val_auc is None else found.val_auc
        self.learner.shared = started
        self.early_stop.waited = 0  # this validation does not count towards `patience`

    def _after_round(self, stage: Stage, progress: Progress) -> bool:
        """Validate and write a checkpoint if they are due; returns whether to end the stage.

        Raises:
            StoppedError: a stop was requested.
        """
        at = self.position
        at.done += 1
        if self.profiler:
            self.profiler.after_round()
        if at.done % stage.validate_every == 0 or at.done == stage.most_rounds:
            found, stops = self._validate(stage)
            progress.log(found, self.clock.seconds["inner"], self.learner.engine.waited, self.early_stop)
            if stops:
                return True
        with self.clock.phase("checkpoint"):
            self.checkpoints.after_round(self._run_state())
        return False

    def _validate(self, stage: Stage) -> tuple[Validation, bool]:
        """Validate; returns the result, equal on all ranks except for the seconds, and whether to stop."""
        at, learner = self.position, self.learner
        with self.clock.phase("validate"):
            specific = self._measure_statistics(stage)
            measured = evaluate_columns(learner.engine, learner.shared, specific, self.val, self.collective)
            if not learner.shared.dense.isfinite().all():
                raise MamdrError(f"theta_S is not finite after round {at.done}: lower train.inner.lr")
            number = self._rounds_before(stage) + at.done
            stops = self.early_stop.record(measured.mean_auc(), number)
            is_worse = stage.without_mixed and self.mixed and not self.early_stop.best > self.mixed.best.best
            descended = torch.tensor([learner.rows_descended], dtype=torch.float64)
            found = Validation(
                phase=stage.name,
                round=number,
                epoch=self._epochs(number - at.done) + -(-at.done // stage.rounds_per_epoch),
                rows=int(self.collective.all_reduce(descended)),
                seconds=round(self.clock.passed, 3),
                **aucs_of(measured),
                best=self.early_stop.best_round == number and not is_worse,
            )
            if self.collective.rank == 0:
                at.curve.append(found)
            return found, stops

    def _measure_statistics(self, stage: Stage) -> Mapping[int, Change]:
        """Measure the statistics that the model uses, on training rows; returns the theta_i that validation uses."""
        learner = self.learner
        specific = learner.specific if stage.learns_specific else {}
        rows = learner.train if self.measured is None else self.measured
        measure_statistics(learner.engine, learner.shared, specific, rows, self.collective)
        return specific

    def _epochs(self, rounds: int) -> int:
        """Number of epochs of theta_S that are started by a number of rounds."""
        return -(-rounds // self.settings.rounds_per_epoch)

    def _log(self, text: str, *values: object) -> None:
        if self.collective.rank == 0:
            logger.info(text, *values)

    def _rounds_before(self, stage: Stage) -> int:
        """Rounds of the previous stage that the count of this stage continues."""
        return self.position.rounds if stage.without_mixed else 0

    def _timed(self, name: str) -> Callable[[Round], None]:
        """The method's update of that name, timed as phase `inner`."""

        def timed(round_: Round) -> None:
            with self.clock.phase("inner"):
                self._updates[name](round_)

        return timed

    def _resume(self) -> bool:
        """Restore the newest checkpoint with the counters of earlier attempts; returns whether there is one."""
        at, learner = self.position, self.learner
        self.clock.seconds["inner"] = 0.0
        restored = self.checkpoints.restore(self._run_state())
        if restored:
            if not 0 <= at.stage < len(self.stages):
                raise MamdrError(f"checkpoint is of stage {at.stage + 1}, but the run has {len(self.stages)} stages")
            stage = self.stages[at.stage]
            self.early_stop.patience, self.early_stop.moves_shared = stage.patience, stage.learns_shared
            if not stage.learns_shared and self.early_stop.shared is not None:
                learner.shared = self.early_stop.shared  # equal values: keep only one copy
            learner.rows_descended, learner.engine.skipped = at.rows_descended, at.skipped_steps
            learner.engine.waited, self.clock.seconds["inner"] = at.waited_seconds, at.inner_seconds
            self.clock.add_attempt(at.seconds)
        return restored

    def _run_state(self) -> RunState:
        """The content of a checkpoint, with current counters."""
        at, learner = self.position, self.learner
        at.inner_seconds, at.seconds = self.clock.seconds["inner"], self.clock.passed
        at.rows_descended, at.skipped_steps = learner.rows_descended, learner.engine.skipped
        at.waited_seconds = learner.engine.waited
        stateful: dict[str, Stateful] = {"theta_S": learner, "early_stop": self.early_stop, **self._updates}
        if self.mixed:
            stateful |= {"mixed": self.mixed.mixed, "network_on_mixed": self.mixed}
        return RunState(at, stateful, learner.specific, torch.from_numpy(self.owned_n), learner.shared.dense)
