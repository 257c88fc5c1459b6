"""The stages of a run: parts with their own early stop, as the method and the schedule of DR have them."""

from dataclasses import dataclass, replace

from mamdr_core.learning.settings import DRSettings
from mamdr_core.training.settings import TrainSettings


@dataclass(frozen=True)
class Stage:
    """A part of a run with its own early stop, in which theta_S, every theta_i, or both learn.

    Attributes:
        learns_shared: whether theta_S learns in a round.
        learns_specific: whether every theta_i does; else validations are without them.
        first_epoch: number of its first epoch, which with the seed decides its draws.
        epochs: times that every row is visited at most.
        rounds_per_epoch: R.
        validate_every: rounds between two validations.
        patience: of its early stop.
        is_alone: whether theta_S starts again, without the mixed model that it has been trained on; its rounds continue
            the count of the stage before.
    """

    learns_shared: bool
    learns_specific: bool
    first_epoch: int
    epochs: int
    rounds_per_epoch: int
    validate_every: int
    patience: int
    is_alone: bool = False

    @property
    def most_rounds(self) -> int:
        """Largest number of rounds."""
        return self.epochs * self.rounds_per_epoch

    @property
    def name(self) -> str:
        """What the curve calls it."""
        return "shared" if self.learns_shared else "specific"


def make_stages(
    settings: TrainSettings, dr: DRSettings, shared: bool, specific: bool, may_be_alone: bool = False
) -> list[Stage]:
    """The stages of a run.

    Args:
        settings: of the run.
        dr: settings of DR as the method has settled them.
        shared, specific: whether the method updates theta_S, and theta_i.
        may_be_alone: whether theta_S may be trained again without a mixed model.

    Returns:
        With the schedule `rounds` one stage; with `settled` one for theta_S, if it learns, and one for theta_i. The
        stage in which theta_S is alone follows that in which it is not.
    """
    settled = dr.schedule == "settled"
    stages = []
    if shared and not settings.only_domains:
        stages.append(
            Stage(
                learns_shared=True,
                learns_specific=specific and not settled,
                first_epoch=0,
                epochs=settings.most_epochs,
                rounds_per_epoch=settings.rounds_per_epoch,
                validate_every=min(settings.validate_every, settings.rounds_per_epoch),
                patience=settings.patience,
            )
        )
        if may_be_alone:
            stages.append(replace(stages[0], is_alone=True))
    if specific and settled:
        stages.append(
            Stage(
                learns_shared=False,
                learns_specific=True,
                first_epoch=settings.most_epochs,
                epochs=dr.epochs,
                rounds_per_epoch=1,
                validate_every=1,
                patience=dr.patience,
            )
        )
    return stages
