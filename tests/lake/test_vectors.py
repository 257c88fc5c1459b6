"""Fixed vectors are checked, joined by index, and read again only where they changed."""

import shutil
import uuid
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples import vectors as vectors_module
from mamdr_core.lake.examples.vocabularies import unchanged_vocabulary
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES
from tests.lake.stored import commit, rows_of, state_of

pytestmark = pytest.mark.slow


def add_ids(root, name, *ids):
    """Append ids to a vocabulary."""
    first = len(rows_of(root, name)) if Path(root, name).exists() else 0
    rows = [{"id": each, "index": index, "first_seen": date(2026, 1, 1)} for index, each in enumerate(ids, first)]
    commit(root, TABLES[name], rows)


@pytest.fixture
def lake(spark, lake_root):
    add_ids(lake_root, "users", "u1", "u2", "u3")
    add_ids(lake_root, "items", "i1")
    return Lake(spark, lake_root)


@pytest.fixture
def vectors(tmp_path):
    def write(rows, name="vectors"):
        path = tmp_path / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        ids, found = zip(*rows, strict=True)
        kinds = {"id": pa.string(), "vector": pa.list_(pa.float64())}
        pq.write_table(pa.table([ids, found], schema=pa.schema(kinds)), path / f"part-{uuid.uuid4()}.parquet")
        return str(path)

    return write


def update_vectors(lake, features):
    vocabularies = {of: unchanged_vocabulary(lake, TABLES[f"{of}s"]) for of in ("user", "item")}
    vectors_module.update_vectors(lake, features, vocabularies)


def feature(path, **other):
    return Feature(**{"name": "gnn", "kind": "vector", "of": "user", "size": 2, "path": path, **other})


def found(lake):
    ids = {row["index"]: row["id"] for row in rows_of(lake.root, "users")}
    return {(ids[row["index"]], row["name"]): row["vector"] for row in rows_of(lake.root, "user_features")}


def test_known_ids_get_their_vectors_and_the_others_have_no_row(lake, vectors):
    update_vectors(lake, [feature(vectors([("u1", [1.0, 2.0]), ("u3", [3.0, 4.0]), ("stranger", [5.0, 6.0])]))])
    assert found(lake) == {("u1", "gnn"): [1.0, 2.0], ("u3", "gnn"): [3.0, 4.0]}


def test_several_vectors_lie_in_one_table(lake, vectors):
    second = feature(vectors([("u1", [9.0])], "second"), name="text", size=1)
    update_vectors(lake, [feature(vectors([("u1", [1.0, 2.0])])), second])
    assert found(lake) == {("u1", "gnn"): [1.0, 2.0], ("u1", "text"): [9.0]}


def test_vectors_are_committed_only_for_new_ids_and_changed_sources(lake, vectors):
    path = vectors([("u1", [1.0, 2.0]), ("u4", [7.0, 8.0]), ("u4", [5.0, 6.0])], "vectors é 10%3A00")
    update_vectors(lake, [feature(path)])
    update_vectors(lake, [feature(path)])
    assert lake.version("user_features") == 0
    add_ids(lake.root, "users", "u4", "u5")
    update_vectors(lake, [feature(path)])
    assert found(lake) == {("u1", "gnn"): [1.0, 2.0], ("u4", "gnn"): [7.0, 8.0]}
    assert state_of(lake.root, "user_features", 0).files.keys() < state_of(lake.root, "user_features").files.keys()
    update_vectors(lake, [feature(vectors([("u4", [1.0, 2.5])]))])
    assert found(lake) == {("u4", "gnn"): [1.0, 2.5]}
    assert lake.version("user_features") == 2


def test_a_job_that_another_has_overtaken_writes_all_again(lake, vectors, monkeypatch):
    """Both add the vector of the same new id."""
    path = vectors([("u1", [1.0, 2.0]), ("u4", [7.0, 8.0])])
    update_vectors(lake, [feature(path)])
    add_ids(lake.root, "users", "u4")
    append, others = Lake.append, []

    def overtaken(self, *arguments):
        if not others:
            others.append(True)
            update_vectors(lake, [feature(path)])
        append(self, *arguments)

    monkeypatch.setattr(Lake, "append", overtaken)
    update_vectors(lake, [feature(path)])
    assert len(rows_of(lake.root, "user_features")) == 2
    assert lake.version("user_features") == 3
    update_vectors(lake, [feature(path)])
    assert lake.version("user_features") == 3


def test_item_vectors_have_their_own_table(lake, vectors):
    update_vectors(lake, [feature(vectors([("i1", [1.0, 2.0])]), of="item")])
    assert len(rows_of(lake.root, "item_features")) == 1
    assert not lake.exists("user_features")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("u1", [1.0, 2.0]), ("u2", [1.0])], "the vector of 'u2' has 1 numbers, not 2"),
        ([("u1", [1.0, None])], "the vector of 'u1' has an element that is no number"),
        ([("u1", [1.0, float("nan")])], "the vector of 'u1' has an element that is no number"),
    ],
)
def test_a_faulty_vector_is_named_and_nothing_is_written(lake, vectors, rows, message):
    with pytest.raises(MamdrError) as error:
        update_vectors(lake, [feature(vectors(rows))])
    assert message in str(error.value)
    assert not lake.exists("user_features")


def test_a_source_without_its_columns_is_named(spark, lake, tmp_path):
    spark.range(1).select(F.col("id"), F.lit(1).alias("embedding")).write.parquet(str(tmp_path / "x"))
    with pytest.raises(MamdrError, match=r"needs columns id and vector \(an array of numbers\), has id, embedding"):
        update_vectors(lake, [feature(str(tmp_path / "x"))])


def test_ids_that_are_fractions_are_refused(spark, lake, tmp_path):
    spark.sql("SELECT 1.0D id, array(1.0D, 2.0D) vector").write.parquet(str(tmp_path / "x"))
    with pytest.raises(MamdrError, match=r"feature gnn: id is of type double, .* write try_cast"):
        update_vectors(lake, [feature(str(tmp_path / "x"))])


def test_a_missing_source_is_named(lake, tmp_path):
    with pytest.raises(MamdrError, match=r"feature gnn: path: .*nowhere matches nothing"):
        update_vectors(lake, [feature(str(tmp_path / "nowhere"))])


def test_a_schema_spares_json_vectors_inference_and_a_malformed_line_is_named(lake, tmp_path):
    path = tmp_path / "vectors.json"
    path.write_text('{"id": "u1", "vector": [1, 2]}\n')
    declared = feature(str(path), format="json", schema="id string, vector array<float>")
    update_vectors(lake, [declared])
    assert found(lake) == {("u1", "gnn"): [1.0, 2.0]}
    path.write_text('{"id": "u1", "vector": [1, 2]}\n{"id": "u2", "vector": [1, "x"]}\n')
    line = (
        r"""feature gnn: .*vectors.json: '{"id": "u2", "vector": \[1, "x"\]}' is not a whole record of id string, vec"""
    )
    with pytest.raises(MamdrError, match=line):
        update_vectors(lake, [declared])
    with pytest.raises(MamdrError, match="feature gnn: schema: 'id strin' is not Spark DDL"):
        update_vectors(lake, [feature(str(path), format="json", schema="id strin")])
    with pytest.raises(ValueError, match="schema is only for vectors that are not in a Delta table"):
        feature(str(path), format="delta", schema="id string")
