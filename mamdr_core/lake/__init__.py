"""From raw logs to sharded examples, with Spark and Delta: functions from DataFrame to DataFrame, and table I/O.

`ingest`, `examples` and `maintenance` each have a job in `job.py`: start there. They share `core`, in which `tables.py`
is the lake itself.
"""
