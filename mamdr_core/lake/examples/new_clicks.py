"""The clicks that a build encodes: their selection, the extension of vocabularies, and the resulting examples."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.job_config import Config
from mamdr_core.lake.core.caching import Keep
from mamdr_core.lake.core.features import check_types, names_in_clicks, names_in_examples
from mamdr_core.lake.core.few import gathered, is_few
from mamdr_core.lake.core.session import FEW_BYTES
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.domains import update_domains
from mamdr_core.lake.examples.encoding import (
    IDS,
    encode_features,
    encode_ids,
    first_of_pairs,
    indexed_features,
    row_key,
    sampled_key,
    with_hashes,
)
from mamdr_core.lake.examples.history import add_histories, histories
from mamdr_core.lake.examples.increments import Increment
from mamdr_core.lake.examples.negatives import sample_negatives
from mamdr_core.lake.examples.plans import (
    DomainPlan,
    check_ratios,
    count_domains,
    plan_domains,
    plan_frame,
    plan_impressions,
)
from mamdr_core.lake.examples.several_ids import encode_several, hashed_ids
from mamdr_core.lake.examples.vocabularies import (
    Growth,
    Ids,
    NewIds,
    add_new_ids,
    find_new_ids,
    id_column,
    unchanged_vocabulary,
)
from mamdr_core.runtime.errors import MamdrError
from schemas import SAMPLE_WEIGHT, TABLES, feature_vocabulary

logger = logging.getLogger(__name__)

SPLIT = "split"
"""Column of clicks with the split of a row, if the log gives it."""
_NAMED = 3


@dataclass(frozen=True)
class NewClicks:
    """The clicks that a build encodes.

    Attributes:
        increment: conditions of new clicks and of replaced examples.
        ids: result of `find_ids` for the clicks to encode; None: there are none.
        all_clicks: all clicks on the declared days.
    """

    increment: Increment
    ids: NewIds | None
    all_clicks: DataFrame

    @property
    def domains(self) -> list[dict[str, Any]]:
        """The domains of these clicks, as in `UnknownIds.domains`."""
        return self.ids.unknown.domains if self.ids else []

    @property
    def rows(self) -> int:
        """Number of clicks to encode."""
        return sum(row["rows"] for row in self.domains)

    def newest(self, lake: Lake) -> date:
        """The newest day of encoded and kept rows."""
        days: list[date] = [row["newest"] for row in self.domains]
        increment = self.increment
        if increment.replaced:
            examples = lake.read("examples", increment.base)
            kept = examples.where(~F.expr(increment.replaced)).agg(F.max("ds")).collect()[0][0]
            days += [kept] if kept else []
        elif noted := increment.state.get("newest"):
            days.append(date.fromisoformat(noted))
        if not days:
            raise MamdrError(f"clicks of {lake.root} has no rows left for examples")
        return max(days)


def select_clicks(lake: Lake, version: int, config: Config) -> DataFrame:
    """Clicks on the declared days, without retired domains, with ids hashed to buckets where configured.

    Raises:
        MamdrError: clicks lacks the column of a declared feature, the split or the weight.
    """
    settings = config.examples
    features = names_in_clicks(config.features)
    split = [SPLIT] if settings.split.kind == "given" else []
    clicks = lake.read("clicks", version)
    if split and SPLIT not in clicks.columns:
        raise MamdrError(
            "examples.split.kind is given, and clicks has no column split: run ingest_clicks again with "
            "input.columns.split"
        )
    weight = [SAMPLE_WEIGHT] if config.input.columns.weight else []
    if weight and SAMPLE_WEIGHT not in clicks.columns:
        raise MamdrError(
            f"input.columns.weight is set, and clicks has no column {SAMPLE_WEIGHT}: run ingest_clicks again with it"
        )
    check_types(clicks, config.features)
    missing = [name for name in features if name not in clicks.columns]
    if missing:
        raise MamdrError(f"clicks has no column {', '.join(missing)}: run ingest_clicks again with these features")
    if settings.since:
        clicks = clicks.where(F.col("ds") >= settings.since)
    if settings.until:
        clicks = clicks.where(F.col("ds") <= settings.until)
    if settings.retired:
        clicks = clicks.where(~F.col("domain").isin(*settings.retired))
    hashed = {"user": settings.users, "item": settings.items}
    ids = [id_column(F.col(name), of).alias(name) for name, of in hashed.items()]
    for feature in config.features:
        if feature.has_several_ids and not feature.history:
            clicks = clicks.withColumns(dict(hashed_ids(feature, settings.users, settings.items)))
    given = ("domain", "label", "event_time", "ds", "load", "true_probability", *split, *weight)
    return clicks.select(*ids, *given, *features)


def find_ids(lake: Lake, clicks: DataFrame, config: Config, keep: Keep) -> NewIds:
    """Find the domains of the clicks to encode, and the ids that vocabularies lack, by one query.

    Vocabularies with a `min_count` above 1 are not included, because they require the rows of all days.
    """
    return find_new_ids(lake, _vocabularies(config)[0], clicks, keep, domains=True, on_driver=is_few(lake.spark))


def bytes_of_vocabularies(lake: Lake, config: Config) -> int:
    """Total size of the vocabularies that may be large, in bytes."""
    return sum(lake.log(ids.table).size() for part in _vocabularies(config) for ids in part)


def _vocabularies(config: Config) -> tuple[list[Ids], list[Ids]]:
    """The vocabularies except that of domains: those with a `min_count` of 1, and the others."""
    settings = config.examples
    wanted = [
        Ids(TABLES["users"], "user", settings.users.min_count),
        Ids(TABLES["items"], "item", settings.items.min_count),
        *(Ids(feature_vocabulary(name), name) for name in indexed_features(config.features)),
    ]
    return [ids for ids in wanted if ids.min_count == 1], [ids for ids in wanted if ids.min_count > 1]


def check_new_clicks(new_clicks: NewClicks, lake: Lake, config: Config) -> None:
    """Check that there are clicks, and that they suit the settings.

    Raises:
        MamdrError: there are no clicks; negatives are to be sampled for a log with impressions; rows lack a given
            split; or a domain has no ratio.
    """
    settings = config.examples
    rows, positives = new_clicks.rows, sum(row["positives"] for row in new_clicks.domains)
    if not rows and new_clicks.increment.replaced is None:
        days = f"from {settings.since or 'the first day'} to {settings.until or 'the last'}"
        raise MamdrError(f"clicks of {lake.root} holds no row {days} (examples.since, examples.until)")
    if rows > positives and settings.negatives.kind == "in_domain":
        raise MamdrError(
            f"examples.negatives.kind in_domain is for logs of positives only, but {rows - positives} of {rows} clicks "
            "have label 0: set it to none, or leave input.columns.label empty"
        )
    if settings.split.kind == "given" and (unsplit := sum(row["unsplit"] for row in new_clicks.domains)):
        raise MamdrError(
            f"examples.split.kind is given, and {unsplit} of {rows} clicks have no split: ingest again with "
            f"input.columns.split {', '.join(_sources_without_split(lake, new_clicks))}"
        )
    if config.input.columns.split and settings.split.kind != "given":
        logger.warning("input.columns.split is not used: examples.split.kind is %s, not given", settings.split.kind)
    check_ratios({row["domain"] for row in new_clicks.domains}, settings)


def _sources_without_split(lake: Lake, new_clicks: NewClicks) -> list[str]:
    """The first sources of loads with clicks without a split."""
    if not new_clicks.ids or not lake.exists("loads"):
        return []
    clicks = new_clicks.ids.rows.where(F.col(SPLIT).isNull()).select("load").distinct()
    sources = lake.read("loads").join(clicks, "load", "left_semi").select("source").distinct()
    return [row["source"] for row in sources.orderBy("source").limit(_NAMED).collect()]


def grow_vocabularies(
    lake: Lake, new_clicks: NewClicks, config: Config, keep: Keep
) -> tuple[dict[str, Growth], dict[str, int]]:
    """Give new ids an index; returns the vocabularies by column, and the index of every domain by its id."""
    if not new_clicks.ids or not new_clicks.domains:
        return {name: unchanged_vocabulary(lake, TABLES[f"{name}s"]) for name in IDS}, {}
    growth = add_new_ids(lake, new_clicks.ids, keep)
    if rare := _vocabularies(config)[1]:
        on_driver = lake.log("clicks").size() <= FEW_BYTES
        new_ids = find_new_ids(lake, rare, new_clicks.all_clicks, keep, on_driver=on_driver)
        growth |= add_new_ids(lake, new_ids, keep)
    growth["domain"], domains = update_domains(lake, new_clicks.domains)
    return growth, domains


def encode_new_clicks(
    new_clicks: NewClicks,
    clicks: DataFrame,
    growth: Mapping[str, Growth],
    domains: Mapping[str, int],
    config: Config,
    keep: Keep,
) -> tuple[DataFrame, list[DomainPlan]]:
    """Encode clicks; returns their rows, with sampled negatives, and the plan of each domain."""
    in_domain = config.examples.negatives.kind == "in_domain"
    rows = gathered(with_hashes(clicks))
    if in_domain:
        rows = first_of_pairs(rows)
    # First, because it reads the rows twice.
    given = [feature for feature in config.features if feature.has_several_ids and not feature.history]
    rows = encode_several(rows, growth, given, config.features)
    rows = encode_ids(rows, growth)
    if made := histories(config.features):
        days = min(row["ds"] for row in new_clicks.domains), max(row["newest"] for row in new_clicks.domains)
        is_part = new_clicks.increment.replaced is not None
        rows = add_histories(rows, new_clicks.all_clicks, growth["item"], made, days, few_users=is_part)
    rows = encode_features(rows, growth, config.features)
    rows = rows.withColumn("key", row_key()).drop("event_time")
    if not in_domain:
        return rows, plan_impressions(new_clicks.domains, domains)
    rows = keep(rows)
    plans = plan_domains(count_domains(rows, config.examples))
    return rows.unionByName(_negatives(rows, plans, config, keep), allowMissingColumns=True), plans


def _negatives(pairs: DataFrame, plans: list[DomainPlan], config: Config, keep: Keep) -> DataFrame:
    split = [SPLIT] if SPLIT in pairs.columns else []
    carried = ["ds", "load", *split, *names_in_examples(config.features)]
    plan = plan_frame(pairs.sparkSession, plans)
    negatives = sample_negatives(pairs, plan, config.examples.seed, carried, keep)
    return negatives.withColumn("label", F.lit(0)).withColumn("key", sampled_key())
