"""Settings of the report."""

from mamdr_core.settings import settings


@settings
class ReportSettings:
    """Which run is told of, and how much (report)."""

    run_id: str = ""
    """The run: its id, or champion for the one that serves; empty: the newest that ended well."""
    days: int = 14
    """Days of the log that are drawn, up to the run's."""
    listed: int = 10
    """Domains in each short list: the worst, the best, those that drift, those that the gate found worse."""
    heat: int = 40
    """Domains of the conflict heat map at most, those with most pairs measured first."""

    def __post_init__(self) -> None:
        """Check the counts."""
        if min(self.days, self.listed, self.heat) < 1:
            raise ValueError(f"need report.days, listed, heat >= 1: {self.days}, {self.listed}, {self.heat}")
