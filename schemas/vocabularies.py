"""Vocabularies, which map ids to indices, and fixed vectors by index."""

from dataclasses import replace

from schemas.declaration import Column, DeclaredTable, Rule

UNKNOWN_INDEX = -1
"""Index of ids that are in no vocabulary; models have a separate row for them."""

_COLUMNS = (
    Column("id", "string", "the id, as in the log"),
    Column("index", "int", "contiguous from 0; never changes"),
    Column("first_seen", "date", "first day with one of its rows, as known to the build that assigned its index"),
)
_RULES = (Rule("index_not_negative", "`index` >= 0", "indices start at 0"),)


def vocabulary_table(name: str, what: str) -> DeclaredTable:
    """The declaration of a vocabulary: append-only, with one row for each id."""
    return DeclaredTable(name, f"{what}: id to index; append-only.", _COLUMNS, _RULES, made_by="build_examples")


USERS = replace(
    vocabulary_table("users", "Users"),
    description="Users: id to index; append-only, except that forget_users replaces an id by `forgotten <index>`.",
)
ITEMS = vocabulary_table("items", "Items")
DOMAINS = vocabulary_table("domains", "Domains")


def feature_vocabulary(feature: str) -> DeclaredTable:
    """The vocabulary of a categorical feature without buckets, `vocabulary_<feature>`."""
    return vocabulary_table(f"vocabulary_{feature}", f"Values of the feature {feature}")


USER_FEATURES = DeclaredTable(
    name="user_features",
    description="Fixed feature vectors of users.",
    made_by="build_examples",
    columns=(
        Column("index", "int", "the user's index in users"),
        Column("name", "string", "the feature's name in the config"),
        Column("vector", "array<float>", "the vector; its length is the feature's `size`"),
    ),
    rules=(Rule("index_not_negative", "`index` >= 0", "indices start at 0"),),
)
ITEM_FEATURES = replace(
    USER_FEATURES,
    name="item_features",
    description="Fixed feature vectors of items.",
    columns=(Column("index", "int", "the item's index in items"), *USER_FEATURES.columns[1:]),
)
