"""Prints docs/tables.md."""

from schemas import TABLES
from schemas.declaration import Rule, Table

_HEAD = """# Tables

Made by `python -m schemas` from the declarations in schemas/; a test keeps it so. All are Delta tables at
`<lake.root>/<table>`. Every rule below is a CHECK constraint of its table and, for clicks, a rule of ingest: a row is
kept in clicks_rejected under the first rule that it fails, in this order; those marked so hold in ingest only. Columns
must hold a value unless marked `null` (the constraint `required_present`). Besides these, a feature of ids
(categorical, bag, sequence) without buckets or a shared table has a table `vocabulary_<feature>` like users.
"""


def tables_reference() -> str:
    """docs/tables.md: every table with its columns and rules."""
    return _HEAD + "".join(_section(table) for table in TABLES.values())


def _section(table: Table) -> str:
    made = f" Made by `jobs/{table.made_by}.py`." if table.made_by else ""
    layout = f" Partitioned by {', '.join(table.partition_by)}." if table.partition_by else ""
    order = f" Each file is sorted by {', '.join(table.sort_by)}." if table.sort_by else ""
    columns = "".join(
        f"| {column.name} | {column.type}{' null' if column.nullable else ''} | {column.description} |\n"
        for column in table.columns
    )
    rules = "".join(f"- `{rule.name}`: {rule.description}{_code(rule)}\n" for rule in table.rules)
    text = (
        f"\n## {table.name}\n\n{table.description}{made}{layout}{order}\n\n| column | type | meaning |\n|---|---|---|\n"
    )
    return text + columns + (f"\n{rules}" if rules else "")


def _code(rule: Rule) -> str:
    condition = f": `{rule.condition_sql.replace('`', '')}`" if rule.condition_sql else ""
    return condition if rule.enforced else f"{condition} (in ingest only)"


if __name__ == "__main__":
    print(tables_reference(), end="")
