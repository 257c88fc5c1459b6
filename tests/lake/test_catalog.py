"""A lake's tables by names of Spark's catalog."""

import pytest

from mamdr_core.errors import MamdrError
from mamdr_core.lake.core.catalog import register_tables
from mamdr_core.lake.core.tables import Lake

pytestmark = pytest.mark.slow


def test_tables_have_names_in_a_schema_of_one_lake(spark, make_clicks, tmp_path):
    lake = Lake(spark, str(tmp_path / "it's a lake"))
    lake.append("clicks", make_clicks([("u", "i", "d")]))
    assert register_tables(spark, lake, "named") == ["clicks"]
    lake.create("domains")
    assert register_tables(spark, lake, "named") == ["domains"]
    lake.append("clicks", make_clicks([("v", "i", "d")]))
    assert sorted(row["user"] for row in spark.table("named.clicks").collect()) == ["u", "v"]
    assert spark.table("spark_catalog.named.domains").isEmpty()
    other = Lake(spark, str(tmp_path / "other"))
    other.create("domains")
    with pytest.raises(MamdrError, match=r"lake.catalog: named names the tables of .*it's a lake, not .*other"):
        register_tables(spark, other, "named")
    spark.sql("DROP SCHEMA named CASCADE")
    assert lake.read("clicks").count() == 2, "the tables themselves stay"
