"""Silver tables: valid impressions and clicks, and rows that failed a rule."""

from schemas.declaration import Column, DeclaredTable, Rule, one_of
from schemas.examples import SPLITS

LONGEST_ID = 1024
"""Largest number of characters of an id; longer ids are most likely caused by a missing field separator."""
_IDS = ("`user`", "item", "domain")


def _each_id(condition: str) -> str:
    return " AND ".join(condition.format(name) for name in _IDS)


RECORD_WELL_FORMED = Rule(
    "record_well_formed",
    "",
    "the record can be parsed (CSV, JSON); of a malformed record, `row` contains the unchanged line",
    enforced=False,
)
IDS_SHORT = Rule(
    "ids_short", _each_id(f"length({{}}) <= {LONGEST_ID}"), f"each id has at most {LONGEST_ID} characters", False
)
IDS_READABLE = Rule(
    "ids_readable",
    _each_id("is_valid_utf8({0}) AND NOT contains({0}, '\\uFFFD')"),
    "each id is text in the declared encoding (input.options.encoding; else UTF-8)",
    enforced=False,
)
EVENT_TIME_PRESENT = Rule(
    "event_time_present",
    "event_time IS NOT NULL",
    "the time is present and readable (this and all rules of times and events: if input.columns.event_time is set)",
    enforced=False,
)
NOT_ANCIENT = Rule("event_time_not_ancient", "", "the time is not before input.earliest", enforced=False)
NOT_FUTURE = Rule(
    "event_time_not_future",
    "",
    "the time is not after input.latest or, if unset, at most a day after the job's start, since clocks may be ahead",
    enforced=False,
)
SPLIT_KNOWN = Rule(
    "split_known",
    one_of("split", SPLITS),
    "the split is train, val or test (if input.columns.split is set)",
    enforced=False,
)
WEIGHT_VALID = Rule(
    "weight_valid",
    "sample_weight IS NULL OR (sample_weight >= 0 AND sample_weight <= 3.4e38D)",
    "the weight is null or a number of at least 0 within the range of float (if input.columns.weight is set)",
    enforced=False,
)
UNIQUE_EVENT = Rule(
    "unique_event",
    "",
    "no other row of the load has the same user, item, domain and event_time; one of such duplicates is kept, with a "
    "click preferred to an impression",
    enforced=False,
)
NEW_EVENT = Rule("new_event", "", "the event is not in clicks from an earlier load, on any day", enforced=False)

CLICKS = DeclaredTable(
    name="clicks",
    description=(
        "Valid impressions and clicks. Further columns are `split` and `sample_weight`, if input.columns.split and "
        ".weight declare them, and declared features, with bags and sequences as array<string>. A numeric feature has "
        "the rule `<feature>_readable` and, with `minimum` or `maximum`, `<feature>_in_range`; a bag with weights has "
        "`<feature>_weights_valid` (in ingest only; null passes)."
    ),
    made_by="ingest_clicks",
    columns=(
        Column("user", "string", "the user's id, as in the log"),
        Column("item", "string", "the item's id, as in the log"),
        Column("domain", "string", "the domain's id, as in the log"),
        Column("label", "int", "1: clicked, 0: shown and not clicked"),
        Column("event_time", "timestamp", "time of the event (UTC); null if the log does not have it", nullable=True),
        Column("true_probability", "double", "the click's true probability (synthetic logs only)", nullable=True),
        Column("load", "bigint", "the load that wrote the row; its source is in loads"),
        Column("ds", "date", "the day of the row's partition"),
    ),
    rules=(
        RECORD_WELL_FORMED,
        Rule("user_present", "`user` IS NOT NULL AND trim(`user`) <> ''", "the user's id is present and not blank"),
        Rule("item_present", "item IS NOT NULL AND trim(item) <> ''", "the item's id is present and not blank"),
        Rule("domain_present", "domain IS NOT NULL AND trim(domain) <> ''", "the domain's id is present and not blank"),
        IDS_SHORT,
        IDS_READABLE,
        Rule("label_present", "label IS NOT NULL", "the label is present"),
        Rule("label_binary", "label IN (0, 1)", "the label is 0 or 1 (or false or true)"),
        SPLIT_KNOWN,
        WEIGHT_VALID,
        EVENT_TIME_PRESENT,
        NOT_ANCIENT,
        NOT_FUTURE,
        Rule("ds_present", "ds IS NOT NULL", "the day is present and readable"),
        UNIQUE_EVENT,
        NEW_EVENT,
    ),
    partition_by=("ds",),
    skip_by=("event_time", "load"),
)

CLICKS_REJECTED = DeclaredTable(
    name="clicks_rejected",
    description="Rows of the raw log that failed a rule; clicks and clicks_rejected together contain every row once.",
    made_by="ingest_clicks",
    columns=(
        Column("rule", "string", "the first rule of clicks that the row failed"),
        Column("row", "string", "the raw row as JSON; for a malformed record the unchanged line"),
        Column("load", "bigint", "the load of the row; see loads"),
        Column("source", "string", "input.path of the load"),
        Column("source_file", "string", "the file of the row", nullable=True),
        Column(
            "event",
            "bigint",
            "xxhash64 of user, item, domain and event_time; null if a rule before unique_event failed",
            nullable=True,
        ),
        Column("known_load", "bigint", "if it failed new_event: the load of the event in clicks", nullable=True),
        Column("known_ds", "date", "if it failed new_event: the day of the event in clicks", nullable=True),
        Column(
            "click",
            "string",
            "if it failed new_event: the row of clicks as JSON (event_time in microseconds since 1970), which is added "
            "to clicks once no other load has the event",
            nullable=True,
        ),
        Column("ds", "date", "the day of the row's partition; null if it has none", nullable=True),
    ),
    partition_by=("ds",),
    skip_by=("load", "known_ds"),
)
