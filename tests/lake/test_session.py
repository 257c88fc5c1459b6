"""Settings of the session for few and for many rows."""

import pytest

from mamdr_core.lake.core.session import FEW, READS_A_CORE, ROWS_A_TASK, overriding, settings_for

pytestmark = pytest.mark.slow

SHUFFLE, READ = "spark.sql.shuffle.partitions", "spark.sql.files.minPartitionNum"


def test_many_rows_get_several_tasks_a_core_and_larger_settings_stay(spark):
    cores = spark.sparkContext.defaultParallelism
    assert settings_for(spark, 5 * ROWS_A_TASK) == {SHUFFLE: 5, READ: READS_A_CORE * cores}
    with overriding(spark, {SHUFFLE: 700, READ: 500}):
        assert settings_for(spark, 5 * ROWS_A_TASK) == {SHUFFLE: 700, READ: 500}
    assert spark.conf.get(READ, None) is None
    assert settings_for(spark, 10) == FEW
