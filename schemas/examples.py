"""Gold table: encoded examples, packed into shards."""

from dataclasses import replace

from schemas.declaration import Column, DeclaredTable, Rule

SPLITS = ("train", "val", "test")

EXAMPLES = DeclaredTable(
    name="examples",
    description=(
        "Encoded examples. Further columns are declared features: categorical int, numeric float, bags and sequences "
        "array<int>, weights array<float>."
    ),
    made_by="build_examples",
    columns=(
        Column("user", "int", "index in users; -1: unknown"),
        Column("item", "int", "index in items; -1: unknown"),
        Column("domain", "int", "index in domains; -1: unknown"),
        Column("label", "int", "1: clicked, 0: shown and not clicked, or a sampled negative"),
        Column("split", "string", "train, val or test; absent if windows of days determine it: see examples_view"),
        Column("shard", "int", "number of the shard, from 0; a shard contains whole domains, or a part of a large one"),
        Column("key", "bigint", "hash of the row's identity, by which rows of a domain are sorted"),
        Column("ds", "date", "the day of the click; for a sampled negative, that of one of the user's clicks"),
        Column("load", "bigint", "the load of the click; for a sampled negative, that of the same click as `ds`"),
        Column("true_probability", "double", "the click's true probability (synthetic logs only)", nullable=True),
    ),
    rules=(
        Rule("label_binary", "label IN (0, 1)", "the label is 0 or 1"),
        Rule("split_known", "split IN ('train', 'val', 'test')", "the split is train, val or test"),
        Rule("index_known", "`user` >= -1 AND item >= -1 AND domain >= -1", "indices start at 0; -1: unknown"),
        Rule("shard_not_negative", "shard >= 0", "shard numbers start at 0"),
    ),
    partition_by=("split", "shard"),
    sort_by=("domain", "key"),
    skip_by=("domain", "ds", "load"),
)


def without_split(table: DeclaredTable) -> DeclaredTable:
    """The table without the column `split`, for splits that windows of days determine."""
    rules = tuple(rule for rule in table.rules if rule.name != "split_known")
    columns = tuple(column for column in table.columns if column.name != "split")
    return replace(table, columns=columns, rules=rules, partition_by=("shard",))
