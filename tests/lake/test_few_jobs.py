"""How many Spark jobs an ingest and a build start, most of the time of a small day, and how many rows a build reads."""

import time
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks

pytestmark = pytest.mark.slow

INGEST, BUILD, SECOND_BUILD, LATER_HOUR, INCREMENT = 5, 12, 4, 12, 18
"""Jobs at most; the aim is 10 and 20. Lower these with every job that goes."""


def test_a_clean_day_starts_few_jobs(spark, make_log, make_config, tmp_path):
    vectors = str(tmp_path / "vectors.parquet")
    ids, found = [f"u{number}" for number in range(30)], [[float(number), 1.0] for number in range(30)]
    pq.write_table(pa.table({"id": ids, "vector": pa.array(found, pa.list_(pa.float32()))}), vectors)
    source = {"name": "text", "kind": "vector", "of": "user", "size": 2, "path": vectors}
    log = [(f"u{n % 30}", f"i{n % 7}", f"d{n % 3}", str(n % 2), f"2026-01-01 10:00:{n:02d}") for n in range(60)]
    lake = {"root": str(tmp_path / "a [lake] {1}%20")}  # what would be a pattern elsewhere
    config = make_config(make_log(log), features=[source], lake=lake)
    log = [(*row, ts.replace(" 10:", " 11:")) for *row, ts in log]
    later = make_config(make_log(log, "later"), features=[source], lake=lake)
    started = spark.sparkContext._jsc.sc().dagScheduler().numTotalJobs
    counts = [started()]
    steps = (
        (ingest_clicks, config),
        (build_examples, config),
        (build_examples, config),
        (ingest_clicks, later),
        (build_examples, later),
    )
    for job, given in steps:
        job(spark, given)
        counts.append(started())
    ingest, build, second, hour, increment = (after - before for before, after in pairwise(counts))
    assert ingest <= INGEST
    assert build <= BUILD
    assert second <= SECOND_BUILD, "nothing is new"
    assert increment <= INCREMENT
    assert hour <= LATER_HOUR, "no event of the day is compared with another hour's"


def test_a_build_reads_the_clicks_of_new_loads_alone(spark, make_log, make_config):
    read = []
    for day in range(1, 5):
        log = [
            (f"u{n % 30}", f"i{n % 7}", "d", str(n % 2), f"2026-01-0{day} 10:{n // 60:02d}:{n % 60:02d}")
            for n in range(900)
        ]
        examples = {"until": f"2026-01-0{day}", "split": {"kind": "time", "val_days": 1, "test_days": 1}}
        config = make_config(make_log(log, f"day{day}"), examples=examples)
        ingest_clicks(spark, config)
        before = max(stage.stageId() for stage in stages_of(spark))
        assert build_examples(spark, config)["encoded_rows"] == 900
        read.append(sum(stage.inputRecords() for stage in stages_of(spark) if stage.stageId() > before))
    assert 900 < read[2] <= read[1] + 90
    assert read[3] <= read[1] + 90


def stages_of(spark):
    """What Spark still knows of the stages of the session, which it forgets when there are many."""
    time.sleep(0.3)  # until the store has the last stage
    jvm, gateway = spark._jvm, spark.sparkContext._gateway
    none = jvm.java.util.ArrayList()
    quantiles = gateway.new_array(gateway.jvm.double, 0)
    stages = spark.sparkContext._jsc.sc().statusStore().stageList(none, False, False, quantiles, none)
    return [stages.apply(number) for number in range(stages.size())]
