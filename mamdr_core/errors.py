"""The one exception family for what a user can cause; anything else is a bug and keeps its traceback."""


class MamdrError(Exception):
    """A problem that the user can mend: the message says what was wrong, the value, where, and what to do."""


class DivergedError(MamdrError):
    """A step's loss is not finite.

    Args:
        domain: index of the domain whose rows the step descended on; None: rows of several.
        where: the step and batch.
    """

    def __init__(self, domain: int | None, where: str) -> None:
        self.domain = domain
        self.where = where
        super().__init__(self.told("several domains" if domain is None else f"domain {domain}"))

    def told(self, domain: str) -> str:
        """The message, with the domain under the name that its reader knows."""
        return (
            f"the loss of {domain} is not finite at {self.where}: lower train.inner.lr or train.dr.lr, or look for NaN "
            "and huge values among its features; train.on_nan: skip passes over such steps"
        )


class StoppedError(MamdrError):
    """A job was asked to stop, and did so in good order."""
