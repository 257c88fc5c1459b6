"""Declarations of all tables of the lake, from which Spark schemas, Unischemas, constraints and rules are derived."""

from schemas.clicks import CLICKS, CLICKS_REJECTED
from schemas.conflict import CONFLICTS, DOMAIN_CONFLICTS
from schemas.curves import TRAINING_CURVES
from schemas.declaration import Column, ColumnType, DeclaredTable, Rule
from schemas.examples import EXAMPLES, SPLITS, without_split
from schemas.experiments import COMPARISONS, SWEEPS
from schemas.features import (
    SAMPLE_WEIGHT,
    clicks_table,
    columns_in_clicks,
    columns_in_examples,
    examples_table,
    feature_rules,
    weights_of,
)
from schemas.importance import FEATURE_IMPORTANCE
from schemas.loads import LOADS
from schemas.promotions import GATE_DECISIONS, GATE_DOMAINS, PROMOTIONS
from schemas.runs import DOMAIN_METRICS, STATUSES, TRAINING_RUNS
from schemas.scores import SCORES
from schemas.statistics import DOMAIN_STATS
from schemas.vocabularies import (
    DOMAINS,
    ITEM_FEATURES,
    ITEMS,
    UNKNOWN_INDEX,
    USER_FEATURES,
    USERS,
    feature_vocabulary,
)

TABLES: dict[str, DeclaredTable] = {
    table.name: table
    for table in (
        CLICKS,
        CLICKS_REJECTED,
        LOADS,
        USERS,
        ITEMS,
        DOMAINS,
        USER_FEATURES,
        ITEM_FEATURES,
        EXAMPLES,
        DOMAIN_STATS,
        TRAINING_RUNS,
        DOMAIN_METRICS,
        TRAINING_CURVES,
        COMPARISONS,
        SWEEPS,
        CONFLICTS,
        DOMAIN_CONFLICTS,
        GATE_DECISIONS,
        GATE_DOMAINS,
        PROMOTIONS,
        SCORES,
        FEATURE_IMPORTANCE,
    )
}
"""The lake's tables by name."""

__all__ = [
    "SAMPLE_WEIGHT",
    "SPLITS",
    "STATUSES",
    "TABLES",
    "UNKNOWN_INDEX",
    "Column",
    "ColumnType",
    "DeclaredTable",
    "Rule",
    "clicks_table",
    "columns_in_clicks",
    "columns_in_examples",
    "examples_table",
    "feature_rules",
    "feature_vocabulary",
    "weights_of",
    "without_split",
]
