"""Silver tables: valid impressions and clicks, and the rows that failed a rule."""

from schemas.declaration import Column, Rule, Table

UNIQUE_EVENT = "unique_event"
"""Rule of rows that repeat another's user, item, domain and event_time; decided over rows, not by a condition."""

CLICKS = Table(
    name="clicks",
    description="A valid impression or click.",
    made_by="ingest_clicks",
    columns=(
        Column("user", "string", "the user's id, as in the log"),
        Column("item", "string", "the item's id, as in the log"),
        Column("domain", "string", "the domain's id, as in the log"),
        Column("label", "int", "1: clicked, 0: shown and not clicked"),
        Column("event_time", "timestamp", "when it happened (UTC); null where the log does not say", nullable=True),
        Column("true_probability", "double", "the click's true probability (synthetic logs only)", nullable=True),
        Column("ds", "date", "the day that the row is filed under"),
    ),
    rules=(
        Rule("user_present", "`user` IS NOT NULL AND trim(`user`) <> ''", "the user's id is there and not blank"),
        Rule("item_present", "item IS NOT NULL AND trim(item) <> ''", "the item's id is there and not blank"),
        Rule("domain_present", "domain IS NOT NULL AND trim(domain) <> ''", "the domain's id is there and not blank"),
        Rule("label_present", "label IS NOT NULL", "the label is there"),
        Rule("label_binary", "label IN (0, 1)", "the label is 0 or 1 (or false or true)"),
        Rule(
            "event_time_present",
            "event_time IS NOT NULL",
            "the time is there and can be read; applies where input.columns.event_time is declared",
            enforced=False,
        ),
        Rule("ds_present", "ds IS NOT NULL", "the day is there and can be read"),
    ),
    partition_by=("ds",),
    skip_by=("event_time",),
)

CLICKS_REJECTED = Table(
    name="clicks_rejected",
    description="A row of the raw log that failed a rule; clicks and clicks_rejected together hold every row once.",
    made_by="ingest_clicks",
    columns=(
        Column("rule", "string", "the first rule that the row failed: a rule of clicks, or unique_event"),
        Column("row", "string", "the raw row as JSON"),
        Column("source", "string", "input.path of the load"),
        Column("source_file", "string", "the file that held the row", nullable=True),
        Column("ds", "date", "the day that the row would be filed under; null where it has none", nullable=True),
    ),
    partition_by=("ds",),
)
