"""Declarations are checked when they are made, and need neither Spark nor Petastorm."""

import subprocess
import sys
from pathlib import Path

import pytest

from mamdr_core.config.features import Feature
from schemas import SPLITS, TABLES, Column, DeclaredTable, Rule, clicks_table, examples_table, feature_vocabulary
from schemas.__main__ import tables_reference

ROOT = Path(__file__).parents[2]


def test_a_type_that_no_reader_knows_is_refused():
    with pytest.raises(ValueError, match="column x: type 'decimal' is not one of string, int"):
        Column("x", "decimal", "")


def test_a_table_with_a_column_twice_is_refused():
    column = Column("x", "int", "")
    with pytest.raises(ValueError, match="table t declares a column twice: x, x"):
        DeclaredTable("t", "", (column, column))


def test_a_table_laid_out_by_a_missing_column_is_refused():
    with pytest.raises(ValueError, match="the layout of table t uses ds"):
        DeclaredTable("t", "", (Column("x", "int", ""),), partition_by=("ds",))


def test_rules_that_are_not_enforced_are_no_constraints():
    rules = (Rule("a", "x > 0", ""), Rule("b", "x > 1", "", enforced=False))
    assert DeclaredTable("t", "", (Column("x", "int", "", nullable=True),), rules).constraints() == {"a": "x > 0"}


def test_columns_need_a_value_unless_nullable_or_declared_by_the_config():
    table = DeclaredTable(
        "t", "", (Column("x", "int", ""), Column("y", "int", "", nullable=True), Column("z", "int", ""))
    )
    assert table.constraints() == {"required_present": "`x` IS NOT NULL AND `z` IS NOT NULL"}
    assert table.with_columns([Column("feature", "int", "")]).constraints() == table.constraints()


def test_a_column_is_found_by_name():
    assert TABLES["clicks"].column("label").type == "int"
    with pytest.raises(KeyError, match="table clicks has no column score"):
        TABLES["clicks"].column("score")


def test_features_extend_clicks_and_examples_but_vectors_do_not():
    features = (
        Feature(name="age", kind="numeric"),
        Feature(name="city", kind="categorical"),
        Feature(name="gnn", kind="vector", size=4, path="v"),
    )
    assert [(column.name, column.type) for column in clicks_table(features).columns[-2:]] == [
        ("age", "double"),
        ("city", "string"),
    ]
    assert [(column.name, column.type, column.nullable) for column in examples_table(features).columns[-2:]] == [
        ("age", "float", True),
        ("city", "int", False),
    ]


def test_the_contract_of_examples_holds():
    names = TABLES["examples"].column_names
    assert names[:6] == ("user", "item", "domain", "label", "split", "shard")
    assert SPLITS == ("train", "val", "test")


def test_a_feature_has_a_vocabulary_like_users():
    assert feature_vocabulary("city").name == "vocabulary_city"
    assert feature_vocabulary("city").columns == TABLES["users"].columns


def test_declarations_need_no_spark():
    code = "import sys, schemas; sys.exit(any(name in sys.modules for name in ('pyspark', 'petastorm', 'delta')))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_reference_of_tables_is_up_to_date():
    assert (ROOT / "docs" / "tables.md").read_text() == tables_reference(), "run: python -m schemas > docs/tables.md"
