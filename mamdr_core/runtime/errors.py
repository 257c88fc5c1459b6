"""Exceptions for errors that a user can cause; all other exceptions are bugs and keep their traceback."""


class MamdrError(Exception):
    """An error that the user can fix; the message states what is wrong, the value, where it is, and what to do."""


class DivergedError(MamdrError):
    """The loss of a step is not finite.

    Args:
        domain: index of the domain of the rows; None: rows of several domains.
        where: description of the step and batch.
    """

    def __init__(self, domain: int | None, where: str) -> None:
        self.domain = domain
        self.where = where
        super().__init__(self.message("several domains" if domain is None else f"domain {domain}"))

    def message(self, domain: str) -> str:
        """The message with a given name of the domain."""
        return (
            f"the loss of {domain} is not finite at {self.where}: lower train.inner.lr or train.dr.lr, or look for NaN "
            "and huge values among its features; train.on_nan: skip passes over such steps"
        )


class StoppedError(MamdrError):
    """A job stopped in an orderly way on request."""
