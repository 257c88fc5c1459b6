"""One trained run that all tests of serving share."""

import pytest

from mamdr_core.training.driver import train_mamdr


@pytest.fixture(scope="package")
def run(spark, trained_config):
    """The job's figures of a MAMDR run on the session's lake."""
    return train_mamdr(spark, trained_config)
