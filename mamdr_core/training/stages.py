"""The stages of a run: parts with their own early stop, as the method and the schedule of DR have them."""

from dataclasses import dataclass

from mamdr_core.learning.learner import Learner
from mamdr_core.learning.method import Update
from mamdr_core.training.settings import TrainSettings


@dataclass(frozen=True)
class Stage:
    """A part of a run with its own early stop; at least one of the updates is given.

    Attributes:
        update_shared: moves theta_S in a round; None: theta_S stays.
        update_specific: moves every theta_i in a round; None: they stay, and validations are without them.
        first_epoch: number of its first epoch, which with the seed decides its draws.
        epochs: times that every row is visited at most.
        rounds_per_epoch: R.
        validate_every: rounds between two validations.
        patience: of its early stop.
    """

    update_shared: Update | None
    update_specific: Update | None
    first_epoch: int
    epochs: int
    rounds_per_epoch: int
    validate_every: int
    patience: int

    @property
    def most_rounds(self) -> int:
        """Largest number of rounds."""
        return self.epochs * self.rounds_per_epoch

    @property
    def name(self) -> str:
        """What the curve calls it."""
        return "shared" if self.update_shared else "specific"


def make_stages(
    settings: TrainSettings, learner: Learner, update_shared: Update | None, update_specific: Update | None
) -> list[Stage]:
    """The stages of a run.

    Args:
        settings: of the run.
        learner: has the settings of DR.
        update_shared, update_specific: of the method.

    Returns:
        With the schedule `rounds` one stage; with `settled` one for theta_S, if it moves, and one for theta_i.
    """
    dr = learner.settings.dr
    settled = dr.schedule == "settled"
    stages = []
    if update_shared and not settings.only_domains:
        stages.append(
            Stage(
                update_shared=update_shared,
                update_specific=None if settled else update_specific,
                first_epoch=0,
                epochs=settings.epochs,
                rounds_per_epoch=settings.rounds_per_epoch,
                validate_every=min(settings.validate_every, settings.rounds_per_epoch),
                patience=settings.patience,
            )
        )
    if update_specific and settled:
        stages.append(
            Stage(
                update_shared=None,
                update_specific=update_specific,
                first_epoch=settings.epochs,
                epochs=dr.epochs,
                rounds_per_epoch=1,
                validate_every=1,
                patience=dr.patience,
            )
        )
    return stages
