"""Settings of the report."""

from mamdr_core.config.settings import check_limits, settings


@settings
class ReportSettings:
    """Which run the report describes, and in how much detail."""

    run_id: str = ""
    """The run: its id, or champion for the run in production; empty: the newest successful run."""
    days: int = 14
    """Number of days of the log that are shown, up to the day of the run."""
    listed: int = 10
    """Number of domains in each short list: worst, best, drifting, and worse according to the gate."""
    heat: int = 40
    """Maximum number of domains in the conflict heat map; those with the most measured pairs are chosen."""

    def __post_init__(self) -> None:
        check_limits(self, "report", "days", "listed", "heat", least=1)
