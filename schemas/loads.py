"""What each run of ingest_clicks brought."""

from schemas.declaration import Column, Rule, Table, one_of

LOAD_STATUSES = ("replacing", "published", "stopped")
STATUS_KNOWN = Rule("status_known", one_of("status", LOAD_STATUSES), "the status is one of the three")

LOADS = Table(
    name="loads",
    description=(
        "An attempt to load a source, from the point at which its rows were counted. A load is all that one source "
        "(input.path) brought; loading it again replaces it. An attempt that removes days of the load from "
        "clicks has a second line, from before it does so."
    ),
    made_by="ingest_clicks",
    columns=(
        Column("load", "bigint", "names the load: xxhash64 of its source"),
        Column("source", "string", "input.path, as an absolute path or URI"),
        Column(
            "status",
            "string",
            "published; stopped by the quality gate, which leaves clicks unchanged; or replacing: about to remove days "
            "of the load from clicks, by a job that did not end unless a later line is published",
        ),
        Column("rows_in", "bigint", "rows of the source"),
        Column("clicks", "bigint", "valid rows"),
        Column("rejected", "bigint", "rows that failed a rule"),
        Column("rejected_by_rule", "map<string,bigint>", "rule to rows that failed it"),
        Column("days", "int", "days with valid rows"),
        Column(
            "first_ds",
            "date",
            "first of them; where replacing, of these and the days that clicks held of the load",
            nullable=True,
        ),
        Column("last_ds", "date", "last of them, likewise", nullable=True),
        Column("ctr", "double", "share of valid rows with label 1; null without valid rows", nullable=True),
        Column("reason", "string", "why it was stopped, with the figures", nullable=True),
        Column("clicks_version", "bigint", "the version of clicks that it made; only where published", nullable=True),
        Column("started_at", "timestamp", "start (UTC)"),
        Column("finished_at", "timestamp", "end (UTC); where replacing, when the line was written"),
    ),
    rules=(
        STATUS_KNOWN,
        Rule("every_row_counted", "rows_in = clicks + rejected", "every row ends in one of the two tables"),
        Rule("reason_where_stopped", "(status = 'stopped') = (reason IS NOT NULL)", "a stopped load says why"),
    ),
)
