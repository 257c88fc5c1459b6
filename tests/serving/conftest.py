"""One trained run for all tests of serving."""

import pytest

from mamdr_core.training.run import train_mamdr


@pytest.fixture(scope="package")
def run(spark, trained_config):
    """What a run of MAMDR on the session's lake says of itself."""
    return train_mamdr(spark, trained_config)
