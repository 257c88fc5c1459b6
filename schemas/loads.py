"""The loads of ingest_clicks."""

from schemas.declaration import Column, DeclaredTable, Rule, one_of

LOAD_STATUSES = ("replacing", "published", "stopped")
STATUS_KNOWN = Rule("status_known", one_of("status", LOAD_STATUSES), "the status is one of the three")

LOADS = DeclaredTable(
    name="loads",
    description=(
        "Attempts to load a source, recorded once its rows are counted. A load consists of all rows of one source "
        "(input.path); loading the source again replaces it. An attempt that removes days of the load from clicks has "
        "a second row, which is written before it does so."
    ),
    made_by="ingest_clicks",
    columns=(
        Column("load", "bigint", "id of the load: xxhash64 of its source"),
        Column("source", "string", "input.path, as an absolute path or URI"),
        Column(
            "status",
            "string",
            "published; stopped: by the quality check, or by an error after which clicks was restored; or replacing: "
            "about to remove days of the load from clicks. A job that wrote replacing did not end, unless a later row "
            "of the load is published or a row with the same start is stopped",
        ),
        Column("rows_in", "bigint", "number of rows of the source"),
        Column("clicks", "bigint", "number of valid rows"),
        Column("rejected", "bigint", "number of rows that failed a rule"),
        Column("rejected_by_rule", "map<string,bigint>", "rule to number of rows that failed it"),
        Column("days", "int", "number of days with valid rows"),
        Column(
            "first_ds",
            "date",
            "first day with valid rows; where replacing, of these days and those that clicks held of the load",
            nullable=True,
        ),
        Column("last_ds", "date", "last day with valid rows, likewise", nullable=True),
        Column("ctr", "double", "share of valid rows with label 1; null without valid rows", nullable=True),
        Column("reason", "string", "reason of the stop, with the figures", nullable=True),
        Column("clicks_version", "bigint", "version of clicks that the load created; only if published", nullable=True),
        Column("started_at", "timestamp", "start (UTC)"),
        Column("finished_at", "timestamp", "end (UTC); where replacing, when the row was written"),
    ),
    rules=(
        STATUS_KNOWN,
        Rule("every_row_counted", "rows_in = clicks + rejected", "every row is in one of the two tables"),
        Rule("reason_where_stopped", "(status = 'stopped') = (reason IS NOT NULL)", "a stopped load has a reason"),
    ),
)
