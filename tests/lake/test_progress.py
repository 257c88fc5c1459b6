"""Long jobs say how far they are; short ones say nothing."""

import logging
import re
import time

import pytest

from mamdr_core.lake.core import progress as module
from mamdr_core.lake.core.progress import progress

pytestmark = pytest.mark.slow


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger=module.__name__)
    return lambda: [record.getMessage() for record in caplog.records if record.name == module.__name__]


def slow_rows(spark, tasks, seconds):
    def wait(batches):
        for batch in batches:
            time.sleep(seconds)
            yield batch

    return spark.range(0, 100 * tasks, 1, tasks).mapInArrow(wait, "id long")


def test_a_long_write_logs_tasks_rows_rate_and_remaining_time(spark, lines, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "EVERY", 0.2)
    with progress(spark, "numbers"):
        slow_rows(spark, 9, 0.5).write.parquet(str(tmp_path / "numbers"))
    pattern = r"numbers: stage \d+: (\d) of 9 tasks in 0:00:\d\d, (\d+) rows written \([\d,]+/s\), about 0:00:\d\d left"
    found = [re.fullmatch(pattern, line) for line in lines()]
    shares = [tuple(map(int, match.groups())) for match in found if match]
    assert shares
    # Some tasks are done, so some rows are written and some time is left.
    assert all(0 < tasks <= 9 and rows == 100 * tasks for tasks, rows in shares)


def test_a_stage_without_a_finished_task_gives_no_forecast(spark, lines, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.3)
    with progress(spark, "numbers"):
        slow_rows(spark, 1, 1.0).count()
    assert re.fullmatch(r"numbers: stage \d+: 0 of 1 tasks in 0:00:\d\d", lines()[0])


def test_a_short_job_and_an_idle_session_say_nothing(spark, lines, monkeypatch):
    with progress(spark, "numbers"):
        spark.range(10).count()
    monkeypatch.setattr(module, "EVERY", 0.05)
    with progress(spark, "nothing"):
        time.sleep(0.3)
    assert lines() == []


def test_it_stops_with_the_block_also_when_that_fails(spark, lines, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.05)
    with pytest.raises(ZeroDivisionError), progress(spark, "numbers"):
        raise ZeroDivisionError
    spark.range(0, 4, 1, 4).count()
    assert lines() == []
