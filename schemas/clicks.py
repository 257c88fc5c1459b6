"""Silver tables: valid impressions and clicks, and the rows that failed a rule."""

from schemas.declaration import Column, Rule, Table, one_of
from schemas.examples import SPLITS

LONGEST_ID = 1024
"""Characters of an id at most; what is longer is a field that ran away."""
_IDS = ("`user`", "item", "domain")


def _each_id(condition: str) -> str:
    return " AND ".join(condition.format(name) for name in _IDS)


RECORD_WELL_FORMED = Rule(
    "record_well_formed",
    "",
    "the line is a whole record (CSV, JSON); of one that is not, `row` holds the line as it is",
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
    "the time is there and can be read (this and all rules of times and events: where input.columns.event_time is set)",
    enforced=False,
)
NOT_ANCIENT = Rule("event_time_not_ancient", "", "the time is not before input.earliest", enforced=False)
NOT_FUTURE = Rule(
    "event_time_not_future",
    "",
    "the time is not after input.latest; without it, at most a day after the job's start, for clocks that are ahead",
    enforced=False,
)
SPLIT_KNOWN = Rule(
    "split_known",
    one_of("split", SPLITS),
    "the split is train, val or test (where input.columns.split is set)",
    enforced=False,
)
WEIGHT_VALID = Rule(
    "weight_valid",
    "sample_weight IS NULL OR (sample_weight >= 0 AND sample_weight <= 3.4e38D)",
    "the weight is a number of at least 0 that a float can hold (where input.columns.weight is set; null passes)",
    enforced=False,
)
UNIQUE_EVENT = Rule(
    "unique_event",
    "",
    "no other row of the load has its user, item, domain and event_time; of those that share them one is kept, a click "
    "before an impression",
    enforced=False,
)
NEW_EVENT = Rule("new_event", "", "no other load has put the event into clicks before, on any day", enforced=False)

CLICKS = Table(
    name="clicks",
    description=(
        "A valid impression or click. `split` and `sample_weight` follow where input.columns.split and .weight declare "
        "them, and declared features as columns, bags and sequences as array<string>; a numeric one has the rule "
        "`<feature>_readable` and, with `minimum` or `maximum`, `<feature>_in_range`, a bag with weights "
        "`<feature>_weights_valid` (in ingest only; null passes)."
    ),
    made_by="ingest_clicks",
    columns=(
        Column("user", "string", "the user's id, as in the log"),
        Column("item", "string", "the item's id, as in the log"),
        Column("domain", "string", "the domain's id, as in the log"),
        Column("label", "int", "1: clicked, 0: shown and not clicked"),
        Column("event_time", "timestamp", "when it happened (UTC); null where the log does not say", nullable=True),
        Column("true_probability", "double", "the click's true probability (synthetic logs only)", nullable=True),
        Column("load", "bigint", "the load that filed the row; its source is in loads"),
        Column("ds", "date", "the day that the row is filed under"),
    ),
    rules=(
        RECORD_WELL_FORMED,
        Rule("user_present", "`user` IS NOT NULL AND trim(`user`) <> ''", "the user's id is there and not blank"),
        Rule("item_present", "item IS NOT NULL AND trim(item) <> ''", "the item's id is there and not blank"),
        Rule("domain_present", "domain IS NOT NULL AND trim(domain) <> ''", "the domain's id is there and not blank"),
        IDS_SHORT,
        IDS_READABLE,
        Rule("label_present", "label IS NOT NULL", "the label is there"),
        Rule("label_binary", "label IN (0, 1)", "the label is 0 or 1 (or false or true)"),
        SPLIT_KNOWN,
        WEIGHT_VALID,
        EVENT_TIME_PRESENT,
        NOT_ANCIENT,
        NOT_FUTURE,
        Rule("ds_present", "ds IS NOT NULL", "the day is there and can be read"),
        UNIQUE_EVENT,
        NEW_EVENT,
    ),
    partition_by=("ds",),
    skip_by=("event_time", "load"),
)

CLICKS_REJECTED = Table(
    name="clicks_rejected",
    description="A row of the raw log that failed a rule; clicks and clicks_rejected together hold every row once.",
    made_by="ingest_clicks",
    columns=(
        Column("rule", "string", "the first rule of clicks that the row failed"),
        Column("row", "string", "the raw row as JSON; of a malformed record the line as it is"),
        Column("load", "bigint", "the load that brought the row; see loads"),
        Column("source", "string", "input.path of the load"),
        Column("source_file", "string", "the file that held the row", nullable=True),
        Column(
            "event",
            "bigint",
            "xxhash64 of user, item, domain and event_time; null where a rule before unique_event failed",
            nullable=True,
        ),
        Column("known_load", "bigint", "where it failed new_event: the load whose click has the event", nullable=True),
        Column("known_ds", "date", "where it failed new_event: the day of that click", nullable=True),
        Column(
            "click",
            "string",
            "where it failed new_event: the row as clicks would hold it, in JSON (event_time in microseconds since "
            "1970), which is filed when no other load has the event any more",
            nullable=True,
        ),
        Column("ds", "date", "the day that the row would be filed under; null where it has none", nullable=True),
    ),
    partition_by=("ds",),
    skip_by=("load", "known_ds"),
)
