"""Settings of the lake: its location, how raw logs are read, how examples and statistics are made."""

from dataclasses import field
from datetime import date
from typing import Literal

from mamdr_core.config.raw_id import RawId
from mamdr_core.config.settings import check_limits, settings


@settings
class LakeSettings:
    """Location of the Delta tables."""

    root: str = "lake"
    """Folder of the Delta tables: <root>/<table>."""
    catalog: str = ""
    """Schema in which the tables have names, such as mamdr or unity.mamdr, in a catalog that Spark is configured with;
    jobs then address tables by these names (docs/queries.md). Empty: by their paths."""
    managed: bool = False
    """With `catalog`: new tables are managed, stored where the catalog decides and removed with their names; false:
    they are external tables, stored in `root`."""

    def __post_init__(self) -> None:
        if self.catalog and (self.catalog.count(".") > 1 or not all(map(str.strip, self.catalog.split(".")))):
            raise ValueError(f"catalog must be a schema or catalog.schema, such as unity.mamdr, got {self.catalog!r}")
        if self.managed and not self.catalog:
            raise ValueError("managed is set without catalog: name the schema of the tables")


@settings
class InputColumns:
    """Spark SQL expressions over the raw log that give a click's columns."""

    user: str = "user"
    """The user's id."""
    item: str = "item"
    """The item's id."""
    domain: str = "domain"
    """The domain's id (theme, scene, category)."""
    label: str = ""
    """1 or true: clicked, 0 or false: shown and not clicked, e.g. `score >= 4`. Empty: every row is a click."""
    event_time: str = ""
    """Time of the event: a timestamp, or e.g. `timestamp_seconds(ts)`. Empty: unknown."""
    ds: str = ""
    """Day under which the row is stored; empty: the day of event_time, or 1970-01-01 where that is not declared."""
    true_probability: str = ""
    """The true click probability, which synthetic logs contain; gives the oracle's AUC. Empty: unknown."""
    split: str = ""
    """train, val or test, for `examples.split.kind: given`, e.g. `if(fold = 5, 'test', 'train')`; a row with another
    value, or null, is rejected by the rule split_known. Empty: the log has no splits."""
    weight: str = ""
    """Weight of the row in training, e.g. `if(action = 'click', 1, 10)` where a tenth of the negatives were kept; null
    is 1. Rows whose weight is negative, not finite or not a number are rejected by the rule weight_valid. Empty: all
    rows have the same weight."""


@settings
class InputSettings:
    """The raw log."""

    path: str = ""
    """File, folder or glob of the raw log."""
    format: Literal["parquet", "json", "csv", "delta"] = "parquet"
    """Spark format of the raw log."""
    options: dict[str, str | bool | int | float] = field(default_factory=dict)
    """Options of the Spark reader, e.g. {header: true}."""
    schema: str = ""
    """The log's columns and types as Spark DDL, e.g. `user string, item string, ts timestamp`; empty: inferred from the
    files (delta: always the table's)."""
    columns: InputColumns = field(default_factory=InputColumns)
    """The columns of a click."""
    arriving: bool = False
    """Each file or folder in `path` (a folder or glob) is a separate load, and is loaded once: those that the table
    loads lists as published are skipped, and so are names that begin with _ or a dot."""
    replace: Literal["load", "days"] = "load"
    """load: replace the rows of an earlier load of the same `path`, so that rows for an old day are added to it and a
    rerun changes nothing; days: replace all rows of the days in the input, whichever load they came from."""
    earliest: date = date(1990, 1, 1)
    """A row with an event_time before this day is rejected by the rule event_time_not_ancient."""
    latest: date | None = None
    """A row with an event_time after this day is rejected by the rule event_time_not_future; none: more than a day
    after the start of the job."""

    def __post_init__(self) -> None:
        if self.latest and not self.earliest <= self.latest < date.max:
            raise ValueError(f"latest {self.latest} is before earliest {self.earliest}, or has no day after it")
        if self.schema and self.format == "delta":
            raise ValueError("schema is set, but a Delta table has its own: leave it out")


@settings
class QualitySettings:
    """The quality check that a load must pass to be published; otherwise ingest_clicks stops and changes nothing."""

    max_rejected: float = 0.1
    """Maximum share of rejected rows; duplicates within the load (unique_event) do not count."""
    min_ctr: float = 0.0
    """Minimum share of valid rows with label 1; not checked where `input.columns.label` is empty."""
    max_ctr: float = 1.0
    """Maximum share of valid rows with label 1."""
    min_rows_ratio: float = 0.1
    """Minimum ratio of a day's rows, of all loads, to their mean over the days of the week before that have rows of
    other loads; 0: not checked. Days with few rows of this load (late rows, wrong clocks: less than this share of its
    largest day) are not checked either."""
    max_rows_ratio: float = 10.0
    """Upper limit of the same ratio, on every day of the load; 0: not checked."""
    max_vanished_days: int = 0
    """Maximum number of days that an earlier load of the same path had and this one lacks: their rows are removed."""

    def __post_init__(self) -> None:
        check_limits(self, "quality", "max_rejected", "min_ctr", "max_ctr", least=0, most=1)
        check_limits(self, "quality", "max_vanished_days", least=0)
        if self.min_ctr > self.max_ctr:
            raise ValueError(f"min_ctr {self.min_ctr} is greater than max_ctr {self.max_ctr}")
        if self.min_rows_ratio < 0 or 0 < self.max_rows_ratio < self.min_rows_ratio or self.max_rows_ratio < 0:
            raise ValueError(
                f"min_rows_ratio and max_rows_ratio must be >= 0 and ordered, got {self.min_rows_ratio} and "
                f"{self.max_rows_ratio}"
            )


@settings
class SplitSettings:
    """How examples are divided into train, val and test: by hashes, days or the log, never by the order of rows."""

    kind: Literal["random", "time", "given"] = "random"
    """random: by a hash of (user, item, domain), so that a pair is in one split only; time: by the day `ds`; given: as
    `input.columns.split` specifies, for published splits."""
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """random: shares of train, val and test (the paper's 60/20/20)."""
    val_from: date | None = None
    """time: first day of val; earlier days are train."""
    test_from: date | None = None
    """time: first day of test."""
    val_days: int = 0
    """time, instead of dates: the number of val days, those before test. They move with `examples.until`."""
    test_days: int = 0
    """time, instead of dates: the number of test days, the newest up to `examples.until`."""
    smallest_domain: int = 10
    """random: all rows of a domain with fewer examples are train; it is too small to be measured."""

    def __post_init__(self) -> None:
        if abs(sum(self.fractions) - 1) > 1e-9 or min(self.fractions) < 0 or self.fractions[0] == 0:
            raise ValueError(f"fractions must be >= 0, sum to 1 and leave something to train, got {self.fractions}")
        if min(self.val_days, self.test_days) < 0:
            raise ValueError(f"val_days and test_days must be >= 0, got {self.val_days} and {self.test_days}")
        if self.moves and (self.kind != "time" or self.val_from or self.test_from):
            raise ValueError("val_days and test_days are for a time split, and replace val_from and test_from")
        if self.kind == "given" and (self.val_from or self.test_from or self.fractions != (0.6, 0.2, 0.2)):
            raise ValueError("kind given takes the split of each row from the log: leave out fractions and dates")
        dated = self.val_from and self.test_from and self.val_from <= self.test_from
        if self.kind == "time" and not (self.moves or dated):
            raise ValueError(
                f"a time split needs val_from <= test_from, got {self.val_from} and {self.test_from}; or val_days and "
                "test_days"
            )

    @property
    def moves(self) -> bool:
        """Whether the newest day decides the split of a row, so that it is not stored with it."""
        return bool(self.val_days or self.test_days)


@settings
class NegativeSettings:
    """Negatives for logs of positives only (the paper's preparation, appendix A.1)."""

    kind: Literal["none", "in_domain"] = "none"
    """none: the log has impressions; in_domain: sample items of the domain that the user never clicked there."""
    ctr_ratio: float | tuple[float, float] | dict[RawId, float] = (0.2, 0.5)
    """Positives per negative in a domain (Eq. 25): a number, a range from which each domain's is drawn, or {domain:
    ratio}."""

    def __post_init__(self) -> None:
        if isinstance(self.ctr_ratio, dict):
            wrong = {domain: ratio for domain, ratio in self.ctr_ratio.items() if not ratio > 0}
            if wrong or not self.ctr_ratio:
                raise ValueError(f"ctr_ratio must map domains to ratios > 0, got {wrong}")
            return
        low, high = self.ctr_ratio if isinstance(self.ctr_ratio, tuple) else (self.ctr_ratio,) * 2
        if not 0 < low <= high:
            raise ValueError(f"ctr_ratio must be > 0 and ordered, got {self.ctr_ratio}")


@settings
class ShardSettings:
    """How examples are packed into shards."""

    rows: int = 1_000_000
    """Target number of examples per shard; a domain with more is spread over several shards."""
    count: int = 0
    """Number of shards; 0: from `rows`."""
    row_group_mb: int = 1
    """Size of a row group, MB in memory, the unit in which ranks read."""

    def __post_init__(self) -> None:
        if self.rows < 1 or not 0 <= self.count <= 100_000 or not 1 <= self.row_group_mb < 2048:
            raise ValueError(
                "rows must be >= 1, row_group_mb in [1, 2048) and count in [0, 100000], got "
                f"{self.rows}, {self.row_group_mb}, {self.count}"
            )


@settings
class IdSettings:
    """Which ids of a large vocabulary get an index."""

    min_count: int = 1
    """Minimum number of rows with an id, in the days read, for it to get an index; others are unknown (index -1)."""
    buckets: int = 0
    """Number of buckets into which ids are hashed; the buckets then replace the ids; 0: ids are not hashed."""

    def __post_init__(self) -> None:
        if self.min_count < 1 or not 0 <= self.buckets < 1 << 31:
            raise ValueError(
                f"min_count must be >= 1 and buckets in [0, 2^31), got {self.min_count} and {self.buckets}"
            )


@settings
class ExamplesSettings:
    """How examples are built from clicks."""

    split: SplitSettings = field(default_factory=SplitSettings)
    """Train, val and test."""
    negatives: NegativeSettings = field(default_factory=NegativeSettings)
    """Sampled negatives."""
    seed: int = 0
    """Decides splits and negatives, together with the keys of the rows."""
    shards: ShardSettings = field(default_factory=ShardSettings)
    """Packing."""
    users: IdSettings = field(default_factory=IdSettings)
    """Which users get an index."""
    items: IdSettings = field(default_factory=IdSettings)
    """Which items get an index."""
    retired: tuple[RawId, ...] = ()
    """Domains whose rows are left out; their indices stay."""
    since: date | None = None
    """First day of clicks to use; none: all."""
    until: date | None = None
    """Last day of clicks to use (the logical date of a daily run); none: all."""
    days: int = 0
    """Number of days to use, the newest up to `until`: a window that moves with it; 0: all."""
    rebuild: bool | None = None
    """true: encode all clicks again; null: only where new loads cannot be added to the examples (docs/data.md), with a
    warning; false: that is an error instead."""

    def __post_init__(self) -> None:
        check_limits(self, "examples", "days", least=0)


@settings
class StatsSettings:
    """Which days domain_stats covers."""

    ds: date | None = None
    """One day; none: every day in clicks."""


@settings
class MaintainSettings:
    """What maintain_lake keeps."""

    retention_days: int = 30
    """Number of days for which removed files are kept, so that versions of that age stay readable; a property of the
    tables."""
    keep_runs: int = 30
    """Number of the newest successful runs that keep their package and the versions that they were trained on, and the
    same number of runs of comparisons and sweeps; the packages of others are removed two weeks after the runs began; 0:
    all are kept."""
    keep_champions: int = 5
    """Number of runs that have served, the champion first, that also keep their package, for rollbacks; 0: all."""
    history_days: int = 0
    """Number of days of clicks, rejected rows and examples that are kept, up to the newest; 0: all."""
    scores_days: int = 365
    """Number of days for which batches of scores are kept; 0: all are kept."""
    dry_run: bool = False
    """Report what would be removed, and change nothing."""

    def __post_init__(self) -> None:
        days = ("retention_days", "history_days", "scores_days")
        check_limits(self, "maintain", *days, "keep_runs", "keep_champions", least=0, most=100_000)


@settings
class ForgetSettings:
    """Whose rows forget_users removes."""

    users: tuple[RawId, ...] = ()
    """Ids of users, as in the log."""
    path: str = ""
    """File with further ids, one per line."""
    release: bool = False
    """Also drop the inputs that hold rows of forgotten users, now or earlier, from the records of successful runs, so
    that maintain_lake removes their files; these runs cannot be measured again (docs/forgetting.md)."""
    dry_run: bool = False
    """Count the rows, and change nothing."""

    def __post_init__(self) -> None:
        if any(not user.strip() for user in self.users):
            raise ValueError("forget.users holds a blank id")
