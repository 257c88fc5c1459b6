"""Gold table: encoded examples, packed into shards."""

from dataclasses import replace

from schemas.declaration import Column, Rule, Table

SPLITS = ("train", "val", "test")

EXAMPLES = Table(
    name="examples",
    description=(
        "An encoded example. Declared features follow as columns: categorical int, numeric float, bags and sequences "
        "array<int>, weights array<float>."
    ),
    made_by="build_examples",
    columns=(
        Column("user", "int", "index in users; -1: unknown"),
        Column("item", "int", "index in items; -1: unknown"),
        Column("domain", "int", "index in domains; -1: unknown"),
        Column("label", "int", "1: clicked, 0: shown and not clicked, or a sampled negative"),
        Column("split", "string", "train, val or test; absent where windows decide it: see examples_view"),
        Column("shard", "int", "shard from 0; a shard holds whole domains, or a part of a giant one"),
        Column("key", "bigint", "hash of the row's identity; decides the order inside a domain"),
        Column("ds", "date", "the day of the click; of a sampled negative, that of one of the user's clicks"),
        Column("load", "bigint", "the load that filed the click; of a sampled negative, as `ds`"),
        Column("true_probability", "double", "the click's true probability (synthetic logs only)", nullable=True),
    ),
    rules=(
        Rule("label_binary", "label IN (0, 1)", "the label is 0 or 1"),
        Rule("split_known", "split IN ('train', 'val', 'test')", "the split is one of the three"),
        Rule("index_known", "`user` >= -1 AND item >= -1 AND domain >= -1", "an index counts from 0; -1: unknown"),
        Rule("shard_not_negative", "shard >= 0", "shards count from 0"),
    ),
    partition_by=("split", "shard"),
    sort_by=("domain", "key"),
    skip_by=("domain", "ds", "load"),
)


def without_split(table: Table) -> Table:
    """The table where windows of days decide the split, which then is no column of it."""
    rules = tuple(rule for rule in table.rules if rule.name != "split_known")
    columns = tuple(column for column in table.columns if column.name != "split")
    return replace(table, columns=columns, rules=rules, partition_by=("shard",))
