"""The stages of a run, each with its own early stop; they depend on the method and on the schedule of DR."""

from dataclasses import dataclass, replace

from mamdr_core.config.learning import DRSettings
from mamdr_core.config.training import TrainSettings


@dataclass(frozen=True)
class Stage:
    """A part of a run with its own early stop, in which theta_S, every theta_i, or both learn.

    Attributes:
        learns_shared: whether theta_S is trained.
        learns_specific: whether every theta_i is trained; otherwise validations do not use them.
        first_epoch: number of the first epoch, which together with the seed decides random draws.
        epochs: maximum number of epochs.
        rounds_per_epoch: R.
        validate_every: rounds between two validations.
        without_mixed: whether theta_S is trained again from its initial values, without the mixed model; the count of
            rounds continues that of the previous stage.
    """

    learns_shared: bool
    learns_specific: bool
    first_epoch: int
    epochs: int
    rounds_per_epoch: int
    validate_every: int
    patience: int
    without_mixed: bool = False

    @property
    def most_rounds(self) -> int:
        """Maximum number of rounds."""
        return self.epochs * self.rounds_per_epoch

    @property
    def name(self) -> str:
        """Name of the stage in the curve."""
        return "shared" if self.learns_shared else "specific"


def make_stages(
    settings: TrainSettings, dr: DRSettings, shared: bool, specific: bool, may_drop_mixed: bool = False
) -> list[Stage]:
    """The stages of a run.

    Args:
        dr: settings of DR, completed by the method.
        shared, specific: whether the method updates theta_S, and theta_i.
        may_drop_mixed: whether theta_S may be trained again without the mixed model.

    Returns:
        One stage with the schedule `rounds`; with `settled` one for theta_S, if it is trained, and one for theta_i. A
        stage without the mixed model follows the one with it.
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
        if may_drop_mixed:
            stages.append(replace(stages[0], without_mixed=True))
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
