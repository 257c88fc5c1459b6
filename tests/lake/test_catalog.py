"""A lake's tables by names of Spark's catalog."""

from pathlib import Path

import pytest
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.config.lake import LakeSettings
from mamdr_core.lake.core.features import declared_clicks
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError

pytestmark = pytest.mark.slow


def users_of(frame):
    return sorted(row["user"] for row in frame.select("user").collect())


def test_a_lake_of_paths_gets_names_and_can_lose_them(spark, make_clicks, tmp_path):
    root = str(tmp_path / "it's a lake")
    paths, named = Lake(spark, root), LakeSettings(root=root, catalog="named")
    paths.append("clicks", make_clicks([("u", "i", "d")]))
    lake = Lake(spark, named)
    assert [table.name for table in lake.tables()] == ["clicks"]
    lake.append("clicks", make_clicks([("v", "i", "d")]))
    lake.create("domains")
    assert users_of(spark.table("spark_catalog.named.clicks")) == ["u", "v"]
    assert {row["tableName"] for row in spark.sql("SHOW TABLES IN named").collect()} == {"clicks", "domains"}
    with pytest.raises(MamdrError, match=r"named names the tables of .*it's a lake, not .*other"):
        Lake(spark, LakeSettings(root=str(tmp_path / "other"), catalog="named"))
    spark.sql("DROP TABLE named.clicks")
    assert users_of(Lake(spark, named).read("clicks")) == ["u", "v"], "its files stay, and it is named again"
    spark.sql("DROP SCHEMA named CASCADE")
    assert users_of(paths.read("clicks")) == ["u", "v"], "the tables themselves stay"
    spark.sql("CREATE SCHEMA named")
    spark.sql(f"CREATE TABLE named.clicks USING DELTA LOCATION '{tmp_path}/elsewhere' AS SELECT 1 a")
    spark.sql("CREATE VIEW named.domains AS SELECT 1 a")
    with pytest.raises(MamdrError, match=r"named.clicks is stored in .*elsewhere, not in lake.root"):
        Lake(spark, named).read("clicks")
    with pytest.raises(MamdrError, match=r"named.domains is no Delta table"):
        Lake(spark, named).read("domains")
    spark.sql("DROP SCHEMA named CASCADE")


def test_managed_tables_are_written_in_one_commit_and_found_by_their_schema(spark, make_clicks, tmp_path):
    spark.sql(f"CREATE SCHEMA managed LOCATION '{tmp_path}/warehouse'")
    settings = LakeSettings(root=str(tmp_path / "lake"), catalog="managed", managed=True)
    lake = Lake(spark, settings)
    first, second = {"write": 1}, {"write": 2}
    assert lake.write_next("clicks", make_clicks([("u", "i", "d"), ("v", "i", "d")]), first, 1, "")
    assert lake.written("clicks", first) == (0, 2)
    assert Path(lake.path("clicks")) == tmp_path / "warehouse" / "clicks"
    assert "label_binary" in lake.log("clicks").constraints()
    lake.overwrite("clicks", make_clicks([("w", "i", "d")]), second)
    assert (users_of(spark.table("managed.clicks")), users_of(lake.read("clicks", 0))) == (["w"], ["u", "v"])
    assert not lake.write_next("clicks", make_clicks([("x", "i", "d")]), {"write": 3}, 1, ""), "of a number passed"
    assert lake.undo("clicks", second)
    assert users_of(Lake(spark, settings).read("clicks")) == ["u", "v"]
    before = lake.log("clicks").table_id(), lake.log("clicks").properties()
    hour = Feature(name="hour", kind="numeric", expression="hour(event_time)")
    lake.overwrite(declared_clicks([hour]), make_clicks([("w", "i", "d")]).withColumn("hour", F.lit(1.0)))
    assert (lake.log("clicks").table_id(), lake.log("clicks").properties()) == before, "other columns, the same table"
    for other in (LakeSettings(root=settings.root), LakeSettings(root=settings.root, catalog="another")):
        with pytest.raises(
            MamdrError, match=r"are managed in spark_catalog.managed: set lake.catalog: spark_catalog.m"
        ):
            Lake(spark, other)
    with pytest.raises(MamdrError, match=r"managed.clicks is stored in .*, not in lake.root"):
        Lake(spark, LakeSettings(root=str(tmp_path / "new"), catalog="managed", managed=True)).tables()
    spark.sql("DROP TABLE managed.clicks")
    with pytest.raises(MamdrError, match=r"has no table clicks yet: run jobs/ingest_clicks.py first"):
        Lake(spark, settings).read("clicks")
    spark.sql("DROP SCHEMA managed CASCADE")
    with pytest.raises(MamdrError, match=r"no schema spark_catalog.managed, which has the tables of .* metastore"):
        Lake(spark, settings)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("my-lake", "lake.catalog: spark_catalog.my-lake is refused .*not a valid name"),
        ("it`s", "lake.catalog: spark_catalog.it`s is refused"),
        ("unity.mamdr", "Spark has no catalog unity: set spark.sql.catalog.unity or name a schema"),
    ],
)
def test_a_schema_that_the_catalog_refuses_is_one_line(spark, lake_root, make_clicks, schema, message):
    with pytest.raises(MamdrError, match=message):
        Lake(spark, LakeSettings(root=lake_root, catalog=schema, managed=True)).append("clicks", make_clicks([]))


@pytest.mark.parametrize("wrong", [{"catalog": "a.b.c"}, {"catalog": "a."}, {"managed": True}])
def test_settings_that_name_no_schema_are_refused(wrong):
    with pytest.raises(ValueError, match=r"catalog must be a schema or catalog.schema|managed is set without catalog"):
        LakeSettings(**wrong)
