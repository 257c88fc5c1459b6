"""The jobs, one file each. `spark-submit jobs/NAME.py` runs one; with the wheel, `mamdr NAME` does.

A job imports what it runs inside its function, so that --help, --print-config and user errors take no time.
"""
