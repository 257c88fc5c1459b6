"""How many Spark jobs an ingest and a build start: starting them takes most of the time where a day is small."""

from itertools import pairwise

import pytest

from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks

pytestmark = pytest.mark.slow

INGEST, BUILD, SECOND_BUILD, LATER_HOUR, INCREMENT = 10, 42, 5, 14, 30
"""Jobs at most; the aim is 10 and 20. Lower these with every job that goes."""


def test_a_clean_day_starts_few_jobs(spark, make_log, make_config, tmp_path):
    vectors = str(tmp_path / "vectors")
    rows = [(f"u{number}", [float(number), 1.0]) for number in range(30)]
    spark.createDataFrame(rows, "id string, vector array<float>").write.parquet(vectors)
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
