"""What each run of ingest_clicks brought."""

from schemas.declaration import Column, Rule, Table, one_of

LOAD_STATUSES = ("published", "stopped")

LOADS = Table(
    name="loads",
    description=(
        "An attempt to load a source, from the point at which its rows were counted. A load is all that one source "
        "(input.path) brought; loading it again replaces it."
    ),
    made_by="ingest_clicks",
    columns=(
        Column("load", "bigint", "names the load: xxhash64 of its source"),
        Column("source", "string", "input.path, as an absolute path or URI"),
        Column("status", "string", "published, or stopped by the quality gate: clicks is then as it was"),
        Column("rows_in", "bigint", "rows of the source"),
        Column("clicks", "bigint", "valid rows"),
        Column("rejected", "bigint", "rows that failed a rule"),
        Column("rejected_by_rule", "map<string,bigint>", "rule to rows that failed it"),
        Column("days", "int", "days with valid rows"),
        Column("first_ds", "date", "first of them", nullable=True),
        Column("last_ds", "date", "last of them", nullable=True),
        Column("ctr", "double", "share of valid rows with label 1; null without valid rows", nullable=True),
        Column("reason", "string", "why it was stopped, with the figures", nullable=True),
        Column("clicks_version", "bigint", "the version of clicks that it made; null where stopped", nullable=True),
        Column("started_at", "timestamp", "start (UTC)"),
        Column("finished_at", "timestamp", "end (UTC)"),
    ),
    rules=(
        Rule("status_known", one_of("status", LOAD_STATUSES), "the status is one of the two"),
        Rule("every_row_counted", "rows_in = clicks + rejected", "every row ends in one of the two tables"),
        Rule("reason_where_stopped", "(status = 'stopped') = (reason IS NOT NULL)", "a stopped load says why"),
    ),
)
