"""The process that forks the Python workers of the tests' session: it imports once what most of them would import."""

import gc

from pyspark.daemon import manager

import mamdr_core.serving.scorer  # noqa: F401

if __name__ == "__main__":
    gc.freeze()  # a worker looks for garbage after every task
    manager()
