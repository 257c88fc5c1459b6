"""The one exception family for what a user can cause; anything else is a bug and keeps its traceback."""


class MamdrError(Exception):
    """A problem that the user can mend: the message says what was wrong, the value, where, and what to do."""
