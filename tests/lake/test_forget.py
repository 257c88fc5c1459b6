"""forget_users leaves no row of a user in any table, whenever it is killed, and reports what still holds them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from mamdr_core.config.job_config import with_values
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.maintenance.forget import BY_ID, BY_INDEX, forget_users
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.pinned import pin_examples
from schemas import TABLES
from tests.lake.runs_and_versions import Growth, files_of, record, update_vocabulary

SCORE = "'r' run_id, 'b' batch, '1' key, user, item, domain, true user_known, true item_known, true domain_known"

CLEANED = ("examples", "user_features", "users")


@pytest.fixture
def config(trained_config, tmp_path):
    """The trained lake's configuration for a copy of its tables."""
    root = str(tmp_path / "lake")
    shutil.copytree(trained_config.lake.root, root, ignore=shutil.ignore_patterns("training_runs", "packages"))
    return replace(trained_config, lake=replace(trained_config.lake, root=root))


def test_every_table_with_a_column_of_users_is_named():
    with_users = {
        name for name, table in TABLES.items() if {"user", "user_id"} & {column.name for column in table.columns}
    }
    assert with_users <= BY_ID.keys() | BY_INDEX.keys()


@pytest.mark.slow
def test_a_users_rows_leave_every_table_after_a_killed_job_too(spark, config, monkeypatch):
    lake = Lake(spark, config.lake.root)
    clicks = lake.read("clicks")
    lake.append(
        "scores",
        clicks.selectExpr(*SCORE.split(", "), "true specific", "0.5D score", "null logit_deviation", "null rank"),
    )
    user = clicks.groupBy("user").count().orderBy(F.desc("count")).first()["user"]
    row = clicks.where(F.col("user") == user).limit(1)
    source = ("load", "'' source", "'' source_file", "0L event")
    plain = ("'label_binary' rule", "to_json(struct(*)) row", *source, "null known_load", "null known_ds", "null click")
    # The id is not in the raw row, but was made of it.
    repeats = ("'new_event' rule", "'{}' row", *source, "0L known_load", "ds known_ds", "to_json(struct(user)) click")
    lake.append("clicks_rejected", row.selectExpr(*plain, "ds").union(row.selectExpr(*repeats, "ds")))
    index = lake.read("users").where(F.col("id") == user).first()["index"]
    holds = {
        **{name: F.col("user") == user for name in ("clicks", "scores")},
        "clicks_rejected": F.expr(f"contains(concat_ws(',', row, click), '\"{user}\"')"),
        "users": F.col("id") == user,
        "examples": F.col("user") == index,
        "user_features": F.col("index") == index,
    }

    def count(name):
        return tuple(lake.read(name).agg(F.count_if(holds[name]), F.count_if(~holds[name])).first())

    before = {name: count(name) for name in holds}
    theirs = {name: rows for name, (rows, _) in before.items()}
    pinned = pin_examples(spark, lake.root, config.features)
    record(lake, ("kept", "ok", 0, pinned.versions))
    config = with_values(config, {"forget.users": [user, "nobody"]})

    planned = forget_users(spark, with_values(config, {"forget.dry_run": True}))
    assert (planned["rows_removed"], planned["unknown_users"]) == (theirs, ["nobody"])
    assert all(theirs.values())
    assert planned["pinned_versions"] == {name: [pinned.versions[name]] for name in CLEANED}
    assert planned["pinned_by"] == ["kept"]
    assert lake.version("examples") == pinned.versions["examples"]

    change = Lake.change

    def die_at_examples(self, table, *rest):
        if table == "examples":
            raise KeyboardInterrupt
        change(self, table, *rest)

    monkeypatch.setattr(Lake, "change", die_at_examples)
    with pytest.raises(KeyboardInterrupt):
        forget_users(spark, config)
    monkeypatch.setattr(Lake, "change", change)
    done = forget_users(spark, with_values(config, {"forget.release": True}))
    assert done["rows_removed"] == {"examples": theirs["examples"]}
    assert (done["released_runs"], done["pinned_by"], done["rebuild_examples"]) == (1, [], False)
    left = lake.read("training_runs").first()["input_versions"]
    assert left == {name: version for name, version in pinned.versions.items() if name not in CLEANED}

    for name, (_, others) in before.items():
        assert count(name) == (0, others + (name == "users"))  # its index stays taken
    assert lake.read("users").where(f"index = {index}").first()["id"] == f"forgotten {index} \ufffd"
    for file in files_of(lake, "examples", lake.version("examples")):
        read = pq.read_table(file, columns=["domain", "key"]).to_pandas()
        assert read.equals(read.sort_values(["domain", "key"]))
    logs = [path.read_text() for name in holds for path in Path(lake.path(name)).glob("_delta_log/*.json")]
    assert not any(f"'{user}'" in text or f"= {user}" in text or f'"{user}"' in text for text in logs)

    back = spark.sql("SELECT :user user, DATE'2026-02-01' ds", {"user": user})
    assert update_vocabulary(lake, TABLES["users"], back, "user") == Growth(total=before["users"][1] + 2, new=1)


@pytest.mark.slow
def test_users_that_no_table_holds_are_a_clear_error(spark, make_config, tmp_path):
    path = tmp_path / "users.txt"
    path.write_text("u2\n\nu1\n")
    with pytest.raises(MamdrError, match=r"^forget\.users: no table of .* holds any of the 2 users: u1, u2$"):
        forget_users(spark, make_config(forget={"users": ["u1"], "path": str(path)}))
    with pytest.raises(MamdrError, match=r"^forget\.users and forget\.path name no user"):
        forget_users(spark, make_config())
    with pytest.raises(MamdrError, match=r"^forget\.path: /nowhere is no file$"):
        forget_users(spark, make_config(forget={"path": "/nowhere"}))
