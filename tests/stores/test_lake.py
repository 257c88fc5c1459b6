"""A lake in an object store, against a real server to which the connection can be lost."""

import json

import numpy as np
import pytest

from mamdr_core.config.job_config import parse_config
from mamdr_core.config.training import ReaderName
from mamdr_core.lake.core.session import storage_errors
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.lake.maintenance.job import maintain_lake
from mamdr_core.lake.stats import domain_stats
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import pin_examples
from schemas import SPLITS
from tests.stores.conftest import client, configure
from tests.stores.proxy import Proxy

pytestmark = pytest.mark.slow
CUT = "mamdr-cut"
IMPATIENT = {"attempts.maximum": "1", "retry.limit": "1", "retry.interval": "10ms", "connection.timeout": "5s"}


@pytest.fixture(scope="module")
def proxy(spark, store):
    """The way to a bucket of its own, since Hadoop keeps a bucket's settings."""
    client(store).create_bucket(Bucket=CUT)
    proxy = Proxy(int(store.rpartition(":")[2]))
    configure(spark, CUT, f"http://127.0.0.1:{proxy.port}", **IMPATIENT)
    return proxy


@pytest.fixture(scope="module")
def make_config(proxy, tmp_path_factory):
    """Configures a lake with a log of 60 clicks of a day on two domains."""
    raw = tmp_path_factory.mktemp("raw")

    def make(day):
        rows = [
            {"user": f"u{n % 7}", "item": f"i{n % 11}", "domain": f"d{n % 2}", "label": n % 3 % 2,
             "ts": f"2026-01-0{day} 00:{n:02d}:00"}
            for n in range(60)
        ]  # fmt: skip
        path = raw / f"{day}.json"
        path.write_text("\n".join(json.dumps(row) for row in rows))
        columns = {"label": "label", "event_time": "timestamp(ts)"}
        return parse_config(
            {
                "lake": {"root": f"s3a://{CUT}/my lake"},
                "input": {"path": str(path), "format": "json", "columns": columns},
                "examples": {"shards": {"count": 2}},
            }
        )

    return make


@pytest.fixture(scope="module")
def lake(spark, make_config):
    assert ingest_clicks(spark, make_config(1))["clicks"] == 60
    return Lake(spark, make_config(1).lake.root)


def test_examples_are_built_and_read_back_by_a_rank_with_either_reader(spark, make_config, lake):
    assert build_examples(spark, make_config(1))["examples"] == 60
    pinned = pin_examples(spark, lake.root, ())
    assert pinned.files[0].url.startswith(f"s3a://{CUT}/my%20lake/examples/")
    for reader in ReaderName.__args__:
        share = Share(pinned, (), np.ones(2, dtype=np.bool_), reader=reader)
        read = [share.columns(split) for split in SPLITS]
        assert sum(len(columns.labels) for columns in read) == 60
        assert sum(int(columns.labels.sum()) for columns in read) == 20


@pytest.mark.parametrize(
    "cut_at", [b"PUT /mamdr-cut/my%20lake/clicks/ds%3D", b"PUT /mamdr-cut/my%20lake/clicks/_delta_log/"]
)
def test_a_connection_cut_in_the_middle_of_a_write_leaves_the_table_as_it_was(spark, make_config, lake, proxy, cut_at):
    """While a data file is written, and while the commit is."""
    before = lake.version("clicks"), lake.read("clicks").count()
    proxy.cut_at(cut_at)
    try:
        with pytest.raises(MamdrError, match=r"^the connection to an object store was lost; run it again"):
            ingest_clicks(spark, make_config(2))
    finally:
        proxy.restore()
    assert proxy.cuts > 0
    assert (lake.version("clicks"), lake.read("clicks").count()) == before


def test_run_again_the_load_is_there_once(spark, make_config, lake):
    assert ingest_clicks(spark, make_config(2))["clicks"] == 60
    days = {str(row["ds"]): row["count"] for row in lake.read("clicks").groupBy("ds").count().collect()}
    assert days == {"2026-01-01": 60, "2026-01-02": 60}


def test_a_build_that_loses_the_store_fails_and_leaves_the_examples_unchanged(spark, make_config, lake, proxy):
    before = lake.version("examples"), lake.read("examples").count()
    proxy.cut_at(b"PUT /mamdr-cut/my%20lake/examples/")
    try:
        with pytest.raises(MamdrError, match=r"^the connection to an object store was lost"), storage_errors():
            build_examples(spark, make_config(2))
    finally:
        proxy.restore()
    assert proxy.cuts > 0
    assert (lake.version("examples"), lake.read("examples").count()) == before


def test_small_files_are_joined_and_statistics_made(spark, make_config, lake):
    assert domain_stats(spark, make_config(1))["rows"] > 0
    figures = maintain_lake(spark, make_config(1))
    assert figures["tables"]["clicks"]["files_after"] >= 2


def test_what_is_not_there_or_not_known_is_a_clear_error(spark, proxy):
    configure(spark, "nowhere", f"http://127.0.0.1:{proxy.port}", **IMPATIENT)
    with pytest.raises(
        MamdrError, match=r"^'s3a://nowhere/lake': it cannot be reached \(.*bucket.*docs/object_stores.md"
    ):
        Lake(spark, "s3a://nowhere/lake")
    with pytest.raises(MamdrError, match=r"^'gs://lake/mine': the JARs of such a store are not on Spark's class path"):
        Lake(spark, "gs://lake/mine")
