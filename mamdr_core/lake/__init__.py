"""Spark and Delta: from raw logs to sharded examples. Pure functions from DataFrame to DataFrame, and table I/O.

`core` is what all share (`core/tables.py`: the lake itself); `ingest`, `examples` and `maintenance` hold a job each,
in `job.py`, where to begin to read. Of these, ingest knows core alone, examples too, and maintenance knows examples.
"""
