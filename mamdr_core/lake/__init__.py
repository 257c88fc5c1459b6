"""Spark and Delta: from raw logs to sharded examples. Pure functions from DataFrame to DataFrame, and table I/O.

`core` is what all share (`core/tables.py`: the lake itself). `ingest`, `examples` and `maintenance` have a job each in
`job.py`, where to begin to read. Ingest and examples import core alone; maintenance imports core and examples.
"""
